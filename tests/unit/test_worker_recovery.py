"""What a killed worker, a killed guard or a full disk leave behind, and what becomes of it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cis490 import failpoints, files
from cis490.clock import Clock
from cis490.failpoints import Armed
from tests.factories.fake_receiver import FakeReceiver, lease
from tests.factories.worker_bench import Bench, left_behind
from training.fleet import bundle, worker_state
from training.fleet.attempt import Run
from training.fleet.guard_wire import TrainerCommand, TrainerEnd, boot_id, line
from training.fleet.guarded_run import GuardedRun
from training.fleet.lease_keeper import LeaseKeeper
from training.fleet.wire import CompleteRequest, Progress
from training.fleet.worker_recovery import recover
from training.fleet.worker_state import LeaseRecord

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux names its boots")


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def bench(receiver: FakeReceiver, tmp_path: Path) -> Bench:
    return Bench(receiver, tmp_path)


def ended_unseen(bench: Bench, **end: Any) -> LeaseRecord:
    """A lease whose trainer has ended, but whose worker died before it took note of that."""
    record = left_behind(bench, "gbt-done", None)
    folder = bench.state.job_folder(record)
    (folder / "out").mkdir()
    (folder / "out" / "model.txt").write_text("trained")
    (folder / "progress.jsonl").write_text('{"event": "result", "metric": {"auc": 0.75}}\n')
    found = TrainerEnd(**{"exit_code": 0, "duration_s": 3.5, "boot": boot_id(), **end})
    fields = {name: getattr(found, name) for name in TrainerEnd.__slots__}
    bench.state.end_file(record).write_bytes(line(**fields))
    return record


# -- kill -9 of the worker ---------------------------------------------------------------------------------


@linux_only
def test_a_training_that_ended_unseen_is_packed_and_delivered(bench: Bench) -> None:
    ended_unseen(bench)
    bench.run()
    assert [verb for verb in bench.receiver.verbs() if verb != "upload"] == ["model", "complete", "claim"]
    body = bench.receiver.of("complete")[0].body
    assert (body["metrics"], body["duration_s"]) == ({"auc": 0.75}, 3.5)
    assert bench.leftovers() == []


@pytest.mark.parametrize("boot", ["another", None])
def test_what_a_trainer_wrote_is_not_trusted_across_a_reboot(bench: Bench, boot: str | None) -> None:
    """It was never synced: its files may be there and be empty."""
    ended_unseen(bench, boot=boot)
    bench.run()
    assert bench.receiver.verbs() == ["release", "claim"]


def test_a_bundle_that_is_there_is_whole_and_is_delivered(bench: Bench) -> None:
    record = ended_unseen(bench, boot="another")
    packed = bundle.pack(bench.state.job_folder(record) / "out", bench.state.bundle(record))
    bench.run()
    assert bench.receiver.of("complete")[0].body["artifact_id"] == packed.sha256


@pytest.mark.parametrize(
    ("end", "verb"),
    [
        ({"exit_code": 65, "stderr": "cut short\n"}, "fail"),
        ({"exit_code": None, "signal_number": 9, "ended_by": "asked"}, "release"),
        ({"exit_code": 75, "ended_by": "asked"}, "release"),
    ],
)
def test_a_failure_that_nobody_saw_is_reported_and_an_ended_run_given_back(
    bench: Bench, end: dict[str, Any], verb: str
) -> None:
    ended_unseen(bench, **end)
    bench.run()
    assert bench.receiver.verbs() == [verb, "claim"]
    assert bench.leftovers() == []


@linux_only
def test_a_result_that_was_finished_just_when_the_end_was_asked_for_counts(bench: Bench) -> None:
    ended_unseen(bench, exit_code=0, ended_by="asked")
    bench.run()
    assert bench.receiver.verbs() == ["model", "complete", "claim"]


def test_a_lease_file_that_cannot_be_read_just_now_costs_no_result(bench: Bench) -> None:
    """Somebody else's file, a failing disk: it is not damaged, and what belongs to it stays."""
    (bench.state.leases / "x.json").mkdir()  # whatever the system: reading it is an OSError
    (bench.state.spool / "x.tar.zst").write_bytes(b"a result")
    with pytest.raises(OSError, match=r"x\.json"):
        recover(bench.state, bench.clock.wall_s())
    assert bench.leftovers() == ["leases/x.json", "spool/x.tar.zst"]


def test_a_result_that_cannot_be_read_just_now_is_kept_and_offered_again(bench: Bench) -> None:
    done = left_behind(bench, "gbt-done", CompleteRequest(hashlib.sha256(b"a result").hexdigest()))
    bench.state.bundle(done).mkdir()
    bench.run()
    assert bench.receiver.verbs() == ["claim"]
    bench.state.bundle(done).rmdir()
    bench.state.bundle(done).write_bytes(b"a result")
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "claim"]


@pytest.mark.parametrize("text", ["two\nlines", "\0\0\0\0", "x" * 70_000])
def test_a_damaged_claim_request_is_made_anew(bench: Bench, text: str) -> None:
    """Sent as it is, it would be refused at each start."""
    (bench.state.root / "claim-request").write_text(text, "ascii")
    assert bench.state.claim_request(lambda: "id-1") == "id-1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"what": 1}'])
def test_a_torn_end_file_means_that_nothing_is_known(bench: Bench, text: str) -> None:
    bench.state.end_file(ended_unseen(bench)).write_text(text)
    bench.run()
    assert bench.receiver.verbs() == ["release", "claim"]


def test_a_claim_of_a_predecessor_may_be_old_so_its_lease_is_confirmed_first(bench: Bench) -> None:
    """The answer to a repeated claim is the lease of the first one."""
    bench.state.claim_request(lambda: "before")
    bench.receiver.jobs.append(lease(hyper={"progress": []}))
    started: list[int] = []

    def start(command: TrainerCommand, clock: Clock) -> Run:
        started.append(len(bench.receiver.of("heartbeat")))
        return GuardedRun(command, clock=clock)

    bench.start_trainer = start
    bench.run()
    assert started == [1]


@pytest.mark.parametrize("place", ["worker.folder_dropped", "worker.bundle_dropped"])
def test_the_lease_file_is_the_last_thing_to_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    record = left_behind(bench, "gbt-done", None)
    monkeypatch.setattr(failpoints, "_armed", Armed(place, "broken", 1))
    with pytest.raises(OSError, match=place):
        bench.state.drop(record, keeps_checkpoint=False)
    assert bench.state.records() == ([record], [])


@pytest.mark.parametrize("answered_s", [None, 3.0], ids=["a plain answer", "leases were made shorter"])
def test_a_lease_counts_from_the_moment_when_its_heartbeat_was_sent(
    bench: Bench, answered_s: float | None
) -> None:
    record, clock = left_behind(bench, "gbt-slow", None), bench.clock

    class SlowHeart:
        def heartbeat(
            self,
            job_id: str,
            token: str | None,
            progress: Progress | None = None,
            news: Mapping[str, Any] | None = None,
        ) -> float | None:
            clock.advance(7.0)
            return answered_s

    keeper = LeaseKeeper(SlowHeart(), record, clock)
    assert keeper.deadline_s == -math.inf
    sent_s = clock.now_s()
    keeper.beat()
    assert keeper.deadline_s == sent_s + (answered_s or record.lease_s)


# -- kill -9 of the guard ----------------------------------------------------------------------------------


def test_a_job_whose_guard_was_killed_goes_back_unharmed_but_not_for_ever(
    bench: Bench, tmp_path: Path
) -> None:
    def start(command: TrainerCommand, clock: Clock) -> Run:
        run = GuardedRun(command, clock=clock)
        os.kill(run.guard_pid, signal.SIGKILL)
        return run

    bench.start_trainer = start
    do = {"wait_for": str(tmp_path / "never")}
    bench.receiver.jobs.extend(lease(epoch=epoch, hyper=do) for epoch in (1, 2, 3))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "release", "claim", "release", "claim", "fail", "claim"]
    assert bench.receiver.of("release")[0].body["reason"].startswith("the trainer's guard was killed")
    assert "3 times in a row" in bench.receiver.of("fail")[0].body["error"]
    assert bench.leftovers() == []


# -- a full disk -------------------------------------------------------------------------------------------


def test_a_result_waits_for_room_on_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", Armed("worker.before_pack", "broken", 1))
    bench.receiver.jobs.append(lease())
    bench.run()
    assert [verb for verb in bench.receiver.verbs() if verb != "upload"] == [
        "claim", "model", "complete", "claim",
    ]  # fmt: skip


def test_a_result_that_never_finds_room_is_reported_in_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_armed", Armed("worker.before_pack", "full", 1))
    bench.receiver.jobs.append(lease())
    bench.run()
    assert bench.receiver.verbs() == ["claim", "fail", "claim"]
    assert "the worker could not do its part" in bench.receiver.of("fail")[0].body["error"]
    assert sum(bench.stop.pauses) > 3600


@linux_only
def test_a_worker_that_stops_before_there_is_room_leaves_the_result_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_armed", Armed("worker.before_pack", "full", 1))

    def stop(seconds: float) -> bool:
        bench.stop.request()
        return True

    monkeypatch.setattr(bench.stop, "wait", stop)
    bench.receiver.jobs.append(lease())
    bench.run()
    assert bench.receiver.verbs() == ["claim"]
    monkeypatch.undo()
    bench.stop.requested = False
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "claim"]


def test_a_lease_that_cannot_be_written_down_is_given_back_and_the_worker_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refusals = files.atomic_write, [OSError(errno.ENOSPC, "No space left on device")]

    def full_once(path: Path, data: bytes, mode: int = 0o644) -> None:
        if path.suffix == ".json" and refusals:
            raise refusals.pop()
        write(path, data, mode)

    monkeypatch.setattr(worker_state, "atomic_write", full_once)
    bench.receiver.jobs.extend([lease("gbt-a"), lease("gbt-b")])
    bench.run()
    assert [verb for verb in bench.receiver.verbs() if verb != "upload"] == [
        "claim", "release", "claim", "model", "complete", "claim",
    ]  # fmt: skip
    assert "No space left on device" in bench.receiver.of("release")[0].body["reason"]


def test_a_result_is_delivered_even_if_it_cannot_be_written_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.atomic_write

    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        if path.suffix == ".json" and json.loads(data)["ending"] is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data, mode)

    monkeypatch.setattr(worker_state, "atomic_write", full)
    bench.receiver.jobs.append(lease())
    bench.run()
    assert bench.receiver.verbs()[-2:] == ["complete", "claim"]
    assert bench.leftovers() == []


@pytest.mark.parametrize(
    "place",
    [
        "worker.claim_request_saved", "worker.claim_answered", "worker.lease_saved", "worker.folder_prepared",
        "worker.guard_started", "worker.bundle_packed", "worker.ending_saved", "worker.upload_answered",
        "worker.complete_answered", "worker.folder_dropped", "worker.bundle_dropped", "worker.lease_dropped",
        "worker.leftovers_killed", "worker.results_salvaged", "worker.swept",
    ],
)  # fmt: skip
def test_wherever_the_disk_fails_once_no_lease_is_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(failpoints, "_armed", Armed(place, "broken", 1))
    bench.receiver.jobs.extend([lease("gbt-a"), lease("gbt-b")])
    bench.run(exit_when_idle_s=400.0, poll_s=100.0)
    granted = 2 if place != "worker.claim_answered" else 1
    ended = [verb for verb in bench.receiver.verbs() if verb in ("complete", "fail", "release")]
    assert len(ended) >= granted
    assert "complete" in ended
    assert bench.leftovers() == []
