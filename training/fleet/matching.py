"""Which waiting job a host gets: heads of the requirement classes, and who is in the fleet.

A claim looks at one head per class instead of at every job, and a host's eligibility for a class is
cached until the manifest or its capability changes. Heads are a cache of the database as the writing
connection sees it: any write to a class makes its head stale, a failed transaction all of them.

Not thread-safe: the queue's lock guards it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from training.fleet import eligibility
from training.fleet.eligibility import (
    Check,
    HostView,
    Learned,
    Requirement,
    Rivals,
    Rules,
    requirement_of,
    ripened,
    rivals_among,
)
from training.fleet.rows import JobRow, dumps, job_row
from training.fleet.sql import STATEMENTS
from training.fleet.types import Capability, HostSpec, JobSpec

READ_AHEAD = 8
"""Jobs of a class that are read at once while its jobs are being handed out: half the time of one at a time."""


@dataclass(frozen=True, slots=True)
class Head:
    """The best waiting job of a class."""

    seq: int
    priority: int
    row: JobRow | None = None
    """None where nobody needs to know it."""
    order: tuple[int, int] = field(init=False)
    """Smaller goes first: larger priority, then older."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", (-self.priority, self.seq))


@dataclass(frozen=True, slots=True)
class Seen:
    """A host that has called: what it reported, and when (`at_s` counts suspend, `wall_s` is display)."""

    capability: Capability
    at_s: float
    wall_s: float
    heard: bool = True
    """False: known from an earlier life of this process, and not heard since."""
    paused_reason: str | None = None
    failures_in_a_row: int = 0
    last_failed_job: str | None = None


@dataclass(slots=True)
class _Fit:
    """What is known of one host as it reports itself under one policy."""

    spec: HostSpec | None
    detected: Capability
    effective: Capability
    known: set[int] = field(default_factory=set)
    """The classes that were judged, and of these the ones it fits:"""
    fits: set[int] = field(default_factory=set)
    blockers: dict[int, tuple[Check, ...]] = field(default_factory=dict)
    """For classes that it does not fit, why not, once somebody has asked."""


class Matcher:
    """The classes with their heads, the hosts, and what is known of who fits what."""

    def __init__(self, connection: sqlite3.Connection, *, live_s: float) -> None:
        self._connection = connection
        self._live_s = live_s
        self._ids: dict[Requirement, int] = {}
        self._requirements: dict[int, Requirement] = {}
        self._wishing: list[int] = []
        self._heads: dict[int, Head] = {}
        self._ahead: dict[int, list[Head]] = {}
        """What follows the head, last first, as far as it was read."""
        self._stale: dict[int, int] = {}
        """Classes whose entry in `_heads` has to be read again, and how many jobs are read then."""
        self._news: set[int] = set()
        self._next_ripe: dict[int, float | None] = {}
        self._fits: dict[str, _Fit] = {}
        self.judged = 0
        """How often a host was judged for a class, ever: the dear part of a claim and of a round."""
        self.rules = Rules()
        self.hosts: Mapping[str, HostSpec] = {}
        self.seen: dict[str, Seen] = {}
        self.drained: dict[str, str] = {}
        """Why a host shall take no more jobs, for each that an operator drained."""
        self.forget()

    def forget(self) -> None:
        """Drop everything that mirrors the database; it is read again when asked for. (The hosts' own calls
        are no mirror: `seen` stays.)"""
        for mirror in (self._heads, self._ahead, self._next_ripe, self._ids, self._requirements, self._fits):
            mirror.clear()
        self._wishing.clear()
        self._stale.clear()
        for class_id, key in self._connection.execute(STATEMENTS["classes"]):
            self._know(class_id, _parse(key))
        self.drained = dict(self._connection.execute(STATEMENTS["drained"]).fetchall())
        paused = self._connection.execute(STATEMENTS["fleet_paused"]).fetchone()
        self.pause(None if paused is None else paused["reason"])

    def policy(self, rules: Rules, hosts: Mapping[str, HostSpec]) -> None:
        """A new manifest is in force. A pause of the fleet stays."""
        self.rules, self.hosts = replace(rules, paused_reason=self.rules.paused_reason), hosts
        self._fits.clear()

    def pause(self, reason: str | None) -> None:
        """The fleet is paused for this reason; None: it is not. Nothing that is known of who fits what changes."""
        self.rules = replace(self.rules, paused_reason=reason)

    # -- classes

    def class_of(self, spec: JobSpec, learned: Learned) -> int:
        """The class of a job, created if it is the first of its kind."""
        return self._class(requirement_of(spec, learned))

    def requirement(self, class_id: int) -> Requirement:
        return self._requirements[class_id]

    def knows(self, class_id: int) -> bool:
        """Was this class read, or made, since the start? A reader of the database may see one a moment earlier."""
        return class_id in self._requirements

    def requirements(self) -> dict[int, Requirement]:
        """What each class asks of a host."""
        return dict(self._requirements)

    def wishing(self) -> list[int]:
        """The classes whose jobs wait for something that a grace period ends."""
        return list(self._wishing)

    def touch(self, class_id: int) -> None:
        """A job entered or left this class, or changed its order in it."""
        self._stale[class_id] = 1
        self._ahead.pop(class_id, None)
        self._news.add(class_id)
        self._next_ripe.pop(class_id, None)

    def taken(self, class_id: int) -> None:
        """The head was handed out, and nothing else in this class has changed."""
        ahead = self._ahead.get(class_id)
        if ahead:
            self._heads[class_id] = ahead.pop()
        else:
            self._stale[class_id] = READ_AHEAD
        self._news.add(class_id)
        self._next_ripe.pop(class_id, None)

    def _class(self, requirement: Requirement) -> int:
        known = self._ids.get(requirement)
        if known is not None:
            return known
        key = dumps(asdict(requirement))
        self._connection.execute(STATEMENTS["class_add"], {"key": key})
        (class_id,) = self._connection.execute(STATEMENTS["class_by_key"], {"key": key}).fetchone()
        self._know(class_id, requirement)
        return int(class_id)

    def _know(self, class_id: int, requirement: Requirement) -> None:
        self._ids[requirement] = class_id
        self._requirements[class_id] = requirement
        self._stale[class_id] = 1
        if requirement.may_ripen:
            self._wishing.append(class_id)

    def heads(self) -> Mapping[int, Head]:
        """The best waiting job of each class that has one. Valid until the next change of a job."""
        while self._stale:
            class_id, most = self._stale.popitem()
            values = {"class_id": class_id, "most": most}
            found = self._connection.execute(STATEMENTS["class_head"], values).fetchall()
            best = [Head(row["seq"], row["priority"], job_row(row)) for row in found]
            if best:
                self._heads[class_id], self._ahead[class_id] = best[0], best[:0:-1]
            else:
                self._heads.pop(class_id, None)
        return self._heads

    def news(self) -> set[int]:
        """The classes that have changed since this was last asked."""
        found, self._news = self._news, set()
        return found

    def following(self, class_id: int, most: int) -> list[Head]:
        """The `most` best jobs of a class after its head, in order."""
        values = {"class_id": class_id, "most": most}
        return [Head(*row) for row in self._connection.execute(STATEMENTS["class_following"], values)]

    # -- ripening

    def ripen(self, now_s: float) -> int:
        """Move the jobs whose grace is over into the class without the wish; how many moved."""
        moved = 0
        for class_id in self.wishing():
            due = self.next_ripe(class_id)
            if due is None or due > now_s:
                continue
            target = self._class(ripened(self._requirements[class_id]))
            cursor = self._connection.execute(
                STATEMENTS["class_ripen"], {"class_id": class_id, "ripe_class_id": target, "now_s": now_s}
            )
            moved += cursor.rowcount
            self.touch(class_id)
            self.touch(target)
        return moved

    def next_ripe(self, class_id: int) -> float | None:
        if class_id not in self._next_ripe:
            row = self._connection.execute(STATEMENTS["class_next_ripe"], {"class_id": class_id}).fetchone()
            self._next_ripe[class_id] = row[0]
        return self._next_ripe[class_id]

    def next_ripe_at(self) -> float | None:
        """When the next grace ends, over all classes."""
        due = (self.next_ripe(class_id) for class_id in self._wishing)
        return min((at for at in due if at is not None), default=None)

    # -- hosts

    def view(self, name: str, now_s: float, busy: int) -> HostView:
        """A host as matching sees it now."""
        return self.view_as(name, self.hosts.get(name), now_s, busy)

    def view_as(
        self, name: str, spec: HostSpec | None, now_s: float, busy: int, detected: Capability | None = None
    ) -> HostView:
        """The same under another policy than the manifest's; with `detected`, as if it called now with that."""
        seen, drained = self.seen.get(name), self.drained.get(name)
        if detected is not None:
            paused = seen.paused_reason if seen is not None else None
            return HostView(
                name, spec, self._fit(name, spec, detected).effective, True, 0.0, busy, paused, drained
            )
        if seen is None:
            declared = spec.capability if spec is not None else Capability()
            return HostView(name, spec, declared, live=False, drained_reason=drained)
        capability = self._fit(name, spec, seen.capability).effective
        ago = max(0.0, now_s - seen.at_s)
        live = ago <= self._live_s or busy > 0
        shown_s = ago if seen.heard else None
        return HostView(name, spec, capability, live, shown_s, busy, seen.paused_reason, drained)

    def dies_at(self, name: str) -> float:
        """When this host, which has called, counts as lost if it neither calls again nor holds a lease."""
        return self.seen[name].at_s + self._live_s

    def names(self) -> list[str]:
        """Every host of the manifest and every host that has called."""
        return sorted({*self.hosts, *self.seen})

    def saw(self, name: str, capability: Capability, now_s: float, wall_s: float) -> bool:
        """A host called. True when it is new or reports something else than before."""
        old = self.seen.get(name)
        if old is not None and old.capability == capability:
            self.seen[name] = Seen(
                old.capability, now_s, wall_s, True, old.paused_reason, old.failures_in_a_row, old.last_failed_job
            )  # fmt: skip
            return False
        self.seen[name] = (
            Seen(capability, now_s, wall_s)
            if old is None
            else replace(old, capability=capability, at_s=now_s, wall_s=wall_s, heard=True)
        )
        return True

    def unsee(self, name: str, before: Seen | None) -> None:
        """Take back what `saw` noted."""
        if before is None:
            self.seen.pop(name, None)
            self._fits.pop(name, None)
        else:
            self.seen[name] = before

    # -- the decision

    def best(self, host: HostView, others: Iterable[HostView]) -> Head | None:
        """The job this host gets now. `others` is looked at only when a job with a preference waits."""
        heads = self.heads()
        class_id = self.choose(host, heads, Fleet(self, others).rivals)
        return None if class_id is None else heads[class_id]

    def choose(
        self, host: HostView, heads: Mapping[int, Head], rivals: Callable[[int], Rivals]
    ) -> int | None:
        """The class whose head this host gets: the best one among the classes it may run.

        The same functions as in `eligibility.checks`: policy and capability (cached per class), the
        host's state, and for classes with a preference whether a better live host could take the job.
        """
        fitting = self.fitting(host, heads.keys())
        if not fitting or not host.is_ready or self.rules.paused_reason is not None:
            return None
        best: int | None = None
        best_order: tuple[int, int] | None = None
        for class_id in fitting:
            order = heads[class_id].order
            if best_order is not None and best_order < order:
                continue
            requirement = self._requirements[class_id]
            if (
                not requirement.has_preference
                or eligibility.preference_check(requirement, host, rivals(class_id)).ok
            ):
                best, best_order = class_id, order
        return best

    def waiting_for(self, host: HostView, waiting: Mapping[int, int]) -> int:
        """How many waiting jobs this host's policy and capability fit; `waiting` counts them per class."""
        known = waiting.keys() & self._requirements.keys()
        return sum(waiting[class_id] for class_id in self.fitting(host, known))

    def fitting(self, host: HostView, classes: AbstractSet[int]) -> set[int]:
        """Those of the classes that the host's policy and capability fit."""
        found = self._fit_of(host)
        for class_id in classes - found.known:
            found.known.add(class_id)
            self.judged += 1
            if eligibility.fits(self._requirements[class_id], host, self.rules):
                found.fits.add(class_id)
        return found.fits & classes

    def blockers(self, host: HostView, class_id: int) -> tuple[Check, ...]:
        """The checks of policy and capability that keep this host from a class; none when it fits."""
        if self.fitting(host, {class_id}):
            return ()
        known = self._fit_of(host).blockers
        if class_id not in known:
            all_of_them = eligibility.static_checks(self._requirements[class_id], host, self.rules)
            known[class_id] = tuple(check for check in all_of_them if not check.ok)
        return known[class_id]

    def _fit_of(self, host: HostView) -> _Fit:
        """What is cached of this very view; an empty one, kept by nobody, for a view that is not the fleet's own."""
        found = self._fits.get(host.name)
        same = found is not None and found.spec is host.spec
        if (
            found is None
            or not same
            or (found.effective is not host.capability and found.effective != host.capability)
        ):
            return _Fit(host.spec, host.capability, host.capability)
        return found

    def known_to_fit_none(self, name: str, detected: Capability, classes: AbstractSet[int]) -> bool:
        """Is it known already that a host of the manifest in force, if it called with this, fits none of them?"""
        found = self._fits.get(name)
        return (
            found is not None and found.spec is self.hosts.get(name)
            and (found.detected is detected or found.detected == detected)
            and found.known.issuperset(classes) and found.fits.isdisjoint(classes)
        )  # fmt: skip

    def _fit(self, name: str, spec: HostSpec | None, detected: Capability) -> _Fit:
        found = self._fits.get(name)
        if (
            found is None
            or found.spec is not spec
            or (found.detected is not detected and found.detected != detected)
        ):
            effective, _ = eligibility.effective(detected, spec)
            found = self._fits[name] = _Fit(spec, detected, effective)
        return found


class Fleet:
    """All hosts at one instant, and whom the jobs of each class may wait for. Short-lived."""

    def __init__(self, matcher: Matcher, hosts: Iterable[HostView]) -> None:
        self._matcher, self._hosts = matcher, hosts
        self._able: list[HostView] | None = None
        self._rivals: dict[int, Rivals] = {}

    def rivals(self, class_id: int) -> Rivals:
        """As `eligibility.rivals_of`, with what is cached of who fits what."""
        if class_id not in self._rivals:
            if self._able is None:
                self._able = [host for host in self._hosts if host.takes_jobs]
            one = {class_id}
            able = [host for host in self._able if self._matcher.fitting(host, one)]
            self._rivals[class_id] = rivals_among(self._matcher.requirement(class_id), able)
        return self._rivals[class_id]

    def waited_for(self) -> list[HostView]:
        """The hosts that could meet a wish somebody has asked about."""
        names = {
            name
            for found in self._rivals.values()
            for name in (*found.releaser, *found.cuda, *found.unfailed)
        }
        return [host for host in self._able or () if host.name in names]


def _parse(key: str) -> Requirement:
    raw: dict[str, Any] = json.loads(key)
    raw |= {name: tuple(raw[name]) for name in ("allowed_hosts", "failed_hosts")}
    return Requirement(**raw)
