"""The queue's promises on SQLite, and what is particular to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.contract.queue_contract import Open, QueueContract
from tests.factories.fleet import cpu_host, job, manifest
from training.fleet.queue import JobQueue, QueueUnavailable


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
