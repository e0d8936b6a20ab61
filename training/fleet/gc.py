"""Cleaning up by the manifest's rules: what `retention` says may go is taken away. No crash loses what is needed.

Database first, then the file: what is to go is written down and committed, the index gets its row, the file is
renamed away inside the writer, which asks once more whether anything needs it, and then it is deleted. Killed
anywhere, the next run finds what is left (docs/design/retention.md).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cis490.logs import event
from training.fleet import retention
from training.fleet.log_store import LogStore
from training.fleet.retention import Going, JobFacts, Made
from training.fleet.rows import dumps
from training.fleet.types import Retention

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue
    from training.fleet.store import ModelStore

log = logging.getLogger(__name__)
ROWS_AT_ONCE = 500
"""Rows of the audit trail that one call of the writer deletes: claims wait meanwhile."""

Write = Callable[[Callable[[], Any]], Awaitable[Any]]


class Logs(Protocol):
    """Where the logs lie, and the thread that may touch them."""

    @property
    def logs(self) -> LogStore | None: ...
    async def on_disk(self, call: Callable[[LogStore], tuple[int, int]]) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What may go, or what went."""

    rules: Retention
    artifacts: tuple[Going, ...] = ()
    shadows: tuple[JobFacts, ...] = ()
    trail: tuple[int, ...] = ()
    """Of the audit rows, their `seq`."""
    n_logs: int = 0
    log_bytes: int = 0
    faults: tuple[str, ...] = field(default=())
    """What could not be removed, and why; the next run tries again."""

    @property
    def freed_bytes(self) -> int:
        return sum(one.size_bytes for one in self.artifacts) + self.log_bytes

    @property
    def is_empty(self) -> bool:
        return not (self.artifacts or self.shadows or self.trail or self.n_logs)

    def answer(self, *, dry_run: bool) -> dict[str, Any]:
        """Of `POST /v1/gc`."""
        return {
            "ok": not self.faults,
            "dry_run": dry_run,
            "rules": asdict(self.rules),
            "artifacts": [asdict(one) for one in self.artifacts],
            "shadows": [{"job_id": one.job_id, "name": one.name} for one in self.shadows],
            "n_shadows": len(self.shadows),
            "n_audit": len(self.trail),
            "n_logs": self.n_logs,
            "freed_bytes": self.freed_bytes,
            "faults": list(self.faults),
        }


class Cleaner:
    """One receiver's. `write` runs a call inside the writer; runs never overlap."""

    def __init__(self, queue: JobQueue, store: ModelStore, write: Write, logs: Logs) -> None:
        self._queue, self._store, self._write, self._logs = queue, store, write, logs
        self._lock = asyncio.Lock()
        self._daily: asyncio.Task[Any] | None = None

    async def run(self, rules: Retention, *, dry_run: bool, actor: str = "operator") -> Found:
        """Find what may go and, without `dry_run`, remove it. Returns what did go, or would."""
        async with self._lock:
            found = await self._look(rules)
            if dry_run:
                return found
            found = await self._remove(found, actor)
            event(
                log, "gc.done", actor=actor, artifacts=len(found.artifacts), shadows=len(found.shadows),
                audit=len(found.trail), logs=found.n_logs, freed_bytes=found.freed_bytes, faults=len(found.faults),
            )  # fmt: skip
            return found

    async def daily(self, rules: Retention) -> None:
        """Begin a run in the background if there are rules and the last run is a day ago. Called every minute."""
        if all(days is None for days in asdict(rules).values()) or (self._daily and not self._daily.done()):
            return
        last = await asyncio.to_thread(self._queue.read, "gc_last")
        if retention.is_due(last[0]["at"] if last else None, self._queue.clock.wall_s()):
            self._daily = asyncio.create_task(self._in_background(rules))

    async def stop(self) -> None:
        """End a run in the background; what it has not removed is removed by the next one."""
        if self._daily is not None:
            self._daily.cancel()
            await asyncio.gather(self._daily, return_exceptions=True)

    async def _in_background(self, rules: Retention) -> None:
        try:
            await self.run(rules, dry_run=False, actor="receiver")
        except Exception as error:  # noqa: BLE001 - whatever happened, the receiver serves on; a minute later it is tried again
            event(log, "gc.failed", level=logging.ERROR, error=repr(error))

    # -- finding

    async def _look(self, rules: Retention) -> Found:
        found, may_complete = await asyncio.to_thread(look, self._queue, self._store, rules)
        n_logs, log_bytes = await self._expire_logs(rules, may_complete, dry_run=True)
        return Found(rules, found.artifacts, found.shadows, found.trail, n_logs, log_bytes)

    async def _expire_logs(
        self, rules: Retention, may_complete: frozenset[tuple[str, int]], *, dry_run: bool
    ) -> tuple[int, int]:
        limit = retention.before(rules.log_days, self._queue.clock.wall_s())
        if limit is None or self._logs.logs is None:
            return 0, 0
        return await self._logs.on_disk(
            lambda logs: logs.expire(limit, lambda *key: key in may_complete, dry_run=dry_run)
        )

    # -- removing

    async def _remove(self, found: Found, actor: str) -> Found:
        artifacts, shadows = await self._write(lambda: self._begin(found))
        gone, faults = [], []
        for one in artifacts:
            try:
                if await self._remove_artifact(one):
                    gone.append(one)
            except OSError as error:
                faults.append(f"artifact {one.artifact_id[:12]}: {error}")
        for start in range(0, len(found.trail), ROWS_AT_ONCE):
            await self._write(functools.partial(self._trim, found.trail[start : start + ROWS_AT_ONCE]))
        may_complete = await asyncio.to_thread(under_way, self._queue)
        n_logs, log_bytes = await self._expire_logs(found.rules, may_complete, dry_run=False)
        done = Found(found.rules, tuple(gone), shadows, found.trail, n_logs, log_bytes, tuple(faults))
        await self._write(lambda: self._end(done, actor))
        return done

    def _trim(self, seqs: tuple[int, ...]) -> None:
        """In the writer: delete these rows of the audit trail."""
        self._queue.execute("trail_remove", seqs=dumps(seqs))

    def _begin(self, found: Found) -> tuple[list[Going], tuple[JobFacts, ...]]:
        """In the writer: write down what is to go; what somebody has come to need meanwhile stays."""
        queue, at = self._queue, self._queue.clock.wall_s()
        shadows = []
        for shadow in found.shadows:
            if queue.execute("shadow_remove", job_id=shadow.job_id).rowcount:
                queue.execute("attempts_remove", job_id=shadow.job_id)
                shadows.append(shadow)
        artifacts = [one for one in found.artifacts if not self._is_needed(one.artifact_id)]
        for one in artifacts:
            queue.execute(
                "removed_add", artifact_id=one.artifact_id, size_bytes=one.size_bytes, why=one.why, at=at
            )
        return artifacts, tuple(shadows)

    async def _remove_artifact(self, one: Going) -> bool:
        """False when something came to need it, so that it stays."""
        await asyncio.to_thread(self._store.note_removed, one.artifact_id, one.size_bytes, one.why)
        if not await self._write(lambda: self._take_away(one.artifact_id)):
            await asyncio.to_thread(self._store.note_kept, one.artifact_id, one.size_bytes)
            return False
        await asyncio.to_thread(self._store.empty_bin)
        return True

    def _take_away(self, artifact_id: str) -> bool:
        """In the writer, where uploads are recorded too: an upload of the same bytes is either recorded by now, and
        the artifact stays, or it will find that the file is gone, and the worker sends it again."""
        if (
            self._is_needed(artifact_id)
            or not self._queue.execute("removed_one", artifact_id=artifact_id).fetchone()
        ):
            self._queue.execute("removed_forget", artifact_id=artifact_id)
            return False
        self._store.take_away(artifact_id)
        return True

    def _is_needed(self, artifact_id: str) -> bool:
        return self._queue.execute("artifact_in_use", artifact_id=artifact_id).fetchone() is not None

    def _end(self, done: Found, actor: str) -> None:
        self._queue.execute("gc_ran", at=self._queue.clock.wall_s())
        if not done.is_empty:
            self._queue.audit_host(actor, "gc", "", summary(done))


def look(queue: JobQueue, store: ModelStore, rules: Retention) -> tuple[Found, frozenset[tuple[str, int]]]:
    """What of database and store may go, and the attempts that may still complete. Reads both; no event loop."""
    now = queue.clock.wall_s()
    jobs = [JobFacts(**{**dict(row), "lapsed": bool(row["lapsed"])}) for row in queue.read("retention_jobs")]
    decision = retention.decide(
        rules,
        jobs=jobs,
        uploads=_made(queue, "retention_uploads", "at"),
        completed=_made(queue, "retention_completed", "ended_at"),
        stored=store.sizes(),
        begun={row["artifact_id"] for row in queue.read("removed")},
        now=now,
    )
    limit = retention.before(rules.audit_days, now)
    trail = () if limit is None else tuple(row["seq"] for row in queue.read("trail_old", before=limit))
    return Found(rules, decision.artifacts, decision.shadows, trail), _under_way(jobs)


def under_way(queue: JobQueue) -> frozenset[tuple[str, int]]:
    """The attempts that may still complete. Reads the database."""
    rows = queue.read("retention_jobs")
    return _under_way(JobFacts(**{**dict(row), "lapsed": bool(row["lapsed"])}) for row in rows)


def _under_way(jobs: Iterable[JobFacts]) -> frozenset[tuple[str, int]]:
    return frozenset((job.job_id, job.epoch) for job in jobs if job.may_still_complete)


def _made(queue: JobQueue, statement: str, at: str) -> list[Made]:
    return [Made(row["job_id"], row["epoch"], row["artifact_id"], row[at]) for row in queue.read(statement)]


def summary(found: Found) -> str:
    """In words, for the audit trail."""
    parts = [
        (len(found.artifacts), "artifacts"), (len(found.shadows), "verification runs"),
        (len(found.trail), "audit rows"), (found.n_logs, "logs"),
    ]  # fmt: skip
    return ", ".join(f"{n} {what}" for n, what in parts if n) + f"; {found.freed_bytes} bytes freed"
