"""What must be true after any scenario of faults: pure functions over what was collected. See `docs/faults.md`.

Every function returns sentences, one for each thing that is wrong; an empty list is what a test wants to see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Stamp:
    """One line of the run log: what a trainer did, when, on the clock that counts suspend."""

    kind: str
    pid: int
    job: str
    epoch: int
    at_s: float


@dataclass(frozen=True)
class Ack:
    """Something that was answered 200 or 201: from then on it must never be lost."""

    verb: str
    """claim, upload, complete, fail, release; or an operator's cancel, requeue."""
    job_id: str
    epoch: int = 0
    artifact_id: str = ""
    request: str = ""
    """Of a claim: what made it repeatable."""
    fail_class: str = ""


@dataclass(frozen=True)
class Evidence:
    """Everything that the oracle judges."""

    stamps: Sequence[Stamp]
    acks: Sequence[Ack]
    jobs: Sequence[Json]
    """`GET /v1/job/{id}` of every job, after the faults have stopped and the fleet has come to rest."""
    blobs: Mapping[str, str]
    """Name of each stored artifact -> sha256 of what lies there."""
    orphans: Sequence[str] = ()
    """Processes that belong to the fleet and should not be there."""
    leftovers: Sequence[str] = ()
    """Files that should be gone."""
    database: str = "ok"
    """SQLite's own integrity check."""
    unguarded: frozenset[str] = field(default_factory=frozenset)
    """Names of jobs whose guard was itself stopped by the test: nobody could freeze their trainers."""


def faults_of(found: Evidence) -> list[str]:
    """All that is wrong."""
    by_id = {str(job["job_id"]): job for job in found.jobs}
    return [
        *lost_acknowledgements(found.acks, by_id, found.blobs),
        *double_acceptances(found.jobs),
        *double_grants(found.acks),
        *overlapping_runs(found.stamps, found.unguarded),
        *wrong_blobs(found.blobs, found.jobs),
        *unfinished(found.jobs),
        *audit_gaps(found.jobs),
        *(f"orphan process: {one}" for one in found.orphans),
        *(f"left behind: {one}" for one in found.leftovers),
        *([] if found.database == "ok" else [f"the database is damaged: {found.database}"]),
    ]


_OUTCOME = {"complete": "completed", "fail": "failed", "release": "released"}


def lost_acknowledgements(
    acks: Iterable[Ack], jobs: Mapping[str, Json], blobs: Mapping[str, str]
) -> list[str]:
    """What was answered and cannot be found any more."""
    wrong: list[str] = []
    for ack in acks:
        job = jobs.get(ack.job_id)
        if job is None:
            wrong.append(f"{ack} was acknowledged and its job is gone")
            continue
        attempts = {row["epoch"]: row for row in job["attempts_log"]}
        events = {row["event"] for row in job["audit"]}
        attempt = attempts.get(ack.epoch)
        where = f"{job['name']} epoch {ack.epoch}"
        if ack.verb in ("cancel", "requeue"):
            if ack.verb not in events:
                wrong.append(f"{ack.verb} of {job['name']} was acknowledged and no audit row tells of it")
        elif attempt is None:
            wrong.append(f"{ack.verb} of {where} was acknowledged and that attempt is unknown")
        elif ack.verb in _OUTCOME:
            expected = {_OUTCOME[ack.verb]}
            if ack.fail_class == "preempted":
                expected.add("released")
            if attempt["outcome"] not in expected:
                wrong.append(f"{ack.verb} of {where} was acknowledged; it is {attempt['outcome']!r} now")
            if ack.verb == "complete" and attempt["artifact_id"] != ack.artifact_id:
                wrong.append(f"{where} was completed with {ack.artifact_id}, not {attempt['artifact_id']}")
        if ack.artifact_id and ack.artifact_id not in blobs:
            wrong.append(f"{ack.verb} of {where} was acknowledged and artifact {ack.artifact_id} is gone")
    return wrong


def double_acceptances(jobs: Iterable[Json]) -> list[str]:
    """At most one result for each generation of a job."""
    wrong: list[str] = []
    for job in jobs:
        by_generation = Counter(
            row["generation"] for row in job["attempts_log"] if row["outcome"] == "completed"
        )
        wrong += [
            f"{job['name']}: generation {g} accepted {n} results" for g, n in by_generation.items() if n > 1
        ]
    return wrong


def double_grants(acks: Iterable[Ack]) -> list[str]:
    """An (attempt of a) job goes to one claim, however often that is repeated."""
    requests: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for ack in acks:
        if ack.verb == "claim":
            requests[ack.job_id, ack.epoch].add(ack.request)
    return [f"{key} was granted to {len(who)} claims" for key, who in requests.items() if len(who) > 1]


def overlapping_runs(stamps: Iterable[Stamp], unguarded: frozenset[str] = frozenset()) -> list[str]:
    """Two trainers of one job never run at once: all steps of an attempt lie before those of the next one."""
    runs: defaultdict[str, dict[tuple[int, int], list[float]]] = defaultdict(dict)
    for stamp in stamps:
        runs[stamp.job].setdefault((stamp.epoch, stamp.pid), []).append(stamp.at_s)
    wrong: list[str] = []
    for job, by_run in runs.items():
        ordered = sorted(by_run.items(), key=lambda item: (item[0][0], item[1][0]))
        for (first, earlier), (second, later) in pairwise(ordered):
            overlap_s = max(earlier) - min(later)
            if overlap_s > 0 and job not in unguarded:
                wrong.append(
                    f"{job}: trainers of epochs {first[0]} and {second[0]} ran at once for {overlap_s:.3f} s"
                )
    return wrong


def wrong_blobs(blobs: Mapping[str, str], jobs: Iterable[Json]) -> list[str]:
    """A name in the store is the digest of what lies there, and each completed job's artifact is there."""
    wrong = [f"artifact {name} holds {content}" for name, content in blobs.items() if name != content]
    wrong += [
        f"{job['name']} is completed and its artifact {job['artifact_id']} is not stored"
        for job in jobs
        if job["status"] == "completed" and job["artifact_id"] not in blobs
    ]
    return wrong


def unfinished(jobs: Iterable[Json]) -> list[str]:
    """After the faults stopped and the fleet had its time, nothing is pending or running."""
    return [
        f"{job['name']} is stuck: {job['status']}, attempts {job['attempts']}, {job['last_error']!r}"
        for job in jobs
        if job["status"] not in FINAL
    ]


def audit_gaps(jobs: Iterable[Json]) -> list[str]:
    """The audit rows of a job are one chain that ends where the job is."""
    wrong: list[str] = []
    for job in jobs:
        rows = job["audit"]
        if rows and _state(rows[-1]["to"]) != _state(job["status"]):
            wrong.append(f"{job['name']} is {job['status']}; its last audit row says {rows[-1]['to']}")
        wrong += [
            f"{job['name']}: audit row {two['event']!r} begins at {two['from']}, the one before ends at {one['to']}"
            for one, two in pairwise(rows)
            if one["to"] != two["from"]
        ]
    return wrong


def _state(phase: str) -> str:
    return phase.removesuffix("_lapsed")
