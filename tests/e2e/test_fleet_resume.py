"""Real worker, real trainer: a training that is interrupted goes on where it was, and its result can be verified."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cis490.episodes.dataset import pack
from tests.factories.command import run
from tests.factories.episodes import write_dataset
from tests.factories.fleet import job, job_id, manifest
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from tests.factories.real_workers import Start, real_workers
from training.fleet.specs import Reference

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
TIMEOUT_S = 120
HYPER: dict[str, dict[str, object]] = {
    "gbt": {"rounds": 1000, "min_data_in_leaf": 5},
    "mlp": {"epochs": 5000, "hidden": [64]},
}


@pytest.fixture
def receiver(tmp_path: Path, model: str) -> Iterator[LiveReceiver]:
    """Two jobs that differ in their names only: the second is to be trained without an interruption."""
    dataset_id = pack(write_dataset(tmp_path / "episodes"), tmp_path / "data.tar.zst")
    (tmp_path / "state/datasets").mkdir(parents=True)
    (tmp_path / "episodes").rename(tmp_path / "state/datasets" / dataset_id)
    jobs = [
        job(name, model=model, priority=priority, hyper=HYPER[model])
        for name, priority in (("interrupted", 1), ("whole", 0))
    ]
    with live_receiver(tmp_path, MANIFEST) as running:
        running.queue.apply_manifest(manifest())
        running.queue.sync_from_manifest([one.to_dict() for one in jobs], reference=Reference(dataset_id))
        yield running


@pytest.fixture
def start(receiver: LiveReceiver, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker; ends all of them afterwards."""
    with real_workers(receiver.url, tmp_path, TIMEOUT_S) as begin:
        yield begin


def progress_file(folder: Path, epoch: int) -> Path:
    return folder / "state/jobs" / f"{job_id('interrupted')[:12]}-{epoch}" / "progress.jsonl"


def is_in_training(folder: Path) -> bool:
    """Far enough that there is something to go on from: gbt saves the end of a segment of rounds."""
    text = progress_file(folder, 1).read_text("utf-8") if progress_file(folder, 1).exists() else ""
    found = re.findall(r'"step": (\d+), "total": (\d+)', text)
    return any(int(step) > int(total) / 15 for step, total in found)


def trainer_pid(folder: Path) -> int:
    log = (folder / "worker.log").read_text("utf-8")
    return int(re.findall(r"event=job\.started .*?pid=(\d+)", log)[-1])


def artifact(receiver: LiveReceiver, name: str) -> str:
    row = receiver.queue.get(job_id(name))
    assert row is not None
    assert row.status == "completed", row
    return str(row.artifact_id)


@pytest.mark.parametrize(("model", "stopped"), [("gbt", "trainer"), ("mlp", "worker")])
def test_an_interrupted_training_goes_on_and_its_artifact_is_verified_as_identical(
    receiver: LiveReceiver, start: Start, tmp_path: Path, model: str, stopped: str
) -> None:
    worker = start()
    until(lambda: is_in_training(tmp_path), "the middle of the training")
    if stopped == "worker":
        worker.terminate()
        assert worker.wait(TIMEOUT_S) == 0
        assert len(list((tmp_path / "state/checkpoints" / job_id("interrupted")).iterdir())) >= 1
        worker = start()
    else:
        os.kill(trainer_pid(tmp_path), signal.SIGTERM)  # somebody wants the machine for something else
    until(progress_file(tmp_path, 2).exists, "the second attempt")
    with progress_file(tmp_path, 2).open() as second:
        until(lambda: artifact_or_none(receiver, "whole") is not None, "the second job")
        lines = [json.loads(line) for line in second]
    first_step = next(line["step"] for line in lines if line["event"] == "progress")
    assert first_step > 1, f"it started anew: {[line for line in lines if line['event'] == 'warn']}"
    assert artifact(receiver, "interrupted") == artifact(receiver, "whole")
    attempts = receiver.send("GET", f"/v1/job/{job_id('interrupted')}").body["job"]["attempts_log"]
    assert [one["outcome"] for one in attempts] == ["released", "completed"]
    if stopped == "trainer":
        assert "a checkpoint is kept for the next attempt" in attempts[0]["error"], attempts[0]["error"]
    verified = run(receiver.url, "verify", "whole", "--json", token=TOKEN, sleep=nap)
    assert (verified.code, verified.json["verdict"]) == (0, "bit-identical"), verified
    assert worker.poll() is None
    until(lambda: list((tmp_path / "state/checkpoints").iterdir()) == [], "the end of what is not needed")


def artifact_or_none(receiver: LiveReceiver, name: str) -> str | None:
    row = receiver.queue.get(job_id(name))
    return None if row is None else row.artifact_id


def nap(seconds: float) -> None:
    """Real trainings take their time."""
    time.sleep(min(seconds, 0.05))


def until(is_so: Callable[[], bool], what: str) -> None:
    """As `wait_until`, with the patience that real trainings on a busy machine need."""
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.01)
