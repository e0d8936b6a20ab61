"""The demo's manifest and what it says at its end."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tools import demo, demo_manifest, demo_report
from tools.demo_manifest import Host
from tools.demo_watch import Narrator, pace
from training.fleet import bundle, manifest
from training.fleet.manifest import Manifest
from training.fleet.types import Capability

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / "etc" / "training_manifest.toml.example").read_text(encoding="utf-8")
PIN = json.loads((ROOT / "datasets" / "lab-v1.json").read_text(encoding="utf-8"))
PACKED = str(ROOT / "datasets" / PIN["file"])


def loaded(folder: Path, host: Host, *, without_gpu: bool) -> Manifest:
    path = folder / "demo.toml"
    text = demo_manifest.manifest(EXAMPLE, PIN["dataset_id"], PACKED, host, without_gpu=without_gpu)
    path.write_text(text, encoding="utf-8")
    return manifest.load(path)


def test_the_full_demo_has_the_examples_fourteen_jobs_for_one_host_with_two_slots(tmp_path: Path) -> None:
    made = loaded(tmp_path, Host("here", (), 2), without_gpu=False)
    assert len(made.jobs) == 14
    assert {name: host.slots for name, host in made.hosts.items()} == {"here": 2}


def test_without_a_gpu_no_job_asks_for_one(tmp_path: Path) -> None:
    made = loaded(tmp_path, Host("here", (), 2), without_gpu=True)
    assert len(made.jobs) == 14
    assert [job.name for job in made.jobs if job.require_cuda or job.min_vram_gib] == []


def test_with_a_gpu_the_jobs_stay_as_the_example_states_them(tmp_path: Path) -> None:
    made = loaded(tmp_path, Host("here", ()), without_gpu=False)
    assert {job.model for job in made.jobs if job.require_cuda} == {"transformer"}


def test_what_is_left_out_for_want_of_a_gpu_changes_no_jobs_identity(tmp_path: Path) -> None:
    ids = [
        [job.job_id for job in loaded(tmp_path, Host("here", ()), without_gpu=gone).jobs]
        for gone in (False, True)
    ]
    assert ids[0] == ids[1]


def test_the_short_demos_host_may_run_the_named_models_only(tmp_path: Path) -> None:
    made = loaded(tmp_path, Host("here", ("gbt", "mlp")), without_gpu=False)
    assert tuple(made.hosts["here"].allow_jobs) == ("gbt", "mlp")


def test_a_name_with_quotes_stays_one_name() -> None:
    name = 'a"b\\c'
    assert tomllib.loads(f"name = {demo_manifest.quoted(name)}") == {"name": name}


def test_an_example_without_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no \[\[jobs\]\]"):
        demo_manifest.manifest("name = 1\n", "0" * 64, "x", Host("here", ()), without_gpu=False)


def stored(models: Path, model: str, mode: str, roc_auc_active: float) -> dict[str, str]:
    """A finished job whose artifact lies in the store, as the receiver lists it."""
    job = {"model": model, "mode": mode, "status": "completed", "artifact_id": "a" * 64}
    files = models / "files" / model / mode
    files.mkdir(parents=True)
    (files / "metrics.json").write_text(
        json.dumps({"test": {"roc_auc_active": roc_auc_active}}), encoding="utf-8"
    )
    archive = demo_report.bundle_path(models, job)
    archive.parent.mkdir(parents=True)
    bundle.pack(files, archive)
    return job


def test_the_gap_is_oracle_minus_realistic_of_one_model(tmp_path: Path) -> None:
    jobs = [stored(tmp_path, "gbt", "realistic", 0.625), stored(tmp_path, "gbt", "oracle", 0.875)]
    assert demo_report.gap_lines(jobs, tmp_path)[-1].split() == ["gbt", "0.625", "0.875", "+0.250"]


def test_a_model_without_its_other_mode_has_no_gap(tmp_path: Path) -> None:
    assert demo_report.gap_lines([stored(tmp_path, "mlp", "oracle", 0.9)], tmp_path) == []


def test_without_torch_the_full_demo_stops_before_the_last_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    kept = tmp_path / "kept-result"
    kept.write_text("of the last demo")
    (tmp_path / ".cis490-demo").write_text("made by the demo")
    assert demo.main(["--full", "--folder", str(tmp_path)]) == 1
    assert kept.exists()
    assert "has no torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "left_out"),
    [
        (Capability(has_cuda=False), True),
        (Capability(has_cuda=True, vram_gib=4.0), True),  # less than the example asks for
        (Capability(has_cuda=True, vram_gib=5.8), False),  # sold as 6 GB
        (Capability(has_cuda=True, vram_gib=80.0), False),
    ],
)
def test_what_this_machine_has_no_gpu_for_is_left_out(found: Capability, left_out: bool) -> None:
    assert demo.lacks_gpu(found, manifest.load(demo.EXAMPLE).jobs, Narrator()) is left_out


@pytest.mark.parametrize(
    ("done", "over", "told"),
    [
        (0.0, 0, "[..........] 0 of 4 over"),
        (0.05, 0, "[..........] 0 of 4 over"),
        (0.5, 0, "[#.........] 0 of 4 over, 3.0 jobs/min, 1 min 10 s left"),
        (2.0, 2, "[#####.....] 2 of 4 over, 12.0 jobs/min, 10 s left"),
        (4.0, 4, "[##########] 4 of 4 over"),
    ],
)
def test_the_demo_tells_its_rate_and_the_time_left(done: float, over: int, told: str) -> None:
    assert pace(done, over, 4, 10.0) == told


def test_jobs_that_were_over_before_make_no_rate() -> None:
    assert pace(3.0, 3, 5, 10.0, kept=2) == "[######....] 3 of 5 over, 6.0 jobs/min, 20 s left"


def job(name: str, status: str, last_error: str = "") -> dict[str, str]:
    return {"name": name, "status": status, "last_error": last_error}


def test_a_failed_job_is_not_buried_under_those_that_were_not_begun() -> None:
    jobs = [
        job("gbt-oracle", "completed"),
        job("mlp-oracle", "failed", "no such file"),
        *[job("x", "pending")] * 9,
    ]
    assert demo_report.failure_lines(jobs) == [
        "", "mlp-oracle failed: no such file", "", "9 jobs were not over when the demo stopped."
    ]  # fmt: skip


def test_when_everything_was_trained_there_is_no_failure_to_tell() -> None:
    assert demo_report.failure_lines([job("gbt-oracle", "completed")]) == []
