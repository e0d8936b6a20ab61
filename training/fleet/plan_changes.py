"""What a plan says about each job, host and rule that changes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from training.fleet.catalog import Step
from training.fleet.eligibility import fits
from training.fleet.plan_fleet import ACTIVE, Fleet, Picture, Waiting, names_of, requirement_after, view_of
from training.fleet.rows import JobRow
from training.fleet.specs import Reference, stale_of
from training.fleet.types import HostSpec, Manifest


def told_of(step: Step, fleet: Fleet, reference: Reference) -> dict[str, Any]:
    """One job, as the answer has it."""
    spec, row, replaced = step.spec, step.row, step.replaced
    before = row if row is not None else replaced
    changed: list[dict[str, Any]]
    if spec is None:
        assert row is not None
        name, line, changed, able = row.name, None, [], []
    else:
        name, line = spec.name, spec.line
        able = fleet.able(requirement_after(step, fleet.picture.requirements))
        if before is None:
            changed = []
        elif step.action == "move":  # one more line at the top moves every job
            changed = [{"key": "line", "from": before.spec.get("line"), "to": line}]
        else:
            changed = _changed(before.spec, spec.to_dict())
    runs = next((one for one in (replaced, row) if one is not None and one.status in ACTIVE), None)
    return {
        "action": step.action,
        "name": name,
        "job_id": step.job_id,
        "old_job_id": None if replaced is None else replaced.job_id,
        "line": line,
        "changed": changed,
        "note": _note(step, reference),
        "hosts": able,
        "status": None if row is None else row.status,
        "old_status": None if replaced is None else replaced.status,
        "running": None if runs is None else {"host": runs.claimed_by, "claimed_at": runs.claimed_at},
    }


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The keys that differ, hyper-parameters one by one."""
    before, after = _flat(old), _flat(new)
    keys = [*after, *(key for key in before if key not in after)]
    pairs = ((key, before.get(key), after.get(key)) for key in keys if key not in ("line", "job_id"))
    return [{"key": key, "from": was, "to": now} for key, was, now in pairs if was != now]


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    hyper = {f"hyper.{key}": value for key, value in (spec.get("hyper") or {}).items()}
    return {key: value for key, value in spec.items() if key != "hyper"} | hyper


_AFTER_UPDATE = {
    "claimed": "same job id; the attempt that runs keeps what it was given",
    "running": "same job id; the attempt that runs keeps what it was given",
    "completed": "same job id, its result stays",
    "failed": "same job id; it stays failed until it is requeued",
    "cancelled": "same job id; it stays cancelled until it is requeued",
}


def _note(step: Step, reference: Reference) -> str:
    row, replaced = step.row, step.replaced
    if step.action == "move":
        return "only its line changes"
    if step.action == "add":
        return "new"
    if step.action == "replace" and replaced is not None:
        return f"NEW job id; {_fate(replaced)}"
    assert row is not None
    if step.action == "remove":
        return f"no longer in the manifest; {_fate(row)}"
    if step.action == "retrain":
        return f"its result is stale ({', '.join(stale_of(row, reference))}): trained again, the artifact is kept"
    if step.action == "return":
        return f"was held; {row.status} again, with its attempts"
    return _AFTER_UPDATE.get(row.status, "same job id, keeps its attempts")


def _fate(row: JobRow) -> str:
    """What becomes of a job that the manifest no longer has."""
    short = row.job_id[:12]
    if row.status in ACTIVE:
        return f"the attempt of {short} on {row.claimed_by} goes on; end it: cis490-jobs cancel {short}"
    if row.status == "pending":
        return f"{short} is held and waits in vain; drop it: cis490-jobs cancel {short}"
    if row.status == "completed":
        return f"the result of {short} is kept"
    return f"{short} stays {row.status}"


def told_host_by_host(
    picture: Picture, wanted: Manifest, fleet: Fleet, waiting: Waiting
) -> list[dict[str, Any]]:
    """The hosts whose lines change, each with what that opens or closes there."""
    names = [*wanted.hosts, *(name for name in picture.hosts if name not in wanted.hosts)]
    out = []
    for name in names:
        old, new = picture.hosts.get(name), wanted.hosts.get(name)
        changed = [] if old is None or new is None else _host_changes(old, new)
        if old is not None and new is not None and not changed:
            continue
        out.append(
            {
                "action": "add" if old is None else "remove" if new is None else "update",
                "name": name,
                "line": new.lines.get("") if new is not None else None,
                "changed": changed,
                "effect": _effect(name, picture, old, fleet, waiting),
                "busy": picture.busy.get(name, 0),
            }
        )
    return out


def _host_changes(old: HostSpec, new: HostSpec) -> list[dict[str, Any]]:
    found = [
        {"key": key, "from": plain(getattr(old, key)), "to": plain(getattr(new, key))}
        for key in ("allow_jobs", "deny_jobs", "slots", "force")
        if getattr(old, key) != getattr(new, key)
    ]
    found += [
        {**item, "key": f"capability.{item['key']}"} for item in differences(old.capability, new.capability)
    ]
    for item in found:
        key = str(item["key"]).partition(".")[0]
        item["line"] = new.lines.get(key) or new.lines.get("")
    return found


def _effect(name: str, picture: Picture, old: HostSpec | None, fleet: Fleet, waiting: Waiting) -> str:
    """What the new lines of this host change for the jobs that wait or run, as they will be."""
    before = view_of(name, old, picture.seen)
    was_known = old is not None or name in picture.seen
    gained: list[Step] = []
    lost: list[Step] = []
    for requirement, steps in waiting.items():
        could = was_known and fits(requirement, before, picture.rules)
        can = name in fleet.able(requirement)
        if can != could:
            (gained if can else lost).extend(steps)
    parts = [
        f"{names_of(gained)} {'becomes' if len(gained) == 1 else 'become'} eligible there" if gained else "",
        f"{names_of(lost)} {'is' if len(lost) == 1 else 'are'} no longer eligible there" if lost else "",
    ]
    running = picture.busy.get(name, 0)
    if running and lost:
        parts.append(f"the {running} it runs {'goes' if running == 1 else 'go'} on")
    return "; ".join(part for part in parts if part)


def differences(old: object, new: object) -> list[dict[str, Any]]:
    """The fields in which two objects of one dataclass differ."""
    assert is_dataclass(new)
    pairs = ((item.name, getattr(old, item.name), getattr(new, item.name)) for item in fields(new))
    return [{"key": key, "from": plain(was), "to": plain(now)} for key, was, now in pairs if was != now]


_TOLD_ELSEWHERE = ("hosts", "jobs", "policy", "dataset", "path", "digest")


def other_tables(old: Manifest | None, new: Manifest) -> list[dict[str, Any]]:
    """What differs in the rest of the manifest."""
    if old is None:
        return []
    out: list[dict[str, Any]] = []
    for key in (item.name for item in fields(new) if item.name not in _TOLD_ELSEWHERE):
        was, now = getattr(old, key), getattr(new, key)
        if type(was) is type(now) and is_dataclass(now):
            out += [{**part, "key": f"{key}.{part['key']}"} for part in differences(was, now)]
        elif was != now:
            out.append({"key": key, "from": plain(was), "to": plain(now)})
    return out


def plain(value: Any) -> Any:
    """As JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
