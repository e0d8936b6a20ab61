"""A training that is interrupted, by request or by kill -9, and run again leaves the bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cis490.failpoints import VARIABLE
from tests.factories.episodes import write_dataset

ROOT = Path(__file__).resolve().parents[2]
LONG = {"gbt": {"rounds": 400, "min_data_in_leaf": 5}, "mlp": {"epochs": 150, "hidden": [64]}}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be caught there")


class Bench:
    """One job on one data set, run again and again as a process."""

    def __init__(self, folder: Path, model: str, data: Path) -> None:
        self.folder, self.model, self.data = folder, model, data
        self.checkpoints, self.progress = folder / "checkpoints", folder / "progress"

    def command(self, out: str, *more: str) -> list[str]:
        spec = self.folder / "job.json"
        spec.write_text(
            json.dumps({"model": self.model, "mode": "realistic", "hyper": LONG[self.model], "seed": 3})
        )
        return [
            sys.executable, "-m", "training.trainer.run", "--spec", str(spec), "--data", str(self.data),
            "--out", str(self.folder / out), "--progress-file", str(self.progress), *more,
        ]  # fmt: skip

    def run(self, out: str, *more: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: failpoint}
        return subprocess.run(
            self.command(out, *more), capture_output=True, text=True, env=env, timeout=120, check=False
        )

    def stopped(self, out: str, *more: str) -> tuple[int, str]:
        """Exit code and last line of a run that gets SIGTERM as soon as it has shown progress and, where it has a
        folder for checkpoints, written one; if it is not over by then."""
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.progress.unlink(missing_ok=True)
        with subprocess.Popen(
            self.command(out, *more), stderr=subprocess.PIPE, text=True, env=env
        ) as process:
            deadline_s = time.monotonic() + 60
            while process.poll() is None and not self.is_under_way(saves=bool(more)):
                assert time.monotonic() < deadline_s
                time.sleep(0.01)  # there is no other way to wait for a line in a file
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        return process.returncode, errors.strip().splitlines()[-1]

    def is_under_way(self, *, saves: bool) -> bool:
        return '"loss"' in self.shown() and (not saves or any(self.checkpoints.glob("checkpoint-*")))

    def shown(self) -> str:
        return self.progress.read_text() if self.progress.exists() else ""

    def first_step(self) -> int:
        lines = map(json.loads, self.shown().splitlines())
        return int(next(line["step"] for line in lines if line["event"] == "progress"))

    def contents(self, out: str) -> dict[str, bytes]:
        root = self.folder / out
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=sorted(LONG))
def bench(request: pytest.FixtureRequest, tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, request.param, data)


def test_stopped_in_training_and_run_again_gives_the_same_bytes(bench: Bench) -> None:
    whole = bench.run("whole")
    assert whole.returncode == 0, whole.stderr
    options = ("--checkpoint-dir", str(bench.checkpoints), "--checkpoint-every-s", "0")
    code, said = bench.stopped("parts", *options)
    assert code == 75, said
    assert "a checkpoint is kept for the next attempt" in said
    assert not (bench.folder / "parts").exists()
    again = bench.run("parts", *options)
    assert again.returncode == 0, again.stderr
    assert bench.first_step() > 1, "it started anew"
    assert bench.contents("parts") == bench.contents("whole")
    assert list(bench.checkpoints.iterdir()) == [], "a complete training leaves no checkpoint"


def test_killed_while_it_writes_a_checkpoint_twice_in_a_row_and_run_again_gives_the_same_bytes(
    bench: Bench,
) -> None:
    assert bench.run("whole").returncode == 0
    options = ("--checkpoint-dir", str(bench.checkpoints), "--checkpoint-every-s", "0")
    for place in ("trainer.checkpoint_written=kill", "trainer.before_checkpoint=kill"):
        killed = bench.run("parts", *options, failpoint=place)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = bench.run("parts", *options)
    assert again.returncode == 0, again.stderr
    assert bench.contents("parts") == bench.contents("whole")


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(bench: Bench) -> None:
    options = ("--checkpoint-dir", str(bench.checkpoints), "--checkpoint-every-s", "0")
    done = bench.run("out", *options, failpoint="trainer.before_checkpoint=full")
    assert done.returncode == 0, done.stderr
    assert "training goes on without" in bench.shown()


def test_the_checkpoint_of_another_job_is_told_of_and_not_used(bench: Bench) -> None:
    options = ("--checkpoint-dir", str(bench.checkpoints), "--checkpoint-every-s", "0")
    assert bench.stopped("one", *options)[0] == 75
    other = bench.run("other", *options, "--seed", "4")
    assert other.returncode == 0, other.stderr
    assert "belongs to another training" in bench.shown()
    assert bench.run("fresh", "--seed", "4").returncode == 0
    assert bench.contents("other") == bench.contents("fresh")


def test_a_stop_without_a_folder_for_checkpoints_says_that_nothing_is_kept(bench: Bench) -> None:
    code, said = bench.stopped("out")
    assert code == 75
    assert "nothing of it is kept" in said
