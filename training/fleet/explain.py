"""Why a job waits and how hosts are seen: matching's own checks, laid out as data.

Nothing is decided here. Each verdict comes from `training.fleet.eligibility`, which claims use too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet import eligibility
from training.fleet.eligibility import Check, HostView, Requirement, Rules
from training.fleet.rows import JobRow

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue


def job_checks(row: JobRow) -> tuple[Check, ...]:
    """What keeps a job from being handed out to anybody."""
    pending = row.status == "pending"
    again = f"cis490-jobs verify {(row.of_job_id or '')[:12]} --again" if row.is_shadow else ""
    hints = {
        "cancelled": f"cis490-jobs requeue {row.name}",
        "failed": f"cis490-jobs requeue {row.name}",
        "completed": f"cis490-jobs requeue --force {row.name}",
    }
    return (
        Check(
            "pending", pending, "pending", row.status, "" if pending else f"the job is {row.status}",
            again or hints.get(row.status, ""),
        ),
        Check(
            "in_manifest", not row.held, "in the manifest", "no longer there" if row.held else "in the manifest",
            "the manifest no longer has this job: it is held" if row.held else "",
            "put it back into the manifest and reload, or cancel it" if row.held else "",
        ),
    )  # fmt: skip


def job(row: JobRow, requirement: Requirement, hosts: Sequence[HostView], rules: Rules) -> dict[str, Any]:
    """The answer of `GET /v1/job/{id}/eligibility`."""
    own = job_checks(row)
    rivals = eligibility.rivals_of(requirement, hosts, rules)
    verdicts = [(host, eligibility.verdict(requirement, host, rivals, rules)) for host in hosts]
    eligible = [host.name for host, found in verdicts if all(check.ok for check in found)]
    open_to_claims = all(check.ok for check in own)
    return {
        "job_id": row.job_id,
        "name": row.name,
        "status": row.status,
        "claimable": open_to_claims and bool(eligible),
        "summary": _summary(row, own, verdicts, eligible),
        "job_checks": [check._asdict() for check in own],
        "hosts": [
            {
                "host": host.name,
                "live": host.live,
                "seen_s_ago": host.seen_s_ago,
                "eligible": host.name in eligible,
                "checks": [check._asdict() for check in found],
            }
            for host, found in verdicts
        ],
    }


def while_disk_full(found: dict[str, Any], refusal: str) -> dict[str, Any]:
    """The same answer while the receiver hands out nothing: else it would promise what a claim is refused."""
    check = Check(
        "disk", False, "room on the receiver's disk", "full", refusal,
        "free space on the receiver's disk; nothing needs a restart",
    )  # fmt: skip
    return {
        **found,
        "claimable": False,
        "summary": f"{found['name']}: {refusal}" if found["claimable"] else found["summary"],
        "job_checks": [*found["job_checks"], check._asdict()],
    }


def _summary(
    row: JobRow,
    own: tuple[Check, ...],
    verdicts: Sequence[tuple[HostView, tuple[Check, ...]]],
    eligible: list[str],
) -> str:
    blocked = [check.message for check in own if not check.ok]
    if blocked:
        return f"{row.name}: {'; '.join(blocked)}."
    if eligible:
        return f"{row.name} can start on {', '.join(eligible)}: next in line when nothing better waits."
    if not verdicts:
        return f"{row.name} waits: no host is in the manifest and no worker has called yet."
    closest = min(verdicts, key=lambda pair: sum(not check.ok for check in pair[1]))
    reasons = "; ".join(check.message for check in closest[1] if not check.ok)
    return (
        f"{row.name} cannot start on any of {len(verdicts)} hosts; closest is {closest[0].name}: {reasons}."
    )


def workers(queue: JobQueue, now_s: float, waiting: Mapping[int, int]) -> list[dict[str, Any]]:
    """The answer of `GET /v1/workers`: each host that has called."""
    matcher = queue.matcher
    out = []
    for name, seen in sorted(matcher.seen.items()):
        spec = matcher.hosts.get(name)
        view = matcher.view(name, now_s, queue.leases.busy(name))
        _, mismatches = eligibility.effective(seen.capability, spec)
        out.append(
            {
                "host": name,
                "capability": seen.capability.to_dict(),
                "effective": view.capability.to_dict(),
                "last_seen_at": seen.wall_s,
                "live": view.live,
                "busy": view.busy,
                "slots": view.slots,
                "paused_reason": view.paused_reason,
                "drained_reason": view.drained_reason,
                "mismatches": list(mismatches),
                "in_manifest": spec is not None,
                "eligible_jobs": matcher.waiting_for(view, waiting),
            }
        )
    return out
