"""What `estimates` needs, read from the queue: past attempts, what runs and waits, and who may run what.

Reads the database and takes the queue's lock for a moment: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.fleet import estimates
from training.fleet.estimates import Estimate, Forecast, History, Host, Running, Waiting
from training.fleet.rows import JobRow

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

KEPT_S = 10.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the whole fleet."""

    jobs: Mapping[str, Estimate]
    """By job id; those without a basis are not in it."""
    done: dict[str, Any] | None
    """`{"at", "basis"}`: when the last job ends; None where a part of it lacks a basis."""


def history(queue: JobQueue) -> History:
    """The newest completed attempts."""
    return History.of(tuple(row) for row in queue.read("attempts_past", most=estimates.MOST_PAST))


def of_fleet(queue: JobQueue) -> Expected:
    """Starts and ends of all jobs that run or wait."""
    found = _forecast(queue, history(queue), None)
    done = None
    if found.done_at is not None and found.n_past:
        n = found.n_past
        done = {"at": found.done_at, "basis": "1 past attempt" if n == 1 else f"{n} past attempts"}
    return Expected(found.jobs, done)


class Remembered:
    """`of_fleet`, kept while nothing happens, at most KEPT_S: whoever watches a page asks once a second.

    A claim, an end, a reload and a pause are all in the audit trail, so each makes it anew. A host that falls silent is
    not, and neither is the clock: that is what KEPT_S is for.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int] | None, Expected] = None, Expected({}, None)

    def of_fleet(self, queue: JobQueue) -> Expected:
        """From any thread; two that ask at the same time may both look."""
        key = int(queue.read("audit_span")[0]["last_seq"]), int(queue.clock.now_s() / KEPT_S)
        known, found = self._last
        if known != key:
            found = of_fleet(queue)
            self._last = key, found
        return found


def of_job(queue: JobQueue, row: JobRow, past: History | None = None) -> Estimate | None:
    """Start and end of one job that runs or waits; None where there is no basis."""
    if row.status not in ("pending", "claimed", "running"):
        return None
    known = history(queue) if past is None else past
    if row.status != "pending":
        if row.claimed_by is None or row.claimed_at is None:
            return None
        running = Running(row.job_id, row.model, row.mode, row.claimed_by, row.claimed_at)
        return estimates.of_running(known, running, queue.clock.wall_s())
    return _forecast(queue, known, row.job_id).jobs.get(row.job_id)


def position(queue: JobQueue, row: JobRow) -> int | None:
    """Its place in line on the host where it is best, from 1; None where no host takes it however long it waits."""
    if row.status != "pending" or row.held or row.paused_reason is not None:
        return None
    before = {
        one["class_id"]: one["n"] for one in queue.read("class_before", priority=row.priority, seq=row.seq)
    }
    with queue.still():
        matcher = queue.matcher
        known = {class_id for class_id in before if matcher.knows(class_id)}
        views = queue.views(queue.clock.now_s())
        able = [view for view in views if view.takes_jobs and matcher.fitting(view, {row.class_id})]
        places = [1 + sum(before[class_id] for class_id in matcher.fitting(view, known)) for view in able]
    return min(places, default=None)


def _forecast(queue: JobQueue, past: History, until: str | None) -> Forecast:
    waiting = [Waiting(*row) for row in queue.read("jobs_in_line")]
    running = [Running(*row) for row in queue.read("jobs_under_way")]
    classes = {job.class_id for job in waiting}
    with queue.still():
        matcher = queue.matcher
        classes = {class_id for class_id in classes if matcher.knows(class_id)}
        paused = matcher.rules.paused_reason is not None
        views = [] if paused else [view for view in queue.views(queue.clock.now_s()) if view.takes_jobs]
        fitting = {view.name: matcher.fitting(view, classes) for view in views}
    hosts = [Host(view.name, view.slots) for view in views]
    return estimates.forecast(
        hosts,
        running,
        waiting,
        lambda name, class_id: class_id in fitting[name],
        past,
        queue.clock.wall_s(),
        until=until,
    )
