"""One host in full, as `GET /v1/host/{name}` shows it. Reads the queue; decides nothing."""

from __future__ import annotations

from typing import Any

from training.fleet import enrolment_store, hosts, naming, views
from training.fleet.queue import JobQueue
from training.fleet.types import HostSpec

MAX_ATTEMPTS = 50
ATTEMPT_KEYS = (
    "job_id", "name", "epoch", "claimed_at", "ended_at", "outcome", "fail_class", "exit_code", "duration_s",
    "peak_rss_mib", "artifact_id",
)  # fmt: skip


def is_known(queue: JobQueue, name: str) -> bool:
    """Does the manifest name the host, or has it called?"""
    return name in _names(queue)


def nearest(queue: JobQueue, name: str) -> str | None:
    """The host's name that was most likely meant."""
    return next(iter(naming.nearest(name, sorted(_names(queue)))), None)


def _names(queue: JobQueue) -> set[str]:
    matcher = queue.matcher
    with queue.still():
        return {*matcher.hosts, *matcher.seen, *matcher.drained}


def host(queue: JobQueue, name: str) -> dict[str, Any] | None:
    """Everything but what only memory knows of its use; None for a host that nobody knows. Reads the database."""
    if not is_known(queue, name):
        return None
    row = next((row for row in queue.workers() if row["host"] == name), None)
    leases = queue.live_leases()
    held = [lease.job_id for lease in leases.values() if lease.host == name]
    found = [job for job in map(queue.get, held) if job is not None]
    attempts = [dict(one) for one in queue.read("attempts_on_host", host=name, most=MAX_ATTEMPTS)]
    ended = [one for one in attempts if one["outcome"] in ("completed", "failed", "lapsed")]
    return {
        "host": row,
        "name": name,
        "policy": _policy(queue.matcher.hosts.get(name)),
        "running": [views.job(job, leases.get(job.job_id), queue.reference) for job in found],
        "attempts": [_attempt(one) for one in attempts],
        "audit": hosts.audit_of(queue, name),
        "failure_rate": {
            "failed": sum(one["outcome"] != "completed" for one in ended),
            "ended": len(ended),
        },
        "drained_reason": queue.matcher.drained.get(name),
        "certificate": _certificate(queue, name),
    }


def _certificate(queue: JobQueue, name: str) -> dict[str, Any] | None:
    """When the last of its certificates ends, and whether it was revoked; None when nothing of it is known."""
    keys = ("not_after", "last_how", "issued_at", "revoked_at", "revoked_reason", "serials")
    mine = (one for one in enrolment_store.identities(queue) if (one["role"], one["name"]) == ("host", name))
    found = next(mine, None)
    return None if found is None else {key: found[key] for key in keys}


def _attempt(row: dict[str, Any]) -> dict[str, Any]:
    out = {key: row[key] for key in ATTEMPT_KEYS}
    out["started_at"] = row["claimed_at"]
    ended, started = row["ended_at"], row["claimed_at"]
    out["took_s"] = (
        row["duration_s"] if row["duration_s"] is not None else None if ended is None else ended - started
    )
    out["error"] = (row["error"] or "").partition("\n")[0][:200] or None
    return out


def _policy(spec: HostSpec | None) -> dict[str, Any] | None:
    """What the manifest says of the host, and in which lines; None for one that it does not name."""
    if spec is None:
        return None
    return {
        "allow_jobs": list(spec.allow_jobs),
        "deny_jobs": list(spec.deny_jobs),
        "slots": spec.slots,
        "force": spec.force,
        "capability": spec.capability.to_dict(),
        "line": spec.lines.get(""),
        "lines": {key: line for key, line in spec.lines.items() if key},
    }
