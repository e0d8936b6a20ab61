"""What each waiting job waits for, in a few words: the REASON of `cis490-jobs list`.

Nothing is decided here: who may run what comes from matching, once for each class of jobs, and why no host can from
`explain`. Reads the database and takes the queue's lock for a moment: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet import eligibility, explain
from training.fleet.eligibility import HostView
from training.fleet.matching import Fleet
from training.fleet.rows import JobRow

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue


def with_reasons(queue: JobQueue, rows: Sequence[JobRow], told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of the list with `waits_for`: a few words for each that is pending, else null."""
    found = _reasons(queue, {row.job_id for row in rows if row.status == "pending"})
    paused = queue.matcher.rules.paused_reason
    for row, entry in zip(rows, told, strict=True):
        entry["waits_for"] = _reason(row, paused, found) if row.status == "pending" else None
    return told


def _reason(row: JobRow, fleet_paused: str | None, found: dict[str, str]) -> str | None:
    if row.held:
        return explain.HELD
    if row.paused_reason is not None:
        return f"paused: {row.paused_reason}" if row.paused_reason else "paused"
    if fleet_paused is not None:
        return f"the fleet is paused: {fleet_paused}" if fleet_paused else "the fleet is paused"
    return found.get(row.job_id)


def _reasons(queue: JobQueue, wanted: set[str]) -> dict[str, str]:
    """Job id -> its reason, of those in line. One walk along the line, which counts who goes first where."""
    if not wanted:
        return {}
    line = [(row["job_id"], row["class_id"]) for row in queue.read("jobs_in_line")]
    able: dict[int, list[HostView]] = {}
    stuck: dict[int, str] = {}
    with queue.still():
        views = queue.views(queue.clock.now_s())
        fleet = Fleet(queue.matcher, views)
        for class_id in {class_id for _, class_id in line if queue.matcher.knows(class_id)}:
            able[class_id] = _able(queue, fleet, views, class_id)
            if not able[class_id]:
                stuck[class_id] = explain.stuck_reason(queue, class_id, views) or "a host that can run it"
    able = _one_of_each(able)
    first: dict[str, int] = {}
    out = {}
    for job_id, class_id in line:
        hosts = able.get(class_id)
        if hosts is None:
            continue  # came while the line was read: the next look has it
        if job_id in wanted:
            out[job_id] = _place(hosts, first) if hosts else f"no host: {stuck[class_id]}"
        for host in hosts:
            first[host.name] = first.get(host.name, 0) + 1
    return out


def _one_of_each(able: dict[int, list[HostView]]) -> dict[int, list[HostView]]:
    """Only the readiest of the hosts that are able to do the very same: the line before all of these is one line."""
    does: dict[str, list[int]] = {}
    views: dict[str, HostView] = {}
    for class_id, hosts in able.items():
        for host in hosts:
            does.setdefault(host.name, []).append(class_id)
            views[host.name] = host
    kept: dict[tuple[int, ...], HostView] = {}
    for name in sorted(does, key=lambda name: (not views[name].is_ready, name)):
        kept.setdefault(tuple(does[name]), views[name])
    names = {host.name for host in kept.values()}
    return {class_id: [host for host in hosts if host.name in names] for class_id, hosts in able.items()}


def _able(queue: JobQueue, fleet: Fleet, views: Iterable[HostView], class_id: int) -> list[HostView]:
    """The hosts that could get a job of this class; of those that fit, the ones that its wish is for."""
    matcher = queue.matcher
    fit = [view for view in views if view.takes_jobs and matcher.fitting(view, {class_id})]
    requirement = matcher.requirement(class_id)
    if not requirement.has_preference:
        return fit
    rivals = fleet.rivals(class_id)
    return [view for view in fit if eligibility.preference_check(requirement, view, rivals).ok] or fit


def _place(hosts: Sequence[HostView], first: dict[str, int]) -> str:
    """Where it comes first, as far as anybody can say now."""
    host = min(hosts, key=lambda one: (first.get(one.name, 0), not one.is_ready, one.name))
    before = first.get(host.name, 0)
    if not before and host.is_ready:
        return f"next in line on {host.name}"
    notes = [] if host.is_ready else ["busy"]
    if before:
        notes.append("1 job goes first" if before == 1 else f"{before} jobs go first")
    return f"waiting for {host.name} ({', '.join(notes)})"
