"""The trainer as the worker runs it: real processes, real files, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from tests.factories.episodes import Recipe, episode_bytes, recipes, write_dataset, write_episode
from training.trainer.options import LEAKY_RECIPES, MODELS, SPLIT_RECIPES

ROOT = Path(__file__).resolve().parents[2]
TORCH_FREE = tuple(sorted(name for name, model in MODELS.items() if "torch" not in model.needs.libraries))
QUICK = {
    "gbt": {"rounds": 20, "min_data_in_leaf": 5},
    "mlp": {"epochs": 5, "hidden": [8]},
    "rocket": {"num_features": 840},
}
PLOTS = {
    f"plots/{name}.{kind}"
    for name in ("roc", "pr", "confusion", "calibration", "delay", "families")
    for kind in ("svg", "csv")
}
COMMON_FILES = {
    "metrics.json",
    "config.json",
    "preprocess.json",
    "split.json",
    "leakage.json",
    "model_card.md",
    "predictions.csv",
    *PLOTS,
}
TENSORS = {"model.safetensors", "arch.json"}
MODEL_FILES = {"gbt": {"model.lgb.txt"}, "mlp": TENSORS, "rocket": TENSORS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.trainer.run", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(**env), timeout=120, check=False
    )


def spec_file(folder: Path, model: str, **more: object) -> Path:
    path = folder / f"{model}.json"
    job = {"model": model, "mode": "realistic", "hyper": QUICK.get(model, {}), "seed": 1, "name": "x", **more}
    path.write_text(json.dumps(job))
    return path


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def events(path: Path) -> list[dict[str, object]]:
    return [cast(dict[str, object], json.loads(line)) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("model", TORCH_FREE)
def test_two_fresh_processes_leave_identical_bytes(model: str, data: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, model)
    results: list[Mapping[str, bytes]] = []
    for hash_seed, threads in (("1", "1"), ("2", "2")):
        out = tmp_path / hash_seed
        done = run(
            "--spec", spec, "--data", data, "--out", out, "--threads", threads, PYTHONHASHSEED=hash_seed
        )
        assert done.returncode == 0, done.stderr
        results.append(contents(out))
    assert results[0] == results[1]
    assert set(results[0]) == COMMON_FILES | MODEL_FILES[model]


def test_a_run_reports_progress_results_and_a_closing_sentence(data: Path, tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    done = run(
        "--spec",
        spec_file(tmp_path, "gbt"),
        "--data",
        data,
        "--out",
        tmp_path / "o",
        "--progress-file",
        progress,
    )
    lines = [line for line in events(progress) if line["event"] != "warn"]
    assert lines[0] == {"event": "start", "total": 20, "unit": "round", "v": 1}
    assert [line["step"] for line in lines if line["event"] == "progress"][-1] == 20
    assert [line["event"] for line in lines[-2:]] == ["result", "end"]
    assert lines[-1]["exit_code"] == 0
    assert last_line(done).startswith("run: trained gbt-realistic: test ROC-AUC")


def test_the_artifact_tells_nothing_of_this_machine(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("--spec", spec_file(tmp_path, "gbt"), "--data", data, "--out", out)
    everything = b"".join(contents(out).values())
    for secret in (str(tmp_path), str(data), os.uname().nodename, sys.version.split()[0], str(ROOT)):
        assert secret.encode() not in everything


def test_options_on_the_command_line_win_over_the_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "--spec", spec_file(tmp_path, "mlp"), "--mode", "oracle", "--hidden", "4,4", "--epochs", "2",
        "--train-hosts", "lab-a,lab-b", "--data", data, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((out / "config.json").read_text())
    assert (config["mode"], config["train_hosts"]) == ("oracle", ["lab-a", "lab-b"])
    assert (config["hyper"]["hidden"], config["hyper"]["epochs"]) == ([4, 4], 2)
    assert json.loads((out / "arch.json").read_text())["sizes"][1:] == [4, 4, 1]


@pytest.mark.parametrize("model", TORCH_FREE)
def test_a_trained_artifact_scores_another_recording_and_its_own_test_side_alike(
    model: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("--spec", spec_file(tmp_path, model, train_hosts=["lab-a", "lab-b"]), "--data", data, "--out", out)
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    (held_out / "lab-c").symlink_to(data / "lab-c")
    command = [
        sys.executable,
        "-m",
        "training.trainer.score",
        "--artifact",
        str(out),
        "--data",
        str(held_out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    scored, trained = json.loads(done.stdout), json.loads((out / "metrics.json").read_text())["test"]
    assert {name: scored[name] for name in trained} == trained


def test_scoring_a_folder_that_is_no_artifact_says_so(data: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.trainer.score",
        "--artifact",
        str(tmp_path),
        "--data",
        str(data),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert done.returncode == 65
    assert "pass the folder of a trained artifact" in last_line(done)


# --- describe ---


def test_describe_says_what_the_trainer_can_do_without_heavy_imports(tmp_path: Path) -> None:
    for name in ("numpy", "lightgbm", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = run("--describe", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["protocol"] == 1
    assert len(described["trainer_digest"]) == 64
    assert set(described["models"]) == set(MODELS)
    assert all(model["implemented"] for model in described["models"].values())
    assert described["models"]["gbt"]["modes"] == ["realistic", "oracle"]
    assert described["models"]["gbt"]["needs"]["libraries"] == ["numpy", "lightgbm"]
    assert described["split_recipes"] == dict(SPLIT_RECIPES)
    assert set(described["leaky_recipes"]) == LEAKY_RECIPES


def test_help_names_every_option(tmp_path: Path) -> None:
    text = run("--help").stdout
    for model in MODELS.values():
        for name in model.options:
            assert "--" + name.replace("_", "-") in text


# --- exit codes ---


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last_line(done)


def test_64_for_a_wrong_command_line(data: Path, tmp_path: Path) -> None:
    refused(run("--nonsense"), 64, "--nonsense", "--help")
    refused(run("--model", "gbt", "--mode", "oracle", "--data", data), 64, "--out")
    refused(run("--spec", tmp_path / "none.json", "--data", data, "--out", tmp_path), 64, "none.json")


def test_65_for_an_episode_cut_short_names_the_file(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", recipes(per_host=4))
    write_episode(folder, "lab-a/zz", episode_bytes(Recipe("lab-a", "web", 9, suspicious=False))[:-1])
    done = run("--spec", spec_file(tmp_path, "gbt"), "--data", folder, "--out", tmp_path / "o")
    refused(done, 65, "zz.episode", "cut short")


def test_66_for_missing_data_is_also_the_last_progress_line(tmp_path: Path) -> None:
    progress = tmp_path / "p"
    done = run(
        "--spec",
        spec_file(tmp_path, "gbt"),
        "--data",
        tmp_path / "no",
        "--out",
        tmp_path,
        "--progress-file",
        progress,
    )
    refused(done, 66, "no such folder")
    assert [(line["event"], line["exit_code"]) for line in events(progress)] == [("end", 66)]


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        ("raise ModuleNotFoundError('No module named lightgbm', name='lightgbm')", "pip install lightgbm"),
        ("raise OSError('libgomp.so.1: cannot open shared object file')", "apt-get install libgomp1"),
    ],
)
def test_69_for_a_library_that_is_missing_says_what_to_install(
    data: Path, tmp_path: Path, fake: str, expected: str
) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "lightgbm.py").write_text(fake)
    spec = spec_file(tmp_path, "gbt")
    path = f"{fakes}{os.pathsep}{ROOT}"
    refused(run("--spec", spec, "--data", data, "--out", tmp_path / "o", PYTHONPATH=path), 69, expected)


def fake_torch(folder: Path, text: str) -> str:
    """A module search path on which torch is this."""
    fakes = folder / "fakes"
    fakes.mkdir()
    (fakes / "torch.py").write_text(text)
    return f"{fakes}{os.pathsep}{ROOT}"


def test_69_for_a_deep_model_without_torch_says_what_to_install(data: Path, tmp_path: Path) -> None:
    path = fake_torch(tmp_path, "raise ModuleNotFoundError('No module named torch', name='torch')")
    done = run(
        "--model", "tcn", "--mode", "oracle", "--data", data, "--out", tmp_path / "o", PYTHONPATH=path
    )  # fmt: skip
    refused(done, 69, "tcn needs torch", "pip install torch")


WITHOUT_CUDA = "__version__ = '2.6'\nclass version: cuda = None\n"
WITHOUT_GPU = (
    "__version__ = '2.6'\nclass version: cuda = '12.4'\n"
    "class cuda:\n    is_available = staticmethod(lambda: False)\n"
)


@pytest.mark.parametrize(
    ("torch", "found"), [(WITHOUT_CUDA, "built without CUDA"), (WITHOUT_GPU, "sees no usable GPU")]
)
@pytest.mark.parametrize("wish", ["flag", "job"])
def test_69_for_cuda_that_was_asked_for_and_is_absent(
    wish: str, torch: str, found: str, data: Path, tmp_path: Path
) -> None:
    path = fake_torch(tmp_path, torch)
    spec = spec_file(tmp_path, "cnn", require_cuda=wish == "job")
    asked = ["--device", "cuda"] if wish == "flag" else []
    done = run("--spec", spec, *asked, "--data", data, "--out", tmp_path / "o", PYTHONPATH=path)
    refused(done, 69, found, "this host has none", "cis490-jobs workers")


def test_70_shows_the_traceback_and_ends_with_a_sentence(data: Path, tmp_path: Path) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "lightgbm.py").write_text("raise RuntimeError('odd')")
    path = f"{fakes}{os.pathsep}{ROOT}"
    done = run("--spec", spec_file(tmp_path, "gbt"), "--data", data, "--out", tmp_path / "o", PYTHONPATH=path)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "internal error (RuntimeError: odd)" in last_line(done)


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on memory is POSIX's")
def test_71_when_memory_runs_out_tells_the_peak_and_what_the_host_has(data: Path, tmp_path: Path) -> None:
    import resource

    one_gib = 1024**3
    spec = spec_file(tmp_path, "mlp", hyper={"hidden": [4096] * 8})
    done = subprocess.run(
        [sys.executable, "-m", "training.trainer.run", "--spec", spec, "--data", data, "--out", tmp_path / "o"],
        capture_output=True, text=True, env=environment(), timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (one_gib, one_gib)),
    )  # fmt: skip
    refused(done, 71, "out of memory", "GiB of RAM", "this process held at most", "min_ram_gib")
    assert not (tmp_path / "o").exists()


def test_73_when_the_results_cannot_be_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--spec", spec_file(tmp_path, "mlp"), "--data", data, "--out", tmp_path / "file")
    refused(done, 73, "cannot be written")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be caught there")
@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_75_when_sigterm_arrives_in_training(model: str, data: Path, tmp_path: Path) -> None:
    long = {"gbt": {"rounds": 5000}, "mlp": {"epochs": 10_000}}[model]
    progress, out = tmp_path / "progress", tmp_path / "out"
    command = [sys.executable, "-m", "training.trainer.run", "--spec", spec_file(tmp_path, model, hyper=long),
               "--data", data, "--out", out, "--progress-file", progress]  # fmt: skip
    with subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        deadline = time.monotonic() + 60
        while "progress" not in (progress.read_text() if progress.exists() else ""):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)  # there is no other way to wait for a line in a file
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.strip().splitlines()[-1].startswith("run: stopped on request")
    assert not out.exists()
    assert events(progress)[-1]["exit_code"] == 75


LATE = """
import os, signal, sys
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)
sys.late = Late()
raise ModuleNotFoundError("No module named lightgbm", name="lightgbm")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be caught there")
def test_a_stop_that_comes_while_the_interpreter_shuts_down_changes_no_exit_code(
    data: Path, tmp_path: Path
) -> None:
    """With torch that takes a second: a complete training looked killed."""
    (tmp_path / "lightgbm.py").write_text(LATE)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = run("--spec", spec_file(tmp_path, "gbt"), "--data", data, "--out", tmp_path / "o", PYTHONPATH=path)
    refused(done, 69, "pip install lightgbm")


def test_78_for_a_bad_configuration_names_every_key(data: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, "gbt", hyper={"num_leavs": 3, "rounds": 0}, mode="relistic")
    done = run("--spec", spec, "--data", data, "--out", tmp_path / "o")
    refused(done, 78, "num_leaves?", "hyper.rounds", "realistic?")


def test_78_for_a_flag_that_the_model_does_not_have(data: Path, tmp_path: Path) -> None:
    done = run("--spec", spec_file(tmp_path, "gbt"), "--epochs", "3", "--data", data, "--out", tmp_path / "o")
    refused(done, 78, "hyper.epochs")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_78_for_a_specification_that_is_no_object(text: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text)
    refused(run("--spec", tmp_path / "job.json", "--data", data, "--out", tmp_path / "o"), 78, "job.json")


def test_78_for_a_host_the_data_set_does_not_have(data: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, "gbt", train_hosts=["lab-z"])
    refused(run("--spec", spec, "--data", data, "--out", tmp_path / "o"), 78, "train_hosts", "lab-z")


def test_nothing_is_written_when_a_run_fails(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(
        "--model", "gbt", "--mode", "oracle", "--train-hosts", "lab-z", "--data", data, "--out", out
    ).returncode
    assert not out.exists()
