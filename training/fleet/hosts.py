"""What happens to a host as a whole, inside the queue's transaction: drained, undrained, forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cis490.failpoints import failpoint
from training.fleet.rows import Outcome

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue
    from training.fleet.queue_state import QueueState

MAX_UNKNOWN_HOSTS = 1000
"""How many hosts that the manifest does not name are remembered (where it lets them take part)."""


def drain(queue: JobQueue, host: str, reason: str, *, actor: str = "operator") -> Outcome:
    """Let the host finish what it has and give it no more, until `undrain`. Survives restarts and reloads.

    Asking again changes nothing; with another reason it changes the reason.
    """
    with queue.atomic():
        if not _is_known(queue, host):
            return _unknown(host)
        before = queue.matcher.drained.get(host)
        if before != reason:
            queue.execute("drain_add", host=host, reason=reason, at=queue.clock.wall_s())
            _put(queue, host, reason)
            _audit(queue, actor, "drain", host, reason)
        failpoint("coordinator.drain_written")
        return Outcome(True)


def undrain(queue: JobQueue, host: str, *, actor: str = "operator") -> Outcome:
    """Give the host jobs again. Asking again, or for a host that was never drained, changes nothing."""
    with queue.atomic():
        if not _is_known(queue, host):
            return _unknown(host)
        before = queue.matcher.drained.get(host)
        if before is not None:
            queue.execute("drain_remove", host=host)
            _put(queue, host, None)
            _audit(queue, actor, "undrain", host, before)
        failpoint("coordinator.undrain_written")
        return Outcome(True)


def resume(queue: JobQueue, host: str, *, actor: str = "operator") -> Outcome:
    """End the pause after failures in a row, and forget these. Asking again changes nothing."""
    with queue.atomic():
        if not _is_known(queue, host):
            return _unknown(host)
        seen = queue.matcher.seen.get(host)
        if seen is not None and (seen.paused_reason is not None or seen.failures_in_a_row):
            queue.execute("worker_resume", host=host)
            resumed = replace(seen, paused_reason=None, failures_in_a_row=0, last_failed_job=None)
            queue.remember(host, resumed)
            _audit(
                queue,
                actor,
                "resume",
                host,
                seen.paused_reason or f"{seen.failures_in_a_row} failures forgotten",
            )
        return Outcome(True)


def audit_of(queue: JobQueue, host: str) -> list[dict[str, Any]]:
    """When this host was drained and undrained, by whom and why."""
    return [dict(row) for row in queue.read("audit_of_host", host=host)]


def forget_oldest(queue: QueueState, newcomer: str) -> None:
    """Keep the number of remembered unknown hosts bounded: those that were silent longest go first.

    Never one that the manifest names, that holds a lease or that is drained. Nothing is lost with the others
    but their last report and their row of failures: they are new when they call again.
    """
    matcher = queue.matcher
    if newcomer in matcher.hosts or len(matcher.seen) <= MAX_UNKNOWN_HOSTS:
        return
    unknown = [name for name in matcher.seen if name not in matcher.hosts]
    spare = len(unknown) - MAX_UNKNOWN_HOSTS
    if spare <= 0:
        return
    kept = {newcomer, *matcher.drained}
    silent = [name for name in unknown if name not in kept and not queue.leases.busy(name)]
    silent.sort(key=lambda name: matcher.seen[name].at_s)
    for name in silent[:spare]:
        before = matcher.seen[name]
        queue.on_rollback(lambda name=name, before=before: matcher.unsee(name, before))  # type: ignore[misc]
        matcher.unsee(name, None)
        queue.execute("worker_forget", host=name)


def _is_known(queue: JobQueue, host: str) -> bool:
    matcher = queue.matcher
    return host in matcher.hosts or host in matcher.seen or host in matcher.drained


def _unknown(host: str) -> Outcome:
    text = (
        f"no host {host[:80]}: the manifest does not name it and it has never called; see cis490-jobs workers"
    )
    return Outcome(False, None, 404, text)


def _put(queue: JobQueue, host: str, reason: str | None) -> None:
    """In memory; a rollback reads the table again (`Matcher.forget`)."""
    if reason is None:
        del queue.matcher.drained[host]
    else:
        queue.matcher.drained[host] = reason


def _audit(queue: JobQueue, actor: str, event: str, host: str, detail: str) -> None:
    queue.audit_host(actor, event, host, detail)
