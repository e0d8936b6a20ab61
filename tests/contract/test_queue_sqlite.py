"""The queue's promises on SQLite, and what is particular to it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.contract.queue_contract import Open, QueueContract
from tests.factories.fleet import cpu_host, cuda_host, job, manifest
from training.fleet import situation as situations
from training.fleet.leases import LiveLease
from training.fleet.queue import JobQueue, QueueUnavailable
from training.fleet.types import HostSpec
from training.fleet.wire import Progress


class TestSqliteQueue(QueueContract):
    @pytest.fixture
    def open_queue(self, tmp_path: Path) -> Open:
        return lambda clock: JobQueue(tmp_path / "training_jobs.db", clock=clock)


def test_commits_are_durable_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    queue = JobQueue(path)
    (mode,) = queue._connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = queue._connection.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2), "WAL with synchronous=FULL"
    assert os.name == "nt" or path.stat().st_mode & 0o077 == 0
    queue.close()


def test_a_batch_is_one_transaction_and_an_error_in_it_loses_only_its_own_work(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(job("x"), job("y")))

    def broken() -> None:
        queue.cancel(job("y").job_id)
        raise ValueError("after it wrote")

    results = queue.run_batch(
        [lambda: queue.claim("a", cpu_host()), broken, lambda: queue.claim("b", cpu_host())]
    )
    assert isinstance(results[1], ValueError)
    assert [row.status for row in queue.list_jobs()] == ["claimed", "claimed"]
    assert queue.leases.busy("a") == queue.leases.busy("b") == 1
    queue.close()


@pytest.mark.parametrize("batched", [True, False])
def test_a_request_that_goes_on_after_a_part_of_it_failed_is_not_kept_by_half(
    tmp_path: Path, batched: bool
) -> None:
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(job("x"), job("y")))

    def swallow() -> bool:
        with contextlib.suppress(ValueError), queue.atomic():
            queue.cancel(job("x").job_id)
            raise ValueError("between two writes of one event")
        return True

    def both() -> None:
        with queue.atomic():
            queue.claim("a", cpu_host())
            swallow()

    if batched:
        refused, kept = queue.run_batch([both, lambda: queue.cancel(job("y").job_id)])
        assert isinstance(refused, AssertionError)
        assert kept
    else:
        with pytest.raises(AssertionError, match="nothing of it is kept"):
            both()
        assert queue.cancel(job("y").job_id), "the next one is not refused for it"
    assert [row.status for row in queue.list_jobs()] == ["pending", "cancelled"]
    assert len(queue.leases) == 0
    queue.close()


def test_a_disk_that_is_full_at_the_end_does_not_keep_the_queue_from_closing(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db")
    queue.apply_manifest(manifest(job("x")))
    queue.claim("a", cpu_host())
    queue.heartbeat(job("x").job_id, "a")
    queue._connection.execute("PRAGMA query_only = ON")  # each write fails
    queue.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        queue.row(job("x").job_id)
    again = JobQueue(tmp_path / "q.db")
    assert [row.status for row in again.list_jobs()] == ["running"]
    again.close()


def test_a_failed_commit_changes_nothing_in_memory_either(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(job("x")))

    def claim_then_break_the_commit() -> object:
        found = queue.claim("a", cpu_host())
        # a deferred constraint fails at COMMIT, as a full disk would
        queue._connection.execute("PRAGMA defer_foreign_keys = ON")
        queue._connection.execute("UPDATE job SET class_id = 999")
        return found

    with pytest.raises(QueueUnavailable, match="nothing was changed"):
        queue.run_batch([claim_then_break_the_commit])
    assert [row.phase for row in queue.list_jobs()] == ["pending"]
    assert len(queue.leases) == 0
    assert queue.claim("a", cpu_host()).row is not None, "the queue goes on"
    queue.close()


def test_a_row_that_contradicts_the_lifecycle_cannot_be_written(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db")
    queue.apply_manifest(manifest(job("x")))
    for wrong in (
        "status = 'done'",
        "status = 'completed'",
        "status = 'running'",
        "status = 'running', lapsed = 1",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            queue._connection.execute(f"UPDATE job SET {wrong}")
    queue.close()


def test_an_in_memory_queue_works_for_embedding(tmp_path: Path) -> None:
    queue = JobQueue(":memory:")
    queue.apply_manifest(manifest(job("x")))
    assert [row.name for row in queue.list_jobs("pending")] == ["x"]
    queue.close()


def test_what_only_memory_knows_is_put_back_with_the_rows(tmp_path: Path) -> None:
    """A reload and a pause that are rolled back leave policy, hosts and classes as they were."""
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(*(job(name) for name in "wxyz"), pause_after_failures=1))

    def reload_then_fail() -> None:
        queue.apply_manifest(manifest(job("new", require_cuda=True), hosts={"b": HostSpec("b")}))
        raise ValueError("after it was applied")

    def pause_then_fail() -> None:
        found = queue.claim("a", cpu_host())
        assert found.row is not None
        queue.fail(found.row.job_id, "a", error="x")
        raise ValueError("after the host was paused")

    assert len(queue.run_batch([reload_then_fail, pause_then_fail])) == 2
    assert queue.policy.pause_after_failures == 1
    assert [row.name for row in queue.list_jobs()] == list("wxyz")
    assert queue.workers() == []
    assert queue.claim("a", cpu_host()).row is not None, "neither paused nor refused"
    assert queue.run_batch([pause_then_fail]), "a known host this time"
    assert queue.workers()[0]["paused_reason"] is None
    queue.close()


def test_a_lease_that_no_row_knows_is_dropped_by_the_reaper(tmp_path: Path) -> None:
    clock = ManualClock()
    queue = JobQueue(tmp_path / "q.db", clock=clock)
    queue.leases.add(LiveLease("f" * 64, 1, "ghost", None, None, deadline_s=clock.now_s()))
    assert queue.sweep_stale() == 0
    assert len(queue.leases) == 0
    queue.close()


def test_a_row_that_moved_is_not_overwritten(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db")
    queue.apply_manifest(manifest(job("x")))
    (row,) = queue.list_jobs()
    queue.cancel(row.job_id)
    with pytest.raises(AssertionError, match="moved"):
        queue.save(row, row, "test", "test")
    queue.close()


def test_a_heartbeat_of_a_host_that_never_claimed_here_still_renews(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(job("x")))
    found = queue.claim_next(worker_hostname="a")
    assert found is not None
    queue.heartbeat(found.job_id, "a")
    queue.matcher.seen.clear()
    assert queue.heartbeat(found.job_id, "a", progress=Progress(step=3))
    assert queue.live_leases()[found.job_id].progress == Progress(step=3)
    queue.close()


def test_a_claim_without_a_capability_keeps_what_is_known(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(job("x", min_ram_gib=8.0)))
    assert queue.claim_next(worker_hostname="a") is None
    queue.claim("a", cpu_host(ram_gib=4.0))
    assert queue.claim("a", cpu_host()).row is not None
    queue.release(job("x").job_id, "a")
    assert queue.claim_next(worker_hostname="a") is not None
    queue.close()


def test_a_job_that_only_moved_in_the_file_is_unchanged_but_keeps_its_line(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db")
    queue.apply_manifest(manifest(job("x", line=3)))
    assert queue.apply_manifest(manifest(job("x", line=9)))["unchanged"] == 1
    (row,) = queue.list_jobs()
    assert row["spec"]["line"] == 9
    assert len(queue.audit(row.job_id)) == 1
    with pytest.raises(KeyError):
        row["columns"]
    queue.close()


def test_a_full_disk_takes_the_whole_batch_back_and_says_so_to_all(tmp_path: Path) -> None:
    """SQLite rolls the transaction back by itself; nothing after that may be committed behind our back."""
    queue = JobQueue(tmp_path / "q.db", clock=ManualClock())
    queue.apply_manifest(manifest(*(job(name) for name in "xyz")))
    (pages,) = queue._connection.execute("PRAGMA page_count").fetchone()

    def fill() -> None:
        queue._connection.execute(f"PRAGMA max_page_count = {pages}")
        queue._connection.execute("UPDATE job SET last_error = ?", ("x" * 1_000_000,))

    calls = [lambda: queue.claim("a", cpu_host()), fill, lambda: queue.claim("b", cpu_host())]
    with pytest.raises(QueueUnavailable, match="nothing was changed"):
        queue.run_batch(calls)
    assert {row.status for row in queue.list_jobs()} == {"pending"}
    assert len(queue.leases) == 0
    queue._connection.execute("PRAGMA max_page_count = 1000000")
    assert queue.claim("a", cpu_host()).row is not None
    queue.close()


def test_a_caller_that_brings_its_own_policy_decides_how_many_jobs_a_host_holds(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.db")
    queue.sync_from_manifest([job(name).to_dict() for name in "xyz"])
    taken = [queue.claim_next(worker_hostname="a", capability={}, host_spec=None) for _ in range(3)]
    assert all(taken)
    queue.close()


def test_after_a_restart_a_host_is_shown_as_not_heard_yet(tmp_path: Path) -> None:
    clock = ManualClock()
    first = JobQueue(tmp_path / "q.db", clock=clock)
    first.apply_manifest(manifest(job("x")))
    first.claim("a", {})
    first.close()
    again = JobQueue(tmp_path / "q.db", clock=clock)
    again.cancel(job("x").job_id)
    found = again.explain(job("x").job_id)
    assert found is not None
    (host,) = found["hosts"]
    assert (host["live"], host["seen_s_ago"]) == (True, None)
    assert any(check["found"] == "not heard since the receiver started" for check in host["checks"])
    again.close()


def test_why_drops_a_wish_that_has_become_too_old_as_the_next_claim_will(tmp_path: Path) -> None:
    """Without a claim or a sweep in between: nothing else has told the queue that the time has come."""
    clock = ManualClock()
    queue = JobQueue(tmp_path / "q.db", clock=clock)
    queue.apply_manifest(
        manifest(job("first"), job("x", prefer_cuda=True), prefer_cuda_grace_s=60.0, same_host_s=60.0)
    )
    queue.claim("gpu", cuda_host())
    assert queue.claim("cpu", cpu_host()).row is None, "x waits for the host with CUDA, which is busy"
    for wait_s, keeps_away in ((59.0, True), (2.0, False)):
        clock.advance(wait_s)
        found = queue.situation(job("x").job_id)
        assert found is not None
        assert bool(situations.blockers(found, "cpu")) == keeps_away
    assert queue.claim("cpu", cpu_host()).row is not None
    queue.close()
