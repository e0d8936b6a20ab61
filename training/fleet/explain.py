"""Why a job waits, why a host is idle, and how hosts are seen: matching's own checks, laid out as data.

Nothing is decided here. Each verdict comes from `training.fleet.eligibility`, which claims use too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet import eligibility, suggestions
from training.fleet import situation as situations
from training.fleet.changes import Change
from training.fleet.eligibility import Check, HostView, Rivals, Rules
from training.fleet.estimates import NO_PEAKS, Peaks
from training.fleet.matching import Fleet
from training.fleet.rows import JobRow
from training.fleet.situation import Situation

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

Json = dict[str, Any]


def job(
    situation: Situation,
    *,
    position: int | None = None,
    estimate: Json | None = None,
    peaks: Peaks = NO_PEAKS,
) -> Json:
    """The answer of `GET /v1/job/{id}/eligibility`.

    `position` in line and `estimate` of its start and end are passed on; `peaks` is what past attempts used at most.
    """
    row, own = situation.row, situations.job_checks(situation)
    verdicts = situations.verdicts(situation)
    eligible = [host.name for host, found in verdicts if all(check.ok for check in found)]
    open_to_claims = all(check.ok for check in own)
    found = suggestions.suggest(situation, verdicts)
    return {
        "job_id": row.job_id,
        "name": row.name,
        "status": row.status,
        "claimable": open_to_claims and bool(eligible),
        "summary": _summary(row, own, verdicts, eligible),
        "position": position,
        "estimate": estimate,
        "job_checks": [_told(check) for check in own],
        "hosts": [
            {
                "host": host.name,
                "live": host.live,
                "seen_s_ago": host.seen_s_ago,
                "eligible": host.name in eligible,
                "checks": [_told(check) for check in found],
            }
            for host, found in verdicts
        ],
        "suggestions": [one.to_dict(peaks.note(_lowered(one.changes))) for one in found],
    }


def _told(check: Check) -> Json:
    """As the public JSON has it; `_asdict` takes three times as long, and an answer has a thousand of them."""
    return dict(zip(Check._fields, check, strict=True))


def _lowered(changes: Sequence[Change]) -> dict[str, float]:
    return {
        str(change.key): change.new
        for change in changes
        if change.kind in ("lower_min_vram", "lower_min_ram")
    }


def _summary(
    row: JobRow,
    own: tuple[Check, ...],
    verdicts: Sequence[tuple[HostView, tuple[Check, ...]]],
    eligible: list[str],
) -> str:
    blocked = [check.message for check in own if not check.ok]
    if row.status in ("claimed", "running"):
        return f"{row.name} does not wait: it runs on {row.claimed_by}, attempt {row.attempts}."
    if blocked:
        return f"{row.name}: {'; '.join(blocked)}."
    if eligible:
        return f"{row.name} can start on {', '.join(eligible)}: next in line when nothing better waits."
    if not verdicts:
        return f"{row.name} waits: no host is in the manifest and no worker has called yet."
    closest = min(verdicts, key=lambda pair: sum(not check.ok for check in pair[1]))
    reasons = "; ".join(check.message for check in closest[1] if not check.ok)
    if len(verdicts) == 1:
        return f"{row.name} cannot start on {closest[0].name}, the only host: {reasons}."
    return (
        f"{row.name} cannot start on any of {len(verdicts)} hosts; closest is {closest[0].name}: {reasons}."
    )


MOST_NAMED = 5
"""Jobs that are named of each reason and of each class."""


def stuck(queue: JobQueue, now_s: float) -> list[dict[str, Any]]:
    """Why waiting jobs can run on no host, however long they wait: a row for each reason, the most jobs first.

    `{"reason", "n_jobs", "jobs" (at most 5 names, those that go first), "next" (a command)}`. Judged once for each
    class of jobs. A host that is only busy, or less preferred, is no reason, and neither is a pause of the fleet; that
    of a job is.
    `now_s` is on the queue's clock. Reads the database: not for the event loop.
    """
    waiting = {row["class_id"]: int(row["n"]) for row in queue.read("class_waiting")}
    reasons: dict[int, str] = {}
    with queue.still():
        views = queue.views(now_s)
        for class_id in waiting:
            if queue.matcher.knows(class_id) and (reason := stuck_reason(queue, class_id, views)):
                reasons[class_id] = reason
    by_reason: dict[str, dict[str, Any]] = {}
    for class_id, reason in reasons.items():
        entry = by_reason.setdefault(reason, {"reason": reason, "n_jobs": 0, "jobs": []})
        entry["n_jobs"] += waiting[class_id]
        if len(entry["jobs"]) < MOST_NAMED:
            found = queue.read("class_names", class_id=class_id, most=MOST_NAMED - len(entry["jobs"]))
            entry["jobs"] += [row["name"] for row in found]
    held = queue.read("held_names", most=MOST_NAMED)
    if held:
        by_reason[HELD] = {"reason": HELD, "n_jobs": held[0]["n"], "jobs": [row["name"] for row in held]}
    out = [entry | {"next": _why_command(entry["jobs"])} for entry in by_reason.values()] + _paused(queue)
    return sorted(out, key=lambda entry: -entry["n_jobs"])


HELD = "the manifest no longer has this job: it is held"


PAUSED = "paused by an operator"


def _paused(queue: JobQueue) -> list[dict[str, Any]]:
    """The jobs that an operator paused: an entry for each reason that was given."""
    found: dict[str, dict[str, Any]] = {}
    for row in queue.read("paused_names"):
        reason = f"{PAUSED} ({row['paused_reason']})" if row["paused_reason"] else PAUSED
        entry = found.setdefault(reason, {"reason": reason, "n_jobs": row["n"], "jobs": []})
        if len(entry["jobs"]) < MOST_NAMED:
            entry["jobs"].append(row["name"])
    return [entry | {"next": f"cis490-jobs resume {entry['jobs'][0]}"} for entry in found.values()]


def _why_command(names: Sequence[str]) -> str:
    return f"cis490-jobs why {names[0]}" if names else "cis490-jobs list --status pending"


def stuck_reason(queue: JobQueue, class_id: int, views: Sequence[HostView]) -> str | None:
    """What keeps the class from the host that comes closest, and how many more reasons there are; None: nothing."""
    if not views:
        return "no host is in the manifest and no worker has called yet"
    matcher, one = queue.matcher, {class_id}
    if any(view.takes_jobs and matcher.fitting(view, one) for view in views):
        return None
    closest: tuple[HostView, list[Check]] | None = None
    for view in views:
        found = [*matcher.blockers(view, class_id)]
        if not view.takes_jobs:
            found += [x for x in eligibility.state_checks(view) if not x.ok and x.constraint != "free_slot"]
        if closest is None or len(found) < len(closest[1]):
            closest = view, found
        if len(found) == 1:
            break  # none can come closer
    assert closest is not None
    view, (first, *others) = closest
    reason = first.message if view.name in first.message else f"{view.name}: {first.message}"
    return reason + (f" (and {len(others)} more)" if others else "")


def host(queue: JobQueue, name: str) -> Json:
    """What waits, class by class, as this host is judged for it: `classes`, `summary` and `next` of
    `GET /v1/host/{name}/eligibility`. For a host that is known. Reads the database: not for the event loop."""
    waiting = {row["class_id"]: int(row["n"]) for row in queue.read("class_waiting")}
    with queue.still():
        now_s, matcher = queue.clock.now_s(), queue.matcher
        views = queue.views(now_s)
        view = matcher.view(name, now_s, queue.leases.busy(name))
        fleet = Fleet(matcher, views)
        asked = []
        for class_id in waiting:
            if matcher.knows(class_id):
                requirement, better = matcher.requirement(class_id), Rivals()
                if requirement.has_preference:
                    better = fleet.rivals(class_id)
                asked.append((class_id, requirement, better))
        rules, has_called = matcher.rules, name in matcher.seen
    classes: list[Json] = []
    for class_id, requirement, better in asked:
        found = eligibility.verdict(requirement, view, better, rules)
        names = [row["name"] for row in queue.read("class_names", class_id=class_id, most=MOST_NAMED)]
        blocked = [check.message for check in found if not check.ok]
        classes.append(
            {
                "n_jobs": waiting[class_id],
                "jobs": names,
                "model": requirement.model,
                "eligible": not blocked,
                "checks": [_told(check) for check in found],
                "summary": "; ".join(blocked) or "can start here",
            }
        )
    classes.sort(key=lambda one: (not one["eligible"], -one["n_jobs"]))
    summary, command = _host_summary(view, has_called, classes, rules)
    return {"classes": classes, "summary": summary, "next": command}


def while_disk_full(found: Json, refusal: str) -> Json:
    """The same answer about a host while the receiver hands out nothing: else it would promise too much."""
    check = Check(
        "disk", False, "room on the receiver's disk", "full", refusal, "free space on the receiver's disk"
    )
    classes = [
        {**one, "eligible": False, "checks": [*one["checks"], _told(check)], "summary": refusal}
        for one in found["classes"]
    ]
    return {**found, "classes": classes, "summary": refusal, "next": "df -h   (on the receiver's machine)"}


def _host_summary(view: HostView, has_called: bool, classes: Sequence[Json], rules: Rules) -> tuple[str, str]:
    """Why the host is idle, if it is, and what to type next."""
    n_all = sum(one["n_jobs"] for one in classes)
    n_able = sum(one["n_jobs"] for one in classes if one["eligible"])
    waits = f"{n_all} {'job waits' if n_all == 1 else 'jobs wait'}"
    asked = (
        eligibility.admission(view.name, view.spec, rules),
        eligibility.fleet_check(rules),
        *eligibility.state_checks(view),
    )
    state = next((check for check in asked if not check.ok), None)
    if state is not None and state.constraint == "free_slot":
        return f"{state.message}; {waits}", "cis490-jobs status"
    if state is not None:
        message = state.message
        if state.constraint == "live" and not has_called:
            message = f"the manifest names {view.name}, but no worker there has ever reported"
        return f"{message}; {waits}", state.hint
    if not n_all:
        return f"{view.name} is free, and no job waits", "cis490-jobs list"
    if n_able:
        can = f"{n_able} of them can start here" if n_all > 1 else "it can start here"
        return f"{view.name} is free, {waits}, and {can}: it claims the best one next", "cis490-jobs status"
    reasons: dict[str, int] = {}
    for one in classes:
        first = next(check["message"] for check in one["checks"] if not check["ok"])
        reasons[first] = reasons.get(first, 0) + one["n_jobs"]
    reason, n_most = max(reasons.items(), key=lambda pair: pair[1])
    most = "" if n_most == n_all else f" (that keeps {n_most} of them away)"
    head = f"{view.name} is free and {waits}, but none may run here"
    return f"{head}: {reason}{most}", _why_command([name for one in classes for name in one["jobs"]][:1])


def workers(
    queue: JobQueue, now_s: float, waiting: Mapping[int, int], host: str | None = None
) -> list[dict[str, Any]]:
    """The answer of `GET /v1/workers`: each host that has called, or only `host`."""
    matcher = queue.matcher
    out = []
    for name, seen in sorted(matcher.seen.items()):
        if host not in (None, name):
            continue
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
