"""A fleet's day on a disk that may lose power at any write: random events in batches, and what must be left."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cis490.clock import ManualClock
from tests.factories.fleet import ARTIFACT, cpu_host, cuda_host, job, job_id, manifest
from tests.faults.power_disk import Disk, Machine, Moment
from training.fleet.queue import Claim, JobQueue
from training.fleet.types import FailClass, Manifest

PATH = "/power/training_jobs.db"
NAMES = ("w", "x", "y", "z")
HOSTS = {"a": cpu_host(), "b": cpu_host(), "gpu": cuda_host()}
CLASSES: tuple[FailClass, ...] = ("program", "bad_config", "oom", "preempted", "timeout")
REPEATED = 4
"""So many of the last answers are asked for again; the older ones stand in the state that was compared."""
TABLES = ("job", "attempt", "upload", "audit", "worker")

State = dict[str, list[tuple[Any, ...]]]


def state_of(queue: JobQueue) -> State:
    """Every row that a user could miss. `ready_at` is set anew at every start, on purpose."""
    found: State = {}
    for table in TABLES:
        rows = queue._connection.execute(f"SELECT * FROM {table}").fetchall()
        found[table] = [tuple(row[key] for key in row.keys() if key != "ready_at") for row in rows]  # noqa: SIM118
    return found


@dataclass(frozen=True)
class Grant:
    """A lease that somebody was answered."""

    job_id: str
    epoch: int
    host: str
    token: str


@dataclass
class Recording:
    """What happened. A moment belongs to the number of states that were acknowledged by then."""

    states: list[State] = field(default_factory=list)
    grants: list[tuple[int, Grant]] = field(default_factory=list)
    closed: list[tuple[int, str, Grant]] = field(default_factory=list)
    """(state, event, grant) of each request that ended an attempt and was answered 200."""
    moments: list[tuple[int, Moment]] = field(default_factory=list)
    answers: int = 0


class Broken(Exception):
    """Raised by a request that has already written."""


class Day:
    """One random scenario on one machine."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.chance = machine, random.Random(seed)
        self.clock = ManualClock()
        self.tokens = (f"token-{number}" for number in itertools.count())
        self.recording = Recording()

    def run(self, batches: int) -> Recording:
        disk = Disk()
        self.machine.boot(disk)
        disk.on_change = lambda: self.recording.moments.append(
            (len(self.recording.states) - 1, disk.moment())
        )
        self.queue = self.open()
        self.note()
        self.queue.apply_manifest(self.manifest())
        self.note()
        for _ in range(batches):
            if self.chance.random() < 0.06:
                self.restart()
            else:
                self.batch([self.random_call() for _ in range(self.chance.randint(1, 5))])
        self.restart()
        disk.on_change = lambda: None
        self.queue.close()
        return self.recording

    def open(self) -> JobQueue:
        return JobQueue(PATH, clock=self.clock, new_token=lambda: next(self.tokens))

    def note(self) -> None:
        """What was answered until now must be there after any cut from now on."""
        self.recording.states.append(state_of(self.queue))

    def restart(self) -> None:
        self.batch([self.queue.flush_heartbeats])
        self.queue.close()
        self.queue = self.open()

    def manifest(self) -> Manifest:
        wish = self.chance.random() < 0.5
        jobs = [
            job(name, priority=number, prefer_cuda=wish and number == 0) for number, name in enumerate(NAMES)
        ]
        gone = self.chance.choice([*NAMES, "", "", ""])
        return manifest(*[one for one in jobs if one.name != gone], pause_after_failures=0)

    def batch(self, calls: list[Callable[[], object]]) -> None:
        """All in one transaction, as the writer does; answered when it returns."""
        results = self.queue.run_batch(calls)
        self.recording.answers += sum(bool(found) for found in results)
        number = len(self.recording.states)
        for found in results:
            if isinstance(found, Claim) and found.row is not None and found.lease is not None:
                assert found.lease.token is not None
                grant = Grant(found.row.job_id, found.row.epoch, found.lease.host, found.lease.token)
                self.recording.grants.append((number, grant))
            if isinstance(found, tuple):
                self.recording.closed.append((number, *found))
        self.note()

    def random_call(self) -> Callable[[], object]:
        name, host = self.chance.choice(NAMES), self.chance.choice(list(HOSTS))
        events: dict[str, tuple[int, Callable[[], object]]] = {
            "claim": (6, lambda: self.queue.claim(host, HOSTS[host], with_token=True)),
            "heartbeat": (4, lambda: self.of_a_lease("heartbeat")),
            "complete": (2, lambda: self.of_a_lease("complete")),
            "fail": (2, lambda: self.of_a_lease("fail")),
            "release": (1, lambda: self.of_a_lease("release")),
            "cancel": (1, lambda: self.queue.cancel(job_id(name))),
            "requeue": (2, lambda: self.queue.requeue(job_id(name), force=self.chance.random() < 0.7)),
            "sweep": (2, self.time_passes),
            "reload": (1, lambda: self.queue.apply_manifest(self.manifest())),
            "flush": (1, self.queue.flush_heartbeats),
            "broken": (1, lambda: self.breaks(name)),
        }
        return self.chance.choice([call for weight, call in events.values() for _ in range(weight)])

    def breaks(self, name: str) -> None:
        """A request that writes and then raises: nothing of it may stay, and the others of its batch must."""
        self.queue.cancel(job_id(name))
        raise Broken

    def time_passes(self) -> int:
        self.clock.advance(self.chance.choice([1.0, 200.0, 601.0]))
        return self.queue.sweep_stale()

    def of_a_lease(self, event: str) -> object:
        """An event of any attempt there ever was: mostly refused, as late requests are."""
        if not self.recording.grants:
            return None
        recent = self.recording.grants[-6:]
        grant = self.chance.choice(recent)[1]
        if event == "heartbeat":
            return self.queue.heartbeat(grant.job_id, grant.host, token=grant.token)
        if event == "complete":
            self.queue.record_upload(grant.job_id, grant.epoch, ARTIFACT, 10)
        fail_class = self.chance.choice(CLASSES) if event == "fail" else "program"
        if send(self.queue, event, grant, fail_class):
            return ("release" if fail_class == "preempted" else event), grant
        return None


def send(queue: JobQueue, event: str, grant: Grant, fail_class: FailClass = "program") -> bool:
    """The request that ends an attempt, for the first time or again."""
    job, host, token = grant.job_id, grant.host, grant.token
    if event == "complete":
        return bool(queue.complete(job, host, artifact_id=ARTIFACT, token=token, require_upload=True))
    if event == "fail":
        return bool(queue.fail(job, host, error="x", token=token, fail_class=fail_class))
    return bool(queue.release(job, host, token=token))


def faults_of(queue: JobQueue, recording: Recording, acked: int) -> Iterator[str]:
    """What is wrong with the queue that was opened after the cut; nothing when all is well.

    `acked` is the number of the last state whose answers had left; the batch in work may be there or not.
    """
    execute = queue._connection.execute
    (sound,) = execute("PRAGMA integrity_check").fetchone()
    if sound != "ok" or execute("PRAGMA foreign_key_check").fetchall():
        yield f"corrupt: {sound}"
        return
    state = state_of(queue)
    allowed = recording.states[max(acked, 0) : acked + 2]
    if state not in allowed:
        yield "lost: it is neither what was acknowledged nor that and the whole batch in work"
        return
    yield from broken_invariants(queue)
    yield from broken_promises(queue, recording, acked)


def broken_invariants(queue: JobQueue) -> Iterator[str]:
    """One live lease per held job (I1), one attempt per epoch (I7), the row is the fold of its trail."""
    leases = queue.live_leases()
    for row in queue.list_jobs():
        lease, attempts, phase = leases.get(row.job_id), queue.attempts(row.job_id), ""
        if (lease is not None) != (row.status in ("claimed", "running")):
            yield f"{row.name}: {row.status}, lease {lease}"
        if lease is not None and (lease.epoch != row.epoch or attempts[-1].outcome is not None):
            yield f"{row.name}: the lease is not the last attempt's"
        if [attempt.epoch for attempt in attempts] != list(range(1, row.epoch + 1)):
            yield f"{row.name}: epoch {row.epoch}, attempts {[attempt.epoch for attempt in attempts]}"
        if row.attempts != sum(attempt.generation == row.generation for attempt in attempts):
            yield f"{row.name}: attempts {row.attempts} are not those of generation {row.generation}"
        accepted = [a.generation for a in attempts if a.outcome == "completed"]
        if len(accepted) != len(set(accepted)):
            yield f"{row.name}: two results in one generation"
        for entry in queue.audit(row.job_id):
            if entry["from_phase"] != phase and entry["event"] != "reload":
                yield f"{row.name}: {entry['event']} from {entry['from_phase']}, but it was {phase}"
            phase = entry["to_phase"]
        if phase != row.phase:
            yield f"{row.name}: {row.phase}, its trail says {phase}"


def broken_promises(queue: JobQueue, recording: Recording, acked: int) -> Iterator[str]:
    """The fleet goes on: workers repeat what was answered 200, and claim again."""
    answered = [(event, grant) for number, event, grant in recording.closed if number <= acked]
    for event, grant in answered[-REPEATED:]:
        if not send(queue, event, grant):
            yield f"{event} of {grant} was answered 200 and is refused now"
    granted = {(grant.job_id, grant.epoch) for number, grant in recording.grants if number <= acked}
    known = {
        (attempt.job_id, attempt.epoch, attempt.token)
        for row in queue.list_jobs()
        for attempt in queue.attempts(row.job_id)
    }
    for number, grant in recording.grants:
        if number <= acked and (grant.job_id, grant.epoch, grant.token) not in known:
            yield f"the grant {grant} is forgotten"
    for host, capability in HOSTS.items():
        again = queue.claim(host, capability, with_token=True)
        if again.row is not None and (again.row.job_id, again.row.epoch) in granted:
            yield f"epoch {again.row.epoch} of {again.row.name} is granted a second time (I6)"
