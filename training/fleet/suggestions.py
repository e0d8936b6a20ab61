"""The smallest changes that would let a job run, each tried in thought by the checks that claims use. Pure.

For a host every check that fails is mended, the situation is judged anew, and so on until nothing keeps the job from
it: what a change brings with it (a reload ends pauses, a requeue forgets) is seen, and so is what it is not enough
for. Then whatever turned out not to be needed is left out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from training.fleet import eligibility, fixes
from training.fleet.changes import (
    RANK,
    WAITS,
    Change,
    apply,
    needs_of,
    needs_text,
)
from training.fleet.eligibility import Check, HostView, Requirement, Rivals, Rules
from training.fleet.situation import Situation, blockers, job_checks, rivals

__all__ = ["Change", "Suggestion", "apply", "suggest"]

MOST: Final = 5
MOST_WAITS: Final = 2
"""Suggestions in an answer that are not only to wait, and those that are."""
MOST_TRIED: Final = 12
"""Hosts that are tried in thought, the most promising first."""
MOST_WAYS: Final = 4
"""Ways for one host."""
MOST_STEPS: Final = 16
MORE_THAN_BEST: Final = 1
"""What takes more changes than the best suggestion and so many is not worth reading."""
_MAY_BE_SPARE: Final = frozenset(
    {"resume_host", "declare", "drop_prefer_cuda", "wait_grace", "forget_attempts"}
)
"""Kinds that a later change may have made needless: a reload ends pauses, what is forgotten holds nothing back."""
NEW_HOST: Final = "new-host"
_HARDWARE: Final = frozenset(
    {"require_cuda", "min_vram_gib", "min_ram_gib", "vram_after_oom", "ram_after_oom"}
)
_FIRST: Final = (
    "live",
    "known_host",
    "deny_jobs",
    "allow_jobs",
    "allowed_hosts",
    "model",
    "trainer",
    "require_cuda",
)
_LAST: Final = ("free_slot", "preference")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Changes that together make the job claimable by `hosts`, of which the first is the one it was made for."""

    changes: tuple[Change, ...]
    hosts: tuple[str, ...]
    at_once: bool
    """Is the host there with a free slot, so that nothing but the changes is waited for?"""

    @property
    def is_waiting(self) -> bool:
        """Is a part of it only to wait?"""
        return any(change.kind in WAITS for change in self.changes)

    @property
    def order(self) -> tuple[Any, ...]:
        """Smaller goes first: fewest changes, then what takes effect at once, then the least invasive."""
        ranks = sorted((RANK[change.kind] for change in self.changes), reverse=True)
        is_new = any(
            change.kind == "enrol_host" for change in self.changes
        )  # counts as one, and is much more
        return (self.is_waiting, is_new, len(self.changes), not self.at_once, ranks, self.hosts[0])

    def to_dict(self, note: str = "") -> dict[str, Any]:
        """As the public JSON has it."""
        text = "; ".join(change.text for change in self.changes)
        return {
            "text": f"{text} ({note})" if note else text,
            "note": note or None,
            "effort": len(self.changes),
            "changes": [change.to_dict() for change in self.changes],
            "host": self.hosts[0],
            "hosts": list(self.hosts),
            "starts": starts(self),
            "command": command(self.changes),
        }


def suggest(situation: Situation, judged: Sequence[tuple[HostView, tuple[Check, ...]]]) -> list[Suggestion]:
    """The best ways to let the job run, best first; none where it can start now, or runs. `judged` is
    `situation.verdicts`, which whoever asks has made already."""
    own = [check for check in job_checks(situation) if not check.ok]
    if situation.row.status in ("claimed", "running"):
        return []
    if not own and any(all(check.ok for check in found) for _, found in judged):
        return []
    common: list[Change] = []
    for check in own:
        change = fixes.of_job(situation, check)
        if change is None:
            return []
        common.append(change)
    found = list(_tried(situation, common, judged))
    real = sorted((one for one in found if not one.is_waiting), key=lambda one: one.order)
    waits = sorted((one for one in found if one.is_waiting), key=lambda one: one.order)
    smallest = _without_more(real + waits)
    return [
        *_worth_reading([one for one in smallest if not one.is_waiting], real)[:MOST],
        *_worth_reading([one for one in smallest if one.is_waiting], found)[:MOST_WAITS],
    ]


def _tried(
    situation: Situation, common: Sequence[Change], judged: Sequence[tuple[HostView, tuple[Check, ...]]]
) -> Iterator[Suggestion]:
    """Ways for the most promising hosts; every further host is tried only while it may still be as good."""
    base = apply(situation, common)
    if common:  # else it was judged already
        better = rivals(base)
        judged = [
            (host, eligibility.verdict(base.requirement, host, better, base.rules)) for host in base.hosts
        ]
    promising = sorted((_promise(view, found), view.name) for view, found in judged)
    n_best: int | None = None
    judge = _Judge()
    for tried, ((n_least, *_), name) in enumerate(promising):
        if n_best is not None and (tried >= MOST_TRIED or n_least > n_best + MORE_THAN_BEST):
            break
        for changes in _ways(base, name, judge):
            one = _suggestion(situation, [*common, *changes], name)
            if one is not None:
                n_best = min(n_best or len(one.changes), len(one.changes))
                yield one
    if all(any(not check.ok and check.constraint in _HARDWARE for check in found) for _, found in judged):
        yield from _enrolled(situation, common, base)


def _promise(view: HostView, found: Iterable[Check]) -> tuple[int, bool, int]:
    """How few changes may do for this host, at least; whether it is busy or away; how invasive they are."""
    failed = {check.constraint for check in found if not check.ok}
    gpu, memory = failed & {"require_cuda", "min_vram_gib"}, failed & {"min_ram_gib"}
    past = failed & {"vram_after_oom", "ram_after_oom", "preference"}
    n_least = len(failed) - len(gpu | memory | past) + bool(gpu) + bool(memory) + bool(past)
    if past and (gpu or memory):
        n_least -= 1  # a capability that is declared too small may be behind both
    if "not_paused" in failed and len(failed) > 1:
        n_least -= 1  # a reload may end the pause
    return n_least, not view.live or view.busy >= view.slots, -len(failed & {"not_drained", "not_paused"})


def _ways(base: Situation, name: str, judge: _Judge) -> list[list[Change]]:
    """Different ways to make the job claimable by this host; each makes it so."""
    ways: list[list[Change]] = []
    open_ones: list[tuple[Situation, list[Change]]] = [(base, [])]
    while open_ones and len(ways) < MOST_WAYS:
        current, changes = open_ones.pop(0)
        failed = [check for check in judge.verdict(current, name) if not check.ok]
        if not failed:
            ways.append(changes)
            continue
        if len(changes) >= MOST_STEPS:
            continue
        check = min(failed, key=_turn)
        done = {(change.kind, change.key) for change in changes}
        mending = fixes.of_host(current, current.host(name), check)
        fresh = [
            change for change in mending if (change.kind, change.key) not in done
        ]  # else it has not helped
        open_ones += [(apply(current, (change,)), [*changes, change]) for change in fresh]
    return ways


def _turn(check: Check) -> int:
    """In which order checks are mended: what may change the others first, what they may change last."""
    if check.constraint in _FIRST:
        return _FIRST.index(check.constraint)
    return len(_FIRST) + 1 + _LAST.index(check.constraint) if check.constraint in _LAST else len(_FIRST)


class _Judge:
    """Verdicts on one host after another, in situations that differ by little: who fits what is found out once."""

    def __init__(self) -> None:
        self._able: dict[tuple[Requirement, Rules], dict[int, tuple[HostView, bool]]] = {}

    def verdict(self, situation: Situation, name: str) -> tuple[Check, ...]:
        host, better = situation.host(name), self._rivals(situation)
        return eligibility.verdict(situation.requirement, host, better, situation.rules)

    def _rivals(self, situation: Situation) -> Rivals:
        """As `eligibility.rivals_of`."""
        requirement, rules = situation.requirement, situation.rules
        if not requirement.has_preference:
            return Rivals()
        known = self._able.setdefault((requirement, rules), {})
        able = []
        for host in situation.hosts:
            found = known.get(id(host))
            if found is None or found[0] is not host:
                is_able = host.takes_jobs and eligibility.fits(requirement, host, rules)
                found = known[id(host)] = host, is_able
            if found[1]:
                able.append(host)
        return eligibility.rivals_among(requirement, able)


def _suggestion(situation: Situation, changes: list[Change], name: str) -> Suggestion | None:
    """The changes without those that are not needed beside the others."""
    kept = list(changes)
    if len(kept) > 1 and any(change.kind in _MAY_BE_SPARE for change in kept):
        for change in changes:
            fewer = [one for one in kept if one is not change]
            if fewer and _suffices(situation, fewer, name):
                kept = fewer
    if not kept:
        return None
    before = next((view for view in situation.hosts if view.name == name), None)
    at_once = before is not None and before.live and before.busy < before.slots
    return Suggestion(tuple(kept), (name,), at_once)


def _suffices(situation: Situation, changes: Sequence[Change], name: str) -> bool:
    after = apply(situation, changes)
    return any(view.name == name for view in after.hosts) and not blockers(after, name)


def _enrolled(situation: Situation, common: Sequence[Change], base: Situation) -> Iterator[Suggestion]:
    """No known host has the hardware: another one may."""
    names = {view.name for view in base.hosts}
    wished = [name for name in base.requirement.allowed_hosts if name not in names]
    if base.requirement.allowed_hosts and not wished:
        return
    name = wished[0] if wished else next(one for one in _new_names() if one not in names)
    needs = needs_of(base.requirement)
    host = f'a host "{name}"' if wished else "another host"
    what = f"enrol {host}{f' with {needs_text(needs)}' if needs else ''}: start its worker"
    if base.rules.names_hosts and base.rules.unknown_hosts == "deny":
        what += ", and name it in the manifest"
    change = Change("enrol_host", what, name, "hosts", None, needs)
    after = apply(base, (change,))
    for more in _ways(after, name, _Judge())[:1]:
        one = _suggestion(situation, [*common, change, *more], name)
        if one is not None:
            yield one


def _new_names() -> Iterator[str]:
    yield NEW_HOST
    number = 2
    while True:
        yield f"{NEW_HOST}-{number}"
        number += 1


def _merged(found: Sequence[Suggestion]) -> list[Suggestion]:
    """The same changes make the job claimable by several hosts: said once."""
    merged: dict[str, Suggestion] = {}
    for one in found:
        key = repr([(change.kind, change.text) for change in one.changes])
        first = merged.get(key)
        merged[key] = one if first is None else replace(first, hosts=(*first.hosts, *one.hosts))
    return list(merged.values())


def _without_more(found: Sequence[Suggestion]) -> list[Suggestion]:
    """Without those that do what another one does, and more."""
    told = [frozenset(change.text for change in one.changes) for one in found]
    return [one for one, mine in zip(found, told, strict=True) if not any(other < mine for other in told)]


def _worth_reading(some: Sequence[Suggestion], compared: Iterable[Suggestion]) -> list[Suggestion]:
    """Without those that take many more changes than the best of `compared`."""
    n_best = min((len(one.changes) for one in compared), default=0)
    return [one for one in _merged(some) if len(one.changes) <= n_best + MORE_THAN_BEST]


_UNTIL: Final[Mapping[str, str]] = {
    "start_worker": "when {host} calls",
    "enrol_host": "when it calls",
    "update_trainer": "once {host} is up to date",
    "install_model": "once {host} has it",
    "free_disk": "once there is room",
    "wait_slot": "when {host} has a free slot",
    "wait_grace": "when the grace period is over",
}


def starts(suggestion: Suggestion) -> str:
    """When the job would start: `at once`, or what has to happen first."""
    host = suggestion.hosts[0]
    moments = [_UNTIL[change.kind] for change in suggestion.changes if change.kind in _UNTIL]
    return " and ".join(dict.fromkeys(moments)).format(host=host) or "at once"


def command(changes: Iterable[Change]) -> str | None:
    """What to type, in order; a reload once, after the edits. None where a part cannot be typed."""
    typed = [change.command for change in changes]
    if any(one is None for one in typed):
        return None
    return " && ".join(dict.fromkeys(one for one in typed if one is not None)) or None
