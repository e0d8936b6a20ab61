"""Retention under any history, with runs cut short at any step: nothing that anybody needs is ever removed.

Real queue, real store, real files. After every step each artifact that a job, a verification run or an attempt under
way names lies in the store with the bytes of its name; and a dry run says exactly what the real one then removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, job, job_id, manifest
from training.fleet import shadows
from training.fleet.gc import Cleaner, Found
from training.fleet.log_store import LogStore
from training.fleet.queue import JobQueue
from training.fleet.rows import JobRow
from training.fleet.store import ModelStore
from training.fleet.types import Retention

NAMES, HOSTS = ("x", "y"), ("a", "b")
LINUX = cpu_host(os="linux", arch="x86_64")
LEASE_S, DAY_S = 600.0, 86_400.0
CONTENTS = [f"model {n}".encode() for n in range(5)]
days = st.sampled_from([None, 1.0, 3.0])
names = st.sampled_from(NAMES)
pick = st.integers(0, 5)
STEPS = ("note_removed", "take_away", "empty_bin", "note_kept")


class Killed(BaseException):
    """The process ends here."""


class NoLogs:
    logs: LogStore | None = None

    async def on_disk(self, call: Callable[[LogStore], tuple[int, int]]) -> tuple[int, int]:
        raise AssertionError


class RetentionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.clock = ManualClock()
        self.open()

    def open(self) -> None:
        self.queue = JobQueue(self.folder / "q.db", clock=self.clock, stale_after_s=LEASE_S)
        self.store = ModelStore(
            self.folder / "models", self.folder / "incoming", self.folder / "index.jsonl", reserve_bytes=0,
            clock=self.clock,
        )  # fmt: skip

    def teardown(self) -> None:
        self.queue.close()
        shutil.rmtree(self.folder)

    @initialize()
    def start(self) -> None:
        self.reload(set(NAMES))

    # -- what happens to jobs

    @rule(wanted=st.sets(names, min_size=1))
    def reload(self, wanted: set[str]) -> None:
        jobs = [job(name) for name in sorted(wanted)]
        self.queue.apply_manifest(manifest(*jobs, pause_after_failures=0, max_failures=9, max_host_losses=2))

    @rule(host=st.sampled_from(HOSTS), contents=st.lists(st.sampled_from(CONTENTS), max_size=2), end=pick)
    def an_attempt(self, host: str, contents: list[bytes], end: int) -> None:
        """Claimed, some uploads, and one of its ends, or none yet."""
        row = self.queue.claim(host, LINUX).row
        if row is None:
            return
        for content in contents:
            self.upload(row, host, content)
        self.end(row, host, contents, end)

    def end(self, row: JobRow, host: str, contents: list[bytes], end: int) -> None:
        if end <= 2 and contents:
            digest = hashlib.sha256(contents[-1]).hexdigest()
            assert self.queue.complete(row.job_id, host, artifact_id=digest, require_upload=True)
        elif end == 3:
            assert self.queue.fail(row.job_id, host, error="x")
        elif end == 4:
            assert self.queue.release(row.job_id, host)

    def upload(self, row: JobRow, host: str, content: bytes) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield content

        digest = hashlib.sha256(content).hexdigest()
        done = asyncio.run(
            self.store.ingest_stream(
                job_id=row.job_id, model=row.model, mode=row.mode, worker=host, expected_sha256=digest, body=body(),
                max_bytes=1000, epoch=row.epoch,
            )
        )  # fmt: skip
        assert done.status in ("stored", "already-present")
        self.queue.record_upload(row.job_id, row.epoch, digest, len(content))

    @rule(at=pick, content=st.sampled_from(CONTENTS), completes=st.booleans())
    def the_holder_of_a_live_or_lapsed_lease_goes_on(self, at: int, content: bytes, completes: bool) -> None:
        held = [row for row in self.rows() if row.lapsed or row.status in ("claimed", "running")]
        if not held:
            return
        row = held[at % len(held)]
        host = str(row.claimed_by)
        uploaded = [one for one in CONTENTS if self.queue.has_upload(row.job_id, row.epoch, sha(one))]
        if completes and uploaded:  # what it sent before is still there
            assert self.queue.complete(row.job_id, host, artifact_id=sha(uploaded[0]), require_upload=True)
        else:
            assert self.queue.heartbeat(row.job_id, host)
            self.upload(row, host, content)

    @rule(name=names, force=st.booleans())
    def requeue(self, name: str, force: bool) -> None:
        self.queue.requeue(job_id(name), force=force)

    @rule(at=pick)
    def cancel(self, at: int) -> None:
        rows = self.rows()
        self.queue.cancel(rows[at % len(rows)].job_id)

    @rule(name=names)
    def verify(self, name: str) -> None:
        made = shadows.start(self.queue, job_id(name))
        assert made.row is not None or made.http_status == 409
        if made.row is not None:
            row = self.queue.get(made.row.job_id)
            assert row is not None
            assert (row.epoch, self.queue.attempts(row.job_id)) == (0, []), (
                "a new run is nobody's continuation"
            )
            assert not any(
                self.queue.has_upload(row.job_id, n, sha(one)) for n in range(4) for one in CONTENTS
            )

    # -- time and retention

    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1, DAY_S * 0.9, DAY_S * 1.1, DAY_S * 4]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.queue.sweep_stale()

    @rule()
    def restart(self) -> None:
        self.queue.close()
        self.open()

    @rule(artifact_days=days, audit_days=days, shadow_days=days)
    def clean(self, artifact_days: float | None, audit_days: float | None, shadow_days: float | None) -> None:
        rules = Retention(artifact_days, audit_days, None, shadow_days)
        before = dict(self.store.sizes())
        predicted = self.run(rules, dry_run=True)
        assert self.store.sizes() == before, "a dry run changes nothing"
        done = self.run(rules, dry_run=False)
        assert done == predicted
        gone = {one.artifact_id for one in done.artifacts}
        assert self.store.sizes() == {key: size for key, size in before.items() if key not in gone}
        assert self.run(rules, dry_run=True).is_empty
        now = self.clock.wall_s()
        for row in self.queue.read("retention_uploads"):
            if row["artifact_id"] in gone and artifact_days is not None:
                assert row["at"] < now - artifact_days * DAY_S
        assert all(self.queue.audit(row.job_id) for row in self.rows()), "each job keeps its latest row"

    @rule(step=st.sampled_from(STEPS), artifact_days=days)
    def killed_while_it_cleans(self, step: str, artifact_days: float | None) -> None:
        def die(*_: object) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, step, die)
            try:
                self.run(Retention(artifact_days, None, None, 1.0), dry_run=False)
            except Killed:
                self.restart()

    def run(self, rules: Retention, *, dry_run: bool) -> Found:
        async def write(call: Callable[[], Any]) -> Any:
            (result,) = self.queue.run_batch([call])
            if isinstance(result, Exception):
                raise result
            return result

        async def main() -> Found:
            return await Cleaner(self.queue, self.store, write, NoLogs()).run(rules, dry_run=dry_run)

        return asyncio.run(main())

    # -- what must hold

    def rows(self) -> list[JobRow]:
        return [*self.queue.list_jobs(), *self.queue.list_jobs(kind="shadow")]

    @invariant()
    def everything_that_somebody_names_is_there(self) -> None:
        for row in self.rows():
            for artifact in (row.artifact_id, row.of_artifact_id):
                assert artifact is None or self.is_whole(artifact), (row.name, row.status)
            if row.lapsed or row.status in ("claimed", "running"):
                for content in CONTENTS:
                    if self.queue.has_upload(row.job_id, row.epoch, sha(content)):
                        assert self.is_whole(sha(content)), "its attempt may still complete with it"
            results = [
                one.artifact_id for one in self.queue.attempts(row.job_id) if one.outcome == "completed"
            ]
            assert not results or self.is_whole(results[-1]), "the newest of each job"

    @invariant()
    def what_is_gone_was_written_down(self) -> None:
        removed = {row["artifact_id"] for row in self.queue.read("removed")}
        for row in self.rows():
            for attempt in self.queue.attempts(row.job_id):
                artifact = attempt.artifact_id
                assert artifact is None or artifact in removed or self.is_whole(artifact)

    def is_whole(self, artifact: str | None) -> bool:
        path = self.store.path_of(artifact)
        return path is not None and sha(path.read_bytes()) == artifact


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TestRetentionMachine = RetentionMachine.TestCase
TestRetentionMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
