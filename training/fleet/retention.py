"""What may be removed, by the manifest's rules. Pure: rows in, decisions out.

Never removed, however old: an artifact that a job names (held or not), that a verification run compares with, that an
attempt under way has uploaded (or a lapsed one, whose host may come back), or that is the newest of its job. Files
that no row of the database names are nobody's business here: they may belong to another database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from training.fleet.types import Retention, RowKind, Status

DAY_S = 86_400.0
_ENDED: tuple[Status, ...] = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What counts of a job's or a verification run's row. `ended_at`: wall time of its last event."""

    job_id: str
    name: str
    kind: RowKind
    status: Status
    lapsed: bool
    epoch: int
    artifact_id: str | None
    of_artifact_id: str | None
    ended_at: float | None

    @property
    def may_still_complete(self) -> bool:
        """Does somebody hold it, or may its last holder still come back?"""
        return self.lapsed or self.status in ("claimed", "running")


@dataclass(frozen=True, slots=True)
class Made:
    """An artifact that an attempt uploaded, or completed with, and when."""

    job_id: str
    epoch: int
    artifact_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Going:
    """An artifact that may go, and why. `job`: the name of the job it was made for, "" when that is gone too."""

    artifact_id: str
    job: str
    size_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What may go now."""

    artifacts: tuple[Going, ...] = ()
    shadows: tuple[JobFacts, ...] = ()


def decide(
    rules: Retention,
    *,
    jobs: Iterable[JobFacts],
    uploads: Iterable[Made],
    completed: Iterable[Made],
    stored: Mapping[str, int],
    begun: Set[str],
    now: float,
) -> Decision:
    """What may go at the wall time `now`, oldest artifact first.

    `stored`: size in bytes of each artifact that lies in the store. `begun`: those whose removal was begun before and
    cut short; they go whatever the rules say today, unless something needs them again.
    """
    everything = {job.job_id: job for job in jobs}
    shadows = tuple(job for job in everything.values() if _is_old_shadow(job, rules, now))
    gone = {job.job_id for job in shadows}
    kept = {job_id: job for job_id, job in everything.items() if job_id not in gone}
    uploads, completed = list(uploads), list(completed)
    needed = _needed(kept, uploads, completed)
    made: dict[str, Made] = {}
    for one in (*uploads, *completed):
        if one.artifact_id not in made or made[one.artifact_id].at < one.at:
            made[one.artifact_id] = one
    results = {(one.job_id, one.epoch, one.artifact_id) for one in completed}
    left = _left_at(completed)
    going = [
        (one.at, Going(artifact_id, _name(everything, one), stored[artifact_id], _why(kept, one, results)))
        for artifact_id, one in made.items()
        if artifact_id in stored
        and artifact_id not in needed
        and (
            artifact_id in begun
            or _is_older(max(one.at, left.get(artifact_id, one.at)), rules.artifact_days, now)
        )
    ]
    return Decision(
        tuple(one for _, one in sorted(going, key=lambda pair: (pair[0], pair[1].artifact_id))), shadows
    )


def before(days: float | None, now: float) -> float | None:
    """The wall time before which a thing is old enough to go; None: never."""
    return None if days is None else now - days * DAY_S


def is_due(last_at: float | None, now: float) -> bool:
    """Is the daily run due? Also when the clock was set back behind the last one."""
    return last_at is None or not 0 <= now - last_at < DAY_S


def _needed(
    kept: Mapping[str, JobFacts], uploads: Iterable[Made], completed: Iterable[Made]
) -> set[str | None]:
    """The artifacts that stay whatever their age."""
    needed = {job.artifact_id for job in kept.values()} | {job.of_artifact_id for job in kept.values()}
    for one in uploads:
        job = kept.get(one.job_id)
        if job is not None and job.epoch == one.epoch and job.may_still_complete:
            needed.add(one.artifact_id)
    newest: dict[str, Made] = {}
    for one in completed:
        if one.job_id in kept and (one.job_id not in newest or newest[one.job_id].epoch < one.epoch):
            newest[one.job_id] = one
    return needed | {one.artifact_id for one in newest.values()}


def _left_at(completed: Iterable[Made]) -> dict[str, float]:
    """When an artifact was superseded: a result of long ago does not go on the day on which a newer one comes."""
    newer: dict[str, Made] = {}
    left: dict[str, float] = {}
    for one in sorted(completed, key=lambda one: -one.epoch):
        if one.job_id in newer:
            left[one.artifact_id] = max(newer[one.job_id].at, left.get(one.artifact_id, one.at))
        newer[one.job_id] = one
    return left


def _is_old_shadow(job: JobFacts, rules: Retention, now: float) -> bool:
    ended = job.kind == "shadow" and job.status in _ENDED and not job.lapsed
    return ended and job.ended_at is not None and _is_older(job.ended_at, rules.shadow_days, now)


def _is_older(at: float, days: float | None, now: float) -> bool:
    limit = before(days, now)
    return limit is not None and at < limit


def _name(jobs: Mapping[str, JobFacts], one: Made) -> str:
    return jobs[one.job_id].name if one.job_id in jobs else ""


def _why(kept: Mapping[str, JobFacts], one: Made, results: Set[tuple[str, int, str]]) -> str:
    job = kept.get(one.job_id)
    if job is None:
        return "of a verification run that was removed"
    if (one.job_id, one.epoch, one.artifact_id) in results:
        return f"superseded: {job.name} has a newer result"
    return f"uploaded by attempt {one.epoch} of {job.name}, which did not complete with it"
