"""The operator's pauses, inside the queue's transaction: of the whole fleet, and of one job.

A pause is no state of a job. What runs goes on and may complete; what waits is not handed out until it is resumed.
Both survive restarts and reloads, and every change leaves an audit row with who and why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from training.fleet.rows import JobRow, Outcome
from training.fleet.types import Status

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

PAUSABLE: tuple[Status, ...] = ("pending", "claimed", "running")


def pause_fleet(queue: JobQueue, reason: str, *, actor: str = "operator") -> int:
    """Give nobody a job until `resume_fleet`; returns how many jobs run on.

    Asking again changes nothing; with another reason it changes the reason.
    """
    with queue.atomic():
        if queue.matcher.rules.paused_reason != reason:
            queue.execute("fleet_pause", reason=reason, at=queue.clock.wall_s())
            queue.matcher.pause(reason)  # a rollback reads the table again
            queue.audit_host(actor, "pause", "", reason)
        return len(queue.leases.all())


def resume_fleet(queue: JobQueue, *, actor: str = "operator") -> int:
    """Hand out jobs again; returns how many run. Asking again changes nothing."""
    with queue.atomic():
        before = queue.matcher.rules.paused_reason
        if before is not None:
            queue.execute("fleet_resume")
            queue.matcher.pause(None)
            queue.audit_host(actor, "resume", "", before)
        return len(queue.leases.all())


def pause_job(queue: JobQueue, job_id: str, reason: str, *, actor: str = "operator") -> Outcome:
    """Hand this job out to nobody until `resume_job`, also when it is queued again. 409 for what has ended."""
    with queue.atomic():
        row = queue.row(job_id)
        if row is None:
            return _unknown(job_id)
        if row.status not in PAUSABLE:
            return Outcome(False, row, 409, f"the job is already {row.status}; there is nothing to pause")
        if row.paused_reason != reason:
            row = _save(queue, row, reason, "pause", actor, reason)
        return Outcome(True, row)


def resume_job(queue: JobQueue, job_id: str, *, actor: str = "operator") -> Outcome:
    """Let the job be handed out again. Asking again, or for a job that is not paused, changes nothing."""
    with queue.atomic():
        row = queue.row(job_id)
        if row is None:
            return _unknown(job_id)
        if row.paused_reason is not None:
            row = _save(queue, row, None, "resume", actor, row.paused_reason)
        return Outcome(True, row)


def _save(
    queue: JobQueue, row: JobRow, paused_reason: str | None, event: str, actor: str, detail: str
) -> JobRow:
    new = replace(row, paused_reason=paused_reason)
    queue.save(row, new, event, actor, detail=detail)
    return new


def _unknown(job_id: str) -> Outcome:
    return Outcome(False, None, 404, f"no job {job_id[:80]}")
