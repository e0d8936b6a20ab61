"""Checkpoints on a worker: which attempt may go on from one, and when the folder goes."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories.fake_receiver import FakeReceiver, lease
from tests.factories.worker_bench import Bench, left_behind
from training.fleet.checkpoint_folders import (
    MAX_AGE_S,
    CheckpointFolders,
    is_kept_after,
    is_kept_without_lease,
)
from training.fleet.types import FAIL_CLASSES, STATUSES
from training.fleet.wire import CompleteRequest, FailRequest, ReleaseRequest

JOB = "a" * 64
NOW_S = 1.7e9


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def bench(receiver: FakeReceiver, tmp_path: Path) -> Bench:
    return Bench(receiver, tmp_path)


@pytest.fixture
def folders(tmp_path: Path) -> CheckpointFolders:
    return CheckpointFolders(tmp_path / "checkpoints")


def with_file(folder: Path, *, age_s: float = 0.0) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint-1").write_text("half way")
    os.utime(folder, (NOW_S - age_s, NOW_S - age_s))
    return folder


# -- the rule ----------------------------------------------------------------------------------------------


def test_what_was_given_back_keeps_its_checkpoint_and_what_is_settled_does_not() -> None:
    assert is_kept_after(ReleaseRequest("the worker was stopped"))
    assert is_kept_after(None), "of a worker that was killed"
    assert not is_kept_after(CompleteRequest("c" * 64))
    kept = [known for known in FAIL_CLASSES if is_kept_after(FailRequest(fail_class=known))]
    assert kept == ["preempted"], "any other failure may have been the checkpoint's fault"


def test_a_lost_lease_keeps_its_checkpoint_while_the_job_may_come_back() -> None:
    kept = [status for status in STATUSES if is_kept_without_lease(status)]
    assert kept == ["pending", "claimed", "running"]
    assert not is_kept_without_lease(None), "an unknown job, or a receiver that does not tell"


# -- the folders -------------------------------------------------------------------------------------------


def test_a_resumed_attempt_finds_what_was_saved_and_any_other_an_empty_folder(
    folders: CheckpointFolders,
) -> None:
    folder = with_file(folders.prepare(JOB, is_resumed=True))
    assert [path.name for path in folders.prepare(JOB, is_resumed=True).iterdir()] == ["checkpoint-1"]
    assert list(folders.prepare(JOB, is_resumed=False).iterdir()) == []
    assert folder.is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of Unix")
def test_nobody_else_may_look_into_the_folders(folders: CheckpointFolders) -> None:
    folder = folders.prepare(JOB, is_resumed=False)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folders.root, folder)] == [0o700, 0o700]


def test_a_folder_goes_after_a_week_unless_its_lease_is_still_here(folders: CheckpointFolders) -> None:
    young = with_file(folders.folder("1" * 64), age_s=MAX_AGE_S - 1)
    old = with_file(folders.folder("2" * 64), age_s=MAX_AGE_S + 1)
    owed = with_file(folders.folder("3" * 64), age_s=MAX_AGE_S + 1)
    of_the_future = with_file(folders.folder("4" * 64), age_s=-MAX_AGE_S)
    folders.sweep(NOW_S, {owed.name})
    assert [path.is_dir() for path in (young, old, owed, of_the_future)] == [True, False, True, True]


def test_what_is_no_jobs_folder_is_swept(folders: CheckpointFolders) -> None:
    with_file(folders.root / "something", age_s=0)
    (folders.root / "file").write_text("")
    folders.sweep(NOW_S, set())
    assert list(folders.root.iterdir()) == []


# -- the worker --------------------------------------------------------------------------------------------


def saving(tmp_path: Path, *, epoch: int = 1, resume: bool = False, **hyper: Any) -> dict[str, Any]:
    """A lease whose trainer notes what it finds among its checkpoints, and saves one."""
    wishes = {"found": str(tmp_path / "found"), "save": f"checkpoint-{epoch}"} | hyper
    return lease("gbt-realistic", epoch=epoch, hyper=wishes) | {"resume": resume}


def found(tmp_path: Path) -> list[str]:
    """What each trainer found, in order."""
    return (tmp_path / "found").read_text().splitlines()


def kept(bench: Bench) -> list[str]:
    return [path.name for path in bench.state.checkpoints.root.glob("*/*")]


def test_an_attempt_after_a_preemption_finds_the_checkpoint_and_its_completion_ends_it(
    bench: Bench, tmp_path: Path
) -> None:
    bench.receiver.jobs.append(saving(tmp_path, exit=75))
    bench.run()
    assert kept(bench) == ["checkpoint-1"]
    bench.receiver.jobs.append(saving(tmp_path, epoch=2, resume=True))
    bench.run()
    assert found(tmp_path) == ["", "checkpoint-1"]
    assert kept(bench) == []


def test_an_attempt_that_is_not_to_resume_starts_from_nothing(bench: Bench, tmp_path: Path) -> None:
    """The job was cancelled and queued again meanwhile, or failed elsewhere."""
    bench.receiver.jobs.append(saving(tmp_path, exit=75))
    bench.run()
    bench.receiver.jobs.append(saving(tmp_path, epoch=2))
    bench.run()
    assert found(tmp_path) == ["", ""]


def test_a_failure_of_the_program_ends_the_checkpoint(bench: Bench, tmp_path: Path) -> None:
    bench.receiver.jobs.append(saving(tmp_path, exit=1))
    bench.run()
    assert bench.receiver.verbs()[1] == "fail"
    assert kept(bench) == []


@pytest.mark.parametrize(
    ("job_status", "rest"),
    [
        ("running", ["checkpoint-1"]),
        ("pending", ["checkpoint-1"]),
        ("cancelled", []),
        ("completed", []),
        (None, []),
    ],
)
def test_a_lease_that_is_gone_keeps_the_checkpoint_by_the_jobs_status(
    bench: Bench, tmp_path: Path, job_status: str | None, rest: list[str]
) -> None:
    bench.receiver.jobs.append(saving(tmp_path, wait_for=str(tmp_path / "never"), pid=str(tmp_path / "pid")))
    told = {} if job_status is None else {"job_status": job_status}

    def gone(seen: object) -> tuple[int, dict[str, Any]]:
        if not (tmp_path / "pid").exists():  # not before the trainer has saved
            return 200, {"ok": True}
        return 410, {"error": "gone", "reason": "gone", **told}

    bench.receiver.answer["heartbeat"] = gone
    bench.receiver.jobs[0]["heartbeat_s"] = 0.02
    bench.run()
    assert kept(bench) == rest


def test_a_killed_workers_checkpoint_is_there_for_the_next_one(bench: Bench) -> None:
    record = left_behind(bench, "gbt-done", None)
    with_file(bench.state.checkpoints.prepare(record.job_id, is_resumed=False), age_s=2 * MAX_AGE_S)
    bench.run()
    assert bench.receiver.verbs()[0] == "release"
    assert kept(bench) == ["checkpoint-1"]
    assert bench.leftovers() == []
