"""A worker that is stopped or killed in the middle of a training: the next one goes on from the checkpoint."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.fleet import job, job_id, manifest
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from tests.factories.real_workers import Start, real_workers
from training.fleet.specs import Reference

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
DATASET = "d" * 64
TIMEOUT_S = 60
STEPS, HOLD_AT = 12, 7


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    """Two jobs that differ in their names only: the second is to be trained without an interruption."""
    files = {"log": str(tmp_path / "log"), "go": str(tmp_path / "go")}
    jobs = [
        job(name, priority=priority, hyper={"steps": STEPS, "hold_at": HOLD_AT, **files})
        for name, priority in (("interrupted", 1), ("whole", 0))
    ]
    (tmp_path / "state/datasets" / DATASET).mkdir(parents=True)
    with live_receiver(tmp_path, MANIFEST) as running:
        running.queue.apply_manifest(manifest())
        running.queue.sync_from_manifest([one.to_dict() for one in jobs], reference=Reference(DATASET))
        yield running


@pytest.fixture
def start(receiver: LiveReceiver, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker with a trainer that saves each step; ends all of them afterwards."""
    with real_workers(
        receiver.url, tmp_path, TIMEOUT_S, "--trainer-module", "tests.factories.resuming_trainer"
    ) as begin:
        yield begin


def step_of(folder: Path) -> int:
    states = list((folder / "state/checkpoints" / job_id("interrupted")).glob("state.json"))
    return int(states[0].read_text().partition('"step": ')[2].partition(",")[0]) if states else 0


def starts(folder: Path) -> list[int]:
    """From which step each trainer went on."""
    return [int(line) for line in (folder / "log").read_text().split()]


def artifact(receiver: LiveReceiver, name: str) -> str:
    row = receiver.queue.get(job_id(name))
    assert row is not None
    assert row.status == "completed", row
    return str(row.artifact_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_worker_goes_on_from_the_checkpoint_and_the_result_is_the_same(
    receiver: LiveReceiver, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    worker = start()
    wait_until(lambda: step_of(tmp_path) == HOLD_AT, "the middle of the training")
    worker.send_signal(number)
    worker.wait(TIMEOUT_S)
    (tmp_path / "go").touch()
    assert start("--exit-when-idle", "0").wait(TIMEOUT_S) == 0
    assert starts(tmp_path) == [0, HOLD_AT, 0]
    assert artifact(receiver, "interrupted") == artifact(receiver, "whole")
    assert list((tmp_path / "state/checkpoints").iterdir()) == [], "completed: nothing is kept"


def test_a_job_that_was_cancelled_and_queued_again_starts_from_nothing(
    receiver: LiveReceiver, start: Start, tmp_path: Path
) -> None:
    worker = start()
    wait_until(lambda: step_of(tmp_path) == HOLD_AT, "the middle of the training")
    worker.terminate()
    worker.wait(TIMEOUT_S)
    for verb in ("cancel", "requeue"):
        assert receiver.operator(f"/v1/job/{job_id('interrupted')}/{verb}").status == 200
    (tmp_path / "go").touch()
    assert start("--exit-when-idle", "0").wait(TIMEOUT_S) == 0
    assert starts(tmp_path) == [0, 0, 0]
    assert artifact(receiver, "interrupted") == artifact(receiver, "whole")
