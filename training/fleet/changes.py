"""What a person, or time, can change about a fleet so that a job runs: as data, and what each does. Pure.

`apply` mirrors what the queue really does: a manifest edit comes with a reload, which ends the pauses of hosts and
puts back the wishes of a job whose requirement has changed; a requeue forgets what past attempts taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from training.fleet.eligibility import (
    HostView,
    Learned,
    Requirement,
    effective,
    requirement_of,
    ripened,
)
from training.fleet.rows import JobRow
from training.fleet.situation import Situation
from training.fleet.specs import spec_of
from training.fleet.types import Capability, HostSpec

RELOAD: Final = "cis490-jobs reload"

RANK: Final[Mapping[str, int]] = {
    **dict.fromkeys(("undrain", "resume_host", "resume_job", "resume_fleet", "requeue"), 0),
    **dict.fromkeys(("start_worker", "update_trainer", "install_model"), 1),
    **dict.fromkeys(
        ("put_back", "remove_deny", "add_allow", "add_allowed_host", "add_host", "drop_prefer_cuda"), 2
    ),
    **dict.fromkeys(("lower_min_vram", "lower_min_ram", "drop_require_cuda", "declare", "add_slots"), 3),
    **dict.fromkeys(("allow_unknown_hosts", "any_trainer"), 4),
    "forget_attempts": 5,
    **dict.fromkeys(("free_disk", "enrol_host"), 6),
    **dict.fromkeys(("wait_slot", "wait_grace"), 7),
}  # fmt: skip
"""How much each kind interferes: an operator's command, work on a host, a manifest edit of who may run what, of what
the job needs or how much a host takes, of the whole fleet's policy, what throws knowledge away, hardware. Last come
those where nobody does anything but wait."""

WAITS: Final = frozenset({"wait_slot", "wait_grace"})


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `key` is what is changed (a key of the manifest, where it is one), `old` and `new` its values."""

    kind: str
    text: str
    """What to do, for a person."""
    host: str | None = None
    key: str | None = None
    old: Any = None
    new: Any = None
    line: int | None = None
    """Of the manifest in force: the key's, or where its table begins."""
    command: str | None = None
    """To be typed; for a manifest edit after the file was changed. None: nothing can be typed here."""

    def to_dict(self) -> dict[str, Any]:
        """As the public JSON has it."""
        return {
            "kind": self.kind, "text": self.text, "host": self.host, "key": self.key, "from": self.old,
            "to": self.new, "line": self.line, "command": self.command,
        }  # fmt: skip


def apply(situation: Situation, changes: Iterable[Change]) -> Situation:
    """The situation once these changes have been made, one after the other."""
    for change in changes:
        situation = _APPLY[change.kind](situation, change)
    return situation


# -- of the job


def _spec_edit(situation: Situation, change: Change) -> Situation:
    row = situation.row
    assert change.key is not None
    new = replace(row, spec={**row.spec, change.key: change.new})
    before = requirement_of(spec_of(row.spec), row.learned)
    after = requirement_of(spec_of(new.spec), row.learned)
    requirement = situation.requirement if before == after else after  # its wishes count again, from now
    return _reloaded(replace(situation, row=new, requirement=requirement))


def _put_back(situation: Situation, change: Change) -> Situation:
    return _reloaded(replace(situation, row=replace(situation.row, held=False)))


def _again(situation: Situation, change: Change) -> Situation:
    row = replace(situation.row, status="pending", lapsed=False, learned=Learned())
    return replace(situation, row=row, requirement=requirement_of(spec_of(row.spec)))


def _resume_job(situation: Situation, change: Change) -> Situation:
    return replace(situation, row=replace(situation.row, paused_reason=None))


def _wait_grace(situation: Situation, change: Change) -> Situation:
    return replace(situation, requirement=ripened(situation.requirement))


# -- of a host


def _with_host(situation: Situation, name: str | None, **values: Any) -> Situation:
    hosts = tuple(replace(one, **values) if one.name == name else one for one in situation.hosts)
    return replace(situation, hosts=hosts)


def _with_spec(situation: Situation, name: str | None, **values: Any) -> Situation:
    """Another policy for this host, by a reload; a host that had none gets a table of its own."""
    assert name is not None
    old = situation.host(name).spec
    spec = replace(old or HostSpec(name), **values)
    rules = replace(situation.rules, names_hosts=True)
    capability = _seen_as(situation.detected.get(name), spec)
    return _reloaded(replace(_with_host(situation, name, spec=spec, capability=capability), rules=rules))


def _with_detected(situation: Situation, name: str | None, capability: Capability) -> Situation:
    """The host reports this from now on."""
    assert name is not None
    shown = _seen_as(capability, situation.host(name).spec)
    detected = {**situation.detected, name: capability}
    return _with_host(replace(situation, detected=detected), name, capability=shown)


def _seen_as(detected: Capability | None, spec: HostSpec | None) -> Capability:
    if detected is None:
        return spec.capability if spec is not None else Capability()
    return effective(detected, spec)[0]


def _reloaded(situation: Situation) -> Situation:
    hosts = tuple(replace(one, paused_reason=None) if one.paused_reason else one for one in situation.hosts)
    return replace(situation, hosts=hosts)


def _deny(situation: Situation, change: Change) -> Situation:
    return _with_spec(situation, change.host, deny_jobs=tuple(change.new))


def _allow(situation: Situation, change: Change) -> Situation:
    return _with_spec(situation, change.host, allow_jobs=tuple(change.new))


def _slots(situation: Situation, change: Change) -> Situation:
    return _with_spec(situation, change.host, slots=change.new)


def _add_host(situation: Situation, change: Change) -> Situation:
    return _with_spec(situation, change.host)


def _declare(situation: Situation, change: Change) -> Situation:
    assert change.host is not None and change.key is not None
    spec = situation.host(change.host).spec
    declared = spec.capability if spec is not None else Capability()
    return _with_spec(situation, change.host, capability=replace(declared, **{change.key: change.new}))


def _start_worker(situation: Situation, change: Change) -> Situation:
    assert change.host is not None
    view = situation.host(change.host)
    reported = situation.detected.get(change.host, view.capability)
    situation = _with_detected(situation, change.host, replace(reported, **(change.new or {})))
    return _with_host(situation, change.host, live=True, seen_s_ago=0.0)


def _report(situation: Situation, change: Change) -> Situation:
    assert change.host is not None and change.key is not None
    reported = situation.detected.get(change.host) or situation.host(change.host).capability
    return _with_detected(situation, change.host, replace(reported, **{change.key: change.new}))


def _resume_host(situation: Situation, change: Change) -> Situation:
    return _with_host(situation, change.host, paused_reason=None)


def _undrain(situation: Situation, change: Change) -> Situation:
    return _with_host(situation, change.host, drained_reason=None)


def _wait_slot(situation: Situation, change: Change) -> Situation:
    return _with_host(situation, change.host, busy=change.new)


def _enrol(situation: Situation, change: Change) -> Situation:
    assert change.host is not None
    closed = situation.rules.names_hosts and situation.rules.unknown_hosts == "deny"
    spec = HostSpec(change.host) if closed else None
    capability = Capability(**change.new)
    view = HostView(change.host, spec, capability, live=True, seen_s_ago=0.0)
    hosts = tuple(sorted((*situation.hosts, view), key=lambda one: one.name))
    new = replace(situation, hosts=hosts, detected={**situation.detected, change.host: capability})
    return _reloaded(new) if closed else new


# -- of the fleet


def _resume_fleet(situation: Situation, change: Change) -> Situation:
    return replace(situation, rules=replace(situation.rules, paused_reason=None))


def _policy(situation: Situation, change: Change) -> Situation:
    assert change.key is not None
    return _reloaded(replace(situation, rules=replace(situation.rules, **{change.key: change.new})))


def _free_disk(situation: Situation, change: Change) -> Situation:
    return replace(situation, disk=None)


_APPLY: Final[Mapping[str, Callable[[Situation, Change], Situation]]] = {
    **dict.fromkeys(
        ("add_allowed_host", "lower_min_vram", "lower_min_ram", "drop_require_cuda", "drop_prefer_cuda"),
        _spec_edit,
    ),
    "put_back": _put_back,
    "requeue": _again,
    "forget_attempts": _again,
    "resume_job": _resume_job,
    "wait_grace": _wait_grace,
    "remove_deny": _deny,
    "add_allow": _allow,
    "add_slots": _slots,
    "add_host": _add_host,
    "declare": _declare,
    "start_worker": _start_worker,
    "install_model": _report,
    "update_trainer": _report,
    "resume_host": _resume_host,
    "undrain": _undrain,
    "wait_slot": _wait_slot,
    "enrol_host": _enrol,
    "resume_fleet": _resume_fleet,
    "allow_unknown_hosts": _policy,
    "any_trainer": _policy,
    "free_disk": _free_disk,
}


# -- what a host would need


def needs_of(requirement: Requirement, known: Capability | None = None) -> dict[str, Any]:
    """The values that a host must report to have the hardware for a job, of those that `known` leaves open."""
    vram_gib = max(requirement.min_vram_gib, _above(requirement.more_vram_than_gib))
    ram_gib = max(requirement.min_ram_gib, _above(requirement.more_ram_than_gib))
    has_cuda = requirement.require_cuda or requirement.prefer_cuda or vram_gib > 0
    wanted = {"has_cuda": has_cuda or None, "vram_gib": vram_gib or None, "ram_gib": ram_gib or None}
    found = known or Capability()
    if found.has_cuda is False:  # it has no GPU, so its memory is no open question
        wanted["vram_gib"] = None
    return {key: value for key, value in wanted.items() if value is not None and getattr(found, key) is None}


def needs_text(needs: Mapping[str, Any]) -> str:
    """`CUDA, >= 10 GiB of VRAM`; "" for none."""
    words = []
    if needs.get("has_cuda"):
        words.append("CUDA")
    sizes = (("vram_gib", "VRAM"), ("ram_gib", "RAM"))
    words += [f">= {needs[key]:g} GiB of {what}" for key, what in sizes if key in needs]
    return ", ".join(words)


def _above(floor_gib: float) -> float:
    """A size that is surely more than one on which the job ran out of memory; 0 for 0."""
    return float(int(floor_gib * 1.25) + 1) if floor_gib else 0.0


def word_for(row: JobRow) -> str:
    """What names this job in a command: its name, or its id where another job may have the name by now."""
    return row.job_id[:12] if row.held else row.name


CAPABILITY_KEYS = tuple(item.name for item in fields(Capability))
