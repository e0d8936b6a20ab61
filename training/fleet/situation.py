"""All that decides whether one job is handed out, as one value; and the verdict on it. Pure.

`why` judges the fleet as it is, and the same fleet with a change applied (`training.fleet.changes`), by the very
checks that a claim uses. So a suggestion cannot promise what a claim would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.fleet import eligibility
from training.fleet.eligibility import Check, HostView, Requirement, Rivals, Rules
from training.fleet.rows import JobRow
from training.fleet.types import Capability


@dataclass(frozen=True, slots=True)
class Situation:
    """One job, every host, the rules, and the receiver's disk."""

    row: JobRow
    requirement: Requirement
    """What a claim judges the job by now: of its class, without the wishes whose grace is over."""
    hosts: tuple[HostView, ...]
    rules: Rules
    detected: Mapping[str, Capability] = field(default_factory=dict)
    """What each host that has called reported of itself; a view has what the manifest makes of it."""
    disk: str | None = None
    """Why the receiver hands out nothing: its disk is full. None: it is not."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Where the manifest in force states what of the job: key -> line."""

    def host(self, name: str) -> HostView:
        """The view of a host that is known to be there."""
        return next(view for view in self.hosts if view.name == name)


def job_checks(situation: Situation) -> tuple[Check, ...]:
    """What keeps a job from being handed out to anybody."""
    row, disk = situation.row, situation.disk
    pending = row.status == "pending"
    again = f"cis490-jobs verify {(row.of_job_id or '')[:12]} --again" if row.is_shadow else ""
    hints = {
        "cancelled": f"cis490-jobs requeue {row.name}",
        "failed": f"cis490-jobs requeue {row.name}",
        "completed": f"cis490-jobs requeue --force {row.name}",
    }
    found = (
        Check(
            "pending", pending, "pending", row.status, "" if pending else f"the job is {row.status}",
            again or hints.get(row.status, ""),
        ),
        Check(
            "in_manifest", not row.held, "in the manifest", "no longer there" if row.held else "in the manifest",
            "the manifest no longer has this job: it is held" if row.held else "",
            "put it back into the manifest and reload, or cancel it" if row.held else "",
        ),
        Check(
            "not_paused_job", row.paused_reason is None, "not paused", row.paused_reason or "not paused",
            "" if row.paused_reason is None else f"the job is paused: {row.paused_reason}",
            "" if row.paused_reason is None else f"cis490-jobs resume {row.name}",
        ),
    )  # fmt: skip
    if disk is None:
        return found
    hint = "free space on the receiver's disk; nothing needs a restart"
    return (*found, Check("disk", False, "room on the receiver's disk", "full", disk, hint))


def rivals(situation: Situation) -> Rivals:
    """Whom the job may wait for."""
    return eligibility.rivals_of(situation.requirement, situation.hosts, situation.rules)


def verdicts(situation: Situation) -> list[tuple[HostView, tuple[Check, ...]]]:
    """Every check of every host, in the order of the hosts."""
    better = rivals(situation)
    return [
        (host, eligibility.verdict(situation.requirement, host, better, situation.rules))
        for host in situation.hosts
    ]


def blockers(situation: Situation, name: str) -> list[Check]:
    """The checks that keep the job from this host; none: a claim by it is given the job, if no better one waits."""
    host = situation.host(name)
    found = (
        *job_checks(situation),
        *eligibility.verdict(situation.requirement, host, rivals(situation), situation.rules),
    )
    return [check for check in found if not check.ok]
