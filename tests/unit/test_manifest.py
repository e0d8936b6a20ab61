"""The manifest loader: what a good manifest means, key by key. Broken ones: test_manifest_messages.py."""

import hashlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

from training.fleet.identity import job_id
from training.fleet.manifest import (
    DATASET_KEYS,
    POLICY_KEYS,
    TOP_KEYS,
    HostSpec,
    JobSpec,
    Manifest,
    TrainingManifestError,
    load,
    load_canonical,
    loads,
)
from training.fleet.manifest_hosts import CAPABILITY_KEYS, GPU_KEYS, HOST_KEYS
from training.fleet.manifest_jobs import JOB_KEYS
from training.fleet.manifest_retention import RETENTION_KEYS
from training.fleet.types import Capability, DatasetPin, Gpu, Policy, Retention
from training.trainer.options import MODELS, MODES, SEED_MAX

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "etc" / "training_manifest.toml.example"
REFERENCE = ROOT / "docs" / "manifest.md"
JOB = '[[jobs]]\nmodel = "mlp"\nmode = "oracle"\n'
DATASET_ID = "0123456789abcdef" * 4


def only_job(text: str) -> JobSpec:
    (job,) = loads(text).jobs
    return job


def only_host(text: str) -> HostSpec:
    (host,) = loads(text).hosts.values()
    return host


# --- The example --------------------------------------------------------------------------------


def may_run(host: HostSpec, model: str) -> bool:
    return model not in host.deny_jobs and (not host.allow_jobs or model in host.allow_jobs)


def test_the_example_has_the_labs_14_jobs_under_their_usual_names() -> None:
    manifest = load(EXAMPLE)

    assert sorted(job.name for job in manifest.jobs) == sorted(
        f"{m}-{mode}" for m in MODELS for mode in MODES
    )
    assert len({job.job_id for job in manifest.jobs}) == 14


def test_the_examples_cpu_host_is_eligible_by_model_for_exactly_4_jobs() -> None:
    manifest = load(EXAMPLE)
    host = manifest.hosts["cpu-box-1"]

    eligible = [job.name for job in manifest.jobs if may_run(host, job.model) and not job.require_cuda]

    assert host.allow_jobs == ("gbt", "mlp")
    assert host.capability.has_cuda is False
    assert eligible == ["gbt-realistic", "gbt-oracle", "mlp-realistic", "mlp-oracle"]


def test_the_examples_receiver_trains_nothing_and_its_gpu_host_everything() -> None:
    manifest = load(EXAMPLE)

    counts = {name: sum(may_run(host, m) for m in MODELS) for name, host in manifest.hosts.items()}

    assert counts == {"pi-receiver": 0, "cpu-box-1": 2, "gpu-box-1": 7, "win-lab-1": 6}


def test_the_example_pins_no_data_set_and_keeps_the_strict_policy() -> None:
    manifest = load(EXAMPLE)

    assert manifest.dataset is None
    assert manifest.policy == Policy()


def test_what_the_example_shows_in_comments_is_valid_too() -> None:
    text = EXAMPLE.read_text("utf-8")
    second_job = text[text.index("# [[jobs]]") :]

    manifest = loads(text + re.sub(r"(?m)^# ?", "", second_job))

    assert manifest.jobs[14].name == "gbt-realistic-small"


# --- The whole file -----------------------------------------------------------------------------


def test_a_manifest_needs_nothing_but_a_key() -> None:
    manifest = loads('name = "lab"')

    assert manifest == Manifest(
        name="lab",
        hosts={},
        jobs=(),
        path="manifest.toml",
        digest=hashlib.sha256(b'name = "lab"').hexdigest(),
    )


def test_a_manifest_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "night-run.toml"
    path.write_text(JOB)

    manifest = load(path)

    assert (manifest.name, manifest.path) == ("night-run", str(path))


def test_a_manifest_whose_file_name_is_no_name_gets_the_projects() -> None:
    assert loads(JOB, where="/etc/my manifest.toml").name == "cis490"


def test_the_digest_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b"# \xc3\xa9\r\nname = 'lab'\r\n")

    assert load(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Windows editors write one."""
    path = tmp_path / "m.toml"
    path.write_bytes(b"\xef\xbb\xbf" + JOB.encode())

    assert load(str(path)).jobs[0].line == 1


def test_the_canonical_manifest_is_the_one_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.toml"
    path.write_text('name = "from-the-environment"')
    monkeypatch.setenv("CIS490_TRAINING_MANIFEST", str(path))

    assert load_canonical().name == "from-the-environment"


def test_without_the_variable_the_canonical_manifest_lies_in_etc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.manifest.CANONICAL_PATH", str(EXAMPLE))
    monkeypatch.setenv("CIS490_TRAINING_MANIFEST", "")

    assert load_canonical().path == str(EXAMPLE)


# --- Jobs ---------------------------------------------------------------------------------------


def test_a_job_of_model_and_mode_has_every_default() -> None:
    assert only_job("\n" + JOB) == JobSpec(
        job_id=job_id(
            model="mlp", mode="oracle", hyper={}, split_recipe="host_disjoint", train_hosts=[], seed=0
        ),
        model="mlp",
        mode="oracle",
        hyper={},
        split_recipe="host_disjoint",
        train_hosts=(),
        seed=0,
        name="mlp-oracle",
        line=2,
    )


def test_a_job_with_every_key_is_read_as_written() -> None:
    text = JOB + (
        f'name = "mine"\nhyper = {{ hidden = [8, 4.0], dropout = 0.5 }}\nsplit_recipe = "random_group"\n'
        f'train_hosts = ["lab-b", "lab-a", "lab-b"]\nseed = {SEED_MAX}\npriority = -7\nrequire_cuda = true\n'
        'prefer_cuda = true\nmin_vram_gib = 24\nmin_ram_gib = 1.5\nallowed_hosts = ["z", "a"]\n'
        'timeout_s = 60\nstall_s = 5.5\non_change = "retrain"\n'
    )

    job = only_job(text)

    assert job.name == "mine"
    assert job.hyper == {"dropout": 0.5, "hidden": [8, 4]}
    assert job.split_recipe == "random_group"
    assert job.train_hosts == ("lab-a", "lab-b")
    assert job.seed == SEED_MAX
    assert job.priority == -7
    assert (job.require_cuda, job.prefer_cuda) == (True, True)
    assert (job.min_vram_gib, job.min_ram_gib) == (24.0, 1.5)
    assert job.allowed_hosts == ("a", "z")
    assert (job.timeout_s, job.stall_s) == (60.0, 5.5)
    assert job.on_change == "retrain"


def test_hyper_values_keep_their_defaults_if_written_and_get_one_spelling() -> None:
    job = only_job(JOB + "hyper = { epochs = 60.0, learning_rate = 1e-3, batch_size = 16.0 }\n")

    assert repr(job.hyper) == "{'batch_size': 16, 'epochs': 60, 'learning_rate': 0.001}"


@pytest.mark.parametrize(
    "line",
    [
        'name = "x"',
        "priority = 3",
        "require_cuda = true",
        "prefer_cuda = true",
        "min_vram_gib = 1",
        "min_ram_gib = 1",
        'allowed_hosts = ["a"]',
        "timeout_s = 1",
        "stall_s = 1",
        'on_change = "retrain"',
        "hyper = { dropout = 0.30, epochs = 60.0 }",
        "train_hosts = []",
        "seed = 0",
    ],
)
def test_constraints_and_defaults_leave_the_id_alone(line: str) -> None:
    assert only_job(JOB + line).job_id == only_job(JOB).job_id


@pytest.mark.parametrize(
    "line",
    [
        "hyper.dropout = 0.1",
        'split_recipe = "random_group"',
        'train_hosts = ["a"]',
        "seed = 1",
    ],
)
def test_what_a_job_is_changes_the_id(line: str) -> None:
    assert only_job(JOB + line).job_id != only_job(JOB).job_id


def test_vram_may_be_asked_for_without_require_cuda() -> None:
    """It needs a GPU of that size all the same; matching says so, the manifest need not."""
    assert only_job(JOB + "min_vram_gib = 8").min_vram_gib == 8.0


def test_both_cuda_wishes_together_are_no_contradiction() -> None:
    assert only_job(JOB + "require_cuda = true\nprefer_cuda = true").require_cuda


def test_train_hosts_may_name_hosts_that_only_record() -> None:
    assert only_job("[hosts.a]\n" + JOB + 'train_hosts = ["recorder"]').train_hosts == ("recorder",)


def test_allowed_hosts_may_name_any_host_while_none_is_declared() -> None:
    assert only_job(JOB + 'allowed_hosts = ["later"]').allowed_hosts == ("later",)


def test_allowed_hosts_may_name_any_host_where_unknown_hosts_are_let_in() -> None:
    text = '[policy]\nunknown_hosts = "allow"\n[hosts.a]\n' + JOB + 'allowed_hosts = ["guest"]'

    assert only_job(text).allowed_hosts == ("guest",)


def test_jobs_keep_the_manifests_order_and_know_their_lines() -> None:
    manifest = loads(JOB + "\n" + JOB.replace("oracle", "realistic"))

    assert [(job.name, job.line) for job in manifest.jobs] == [("mlp-oracle", 1), ("mlp-realistic", 5)]


def test_every_field_of_a_job_but_id_and_lines_is_a_key() -> None:
    assert set(JOB_KEYS) | {"job_id", "line", "lines"} == {field.name for field in fields(JobSpec)}


# --- Hosts --------------------------------------------------------------------------------------


def test_a_host_of_a_name_may_run_everything() -> None:
    assert only_host('[[hosts]]\nname = "a"') == HostSpec("a", lines={"": 1, "name": 2})


def test_both_ways_to_write_hosts_mean_the_same() -> None:
    listed = loads('[[hosts]]\nname = "a"\nslots = 2\n[[hosts]]\nname = "b"\n')
    named = loads('[hosts.a]\nname = "a"\nslots = 2\n[hosts.b]\nname = "b"\n')

    assert listed.hosts == named.hosts


def test_a_host_with_every_key_is_read_as_written() -> None:
    host = only_host(
        '[hosts.lab-1]\nallow_jobs = ["mlp", "gbt", "mlp"]\ndeny_jobs = ["gbt"]\nslots = 64\nforce = true\n'
        '[hosts.lab-1.capability]\nhostname = "lab-1"\nos = "linux"\narch = "x86_64"\ncores = 8\nram_gib = 16\n'
        'has_cuda = true\ngpus = [{ name = "T4", vram_gib = 16 }, { name = "P4", vram_gib = 8 }]\n'
        'vram_gib = 16.0\ntorch_version = "2.6"\npython_version = "3.11"\ngit_commit = "abc"\n'
        f'models = ["gbt"]\ntrainer_digest = "{DATASET_ID}"\n'
    )

    assert host == HostSpec(
        name="lab-1",
        allow_jobs=("gbt", "mlp"),
        deny_jobs=("gbt",),
        capability=Capability(
            hostname="lab-1",
            os="linux",
            arch="x86_64",
            cores=8,
            ram_gib=16.0,
            has_cuda=True,
            gpus=[Gpu("T4", 16.0), Gpu("P4", 8.0)],
            vram_gib=16.0,
            torch_version="2.6",
            python_version="3.11",
            git_commit="abc",
            models=["gbt"],
            trainer_digest=DATASET_ID,
        ),
        force=True,
        slots=64,
        lines={"": 1, "allow_jobs": 2, "deny_jobs": 3, "slots": 4, "force": 5, "capability": 6},
    )


def test_a_declared_capability_may_say_that_there_is_no_gpu() -> None:
    host = only_host("[hosts.a]\ncapability = { has_cuda = false, vram_gib = 0, gpus = [], models = [] }")

    assert host.capability == Capability(has_cuda=False, vram_gib=0.0, gpus=[], models=[])


def test_an_empty_hosts_table_declares_none() -> None:
    assert loads("hosts = {}").hosts == {}


# --- Policy and data set ------------------------------------------------------------------------


def test_a_policy_is_read_as_written() -> None:
    text = (
        '[policy]\nunknown_hosts = "allow"\ntrainer = "any"\nprefer_cuda_grace_s = 0\nsame_host_s = 1.5\n'
        "max_failures = 1\nmax_host_losses = 9\npause_after_failures = 0\n"
    )

    assert loads(text).policy == Policy("allow", "any", 0.0, 1.5, 1, 9, 0)


def test_every_field_of_the_policy_is_a_key() -> None:
    assert {field.name for field in fields(Policy)} == set(POLICY_KEYS)


def test_a_data_set_is_found_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lab.tar.zst").touch()
    path = tmp_path / "m.toml"
    path.write_text(f'[dataset]\nid = "{DATASET_ID}"\nfile = "data/lab.tar.zst"\n')

    assert load(path).dataset == DatasetPin(DATASET_ID, str(tmp_path / "data" / "lab.tar.zst"))


def test_a_data_set_may_be_named_by_its_full_path(tmp_path: Path) -> None:
    file = tmp_path / "lab.tar.zst"
    file.touch()

    pin = loads(f"[dataset]\nid = '{DATASET_ID}'\nfile = '{file}'\n").dataset

    assert pin == DatasetPin(DATASET_ID, str(file))


def test_a_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(TrainingManifestError, match="expected a file; there is none at"):
        loads(f"[dataset]\nid = '{DATASET_ID}'\nfile = '.'\n", folder=tmp_path)


# --- Retention ------------------------------------------------------------------------------------


def test_what_has_no_rule_is_kept_for_ever() -> None:
    assert loads(JOB).retention == Retention(None, None, None, None)
    assert loads("[retention]\nlog_days = 30\n" + JOB).retention == Retention(log_days=30.0)


# --- The reference ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *TOP_KEYS,
        *JOB_KEYS,
        *HOST_KEYS,
        *POLICY_KEYS,
        *(f"capability.{key}" for key in CAPABILITY_KEYS),
        *(f"capability.gpus[].{key}" for key in GPU_KEYS),
        *(f"dataset.{key}" for key in DATASET_KEYS),
        *(f"retention.{key}" for key in RETENTION_KEYS),
    ],
)
def test_every_key_stands_in_the_reference(key: str) -> None:
    assert f"| `{key}` |" in REFERENCE.read_text("utf-8")


@pytest.mark.parametrize(
    "key", ["require_cuda", "prefer_cuda", "priority", "min_ram_gib", "name", "on_change"]
)
def test_a_number_too_long_to_be_printed_is_a_fault_like_any_other(key: str) -> None:
    endless = "0x" + "f" * 5000  # Python refuses to write it in decimal
    with pytest.raises(TrainingManifestError) as caught:
        loads(f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n{key} = {endless}\n')
    assert "a huge whole number" in str(caught.value)


def test_a_file_read_before_is_judged_again_when_its_data_set_has_gone(tmp_path: Path) -> None:
    packed, path = tmp_path / "lab.tar.zst", tmp_path / "manifest.toml"
    packed.write_bytes(b"packed")
    path.write_text(f'[dataset]\nid = "{DATASET_ID}"\nfile = "lab.tar.zst"\n')
    assert load(path).dataset == load(path).dataset == DatasetPin(DATASET_ID, str(packed))
    packed.unlink()
    with pytest.raises(TrainingManifestError, match=r"there is none at .*lab\.tar\.zst"):
        load(path)
