"""Which waiting job a host gets: heads of the requirement classes, and who is in the fleet.

A claim looks at one head per class instead of at every job, and a host's eligibility for a class is
cached until the manifest or its capability changes. Heads are a cache of the database as the writing
connection sees it: any write to a class forgets its head, a failed transaction forgets them all.

Not thread-safe: the queue's lock guards it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.fleet import eligibility
from training.fleet.eligibility import HostView, Learned, Requirement, Rules, requirement_of, ripened
from training.fleet.rows import dumps
from training.fleet.sql import STATEMENTS
from training.fleet.types import Capability, HostSpec, JobSpec


@dataclass(frozen=True, slots=True)
class Head:
    """The best waiting job of a class."""

    seq: int
    job_id: str
    priority: int

    @property
    def order(self) -> tuple[int, int]:
        """Smaller goes first: larger priority, then older."""
        return (-self.priority, self.seq)


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


class Matcher:
    """The classes with their heads, the hosts, and what is known of who fits what."""

    def __init__(self, connection: sqlite3.Connection, *, live_s: float) -> None:
        self._connection = connection
        self._live_s = live_s
        self._ids: dict[Requirement, int] = {}
        self._requirements: dict[int, Requirement] = {}
        self._heads: dict[int, Head | None] = {}
        self._next_ripe: dict[int, float | None] = {}
        self._fits: dict[str, tuple[HostSpec | None, Capability, dict[int, bool]]] = {}
        self.rules = Rules()
        self.hosts: Mapping[str, HostSpec] = {}
        self.seen: dict[str, Seen] = {}
        self.forget()

    def forget(self) -> None:
        """Drop everything that mirrors the database; it is read again when asked for."""
        self._heads.clear()
        self._next_ripe.clear()
        self._ids.clear()
        self._requirements.clear()
        self._fits.clear()
        for class_id, key in self._connection.execute(STATEMENTS["classes"]):
            self._know(class_id, _parse(key))

    def policy(self, rules: Rules, hosts: Mapping[str, HostSpec]) -> None:
        """A new manifest is in force."""
        self.rules, self.hosts = rules, hosts
        self._fits.clear()

    # -- classes

    def class_of(self, spec: JobSpec, learned: Learned) -> int:
        """The class of a job, created if it is the first of its kind."""
        return self._class(requirement_of(spec, learned))

    def requirement(self, class_id: int) -> Requirement:
        return self._requirements[class_id]

    def wishing(self) -> list[int]:
        """The classes whose jobs wait for something that a grace period ends."""
        return [key for key, requirement in self._requirements.items() if requirement.may_ripen]

    def touch(self, class_id: int) -> None:
        """A job entered or left this class, or changed its order in it."""
        self._heads.pop(class_id, None)
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

    def _head(self, class_id: int) -> Head | None:
        if class_id not in self._heads:
            row = self._connection.execute(STATEMENTS["class_head"], {"class_id": class_id}).fetchone()
            self._heads[class_id] = Head(*row) if row is not None else None
        return self._heads[class_id]

    # -- ripening

    def ripen(self, now_s: float) -> int:
        """Move the jobs whose grace is over into the class without the wish; how many moved."""
        moved = 0
        for class_id, requirement in list(self._requirements.items()):
            if not requirement.may_ripen:
                continue
            due = self.next_ripe(class_id)
            if due is None or due > now_s:
                continue
            target = self._class(ripened(requirement))
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
        due = [self.next_ripe(key) for key, value in self._requirements.items() if value.may_ripen]
        return min((at for at in due if at is not None), default=None)

    # -- hosts

    def view(self, name: str, now_s: float, busy: int) -> HostView:
        """A host as matching sees it now."""
        return self.view_as(name, self.hosts.get(name), now_s, busy)

    def view_as(self, name: str, spec: HostSpec | None, now_s: float, busy: int) -> HostView:
        """The same under another policy than the manifest's."""
        seen = self.seen.get(name)
        if seen is None:
            declared = spec.capability if spec is not None else Capability()
            return HostView(name, spec, declared, live=False)
        capability, _ = eligibility.effective(seen.capability, spec)
        ago = max(0.0, now_s - seen.at_s)
        live = ago <= self._live_s or busy > 0
        return HostView(name, spec, capability, live, ago if seen.heard else None, busy, seen.paused_reason)

    def names(self) -> list[str]:
        """Every host of the manifest and every host that has called."""
        return sorted({*self.hosts, *self.seen})

    def saw(self, name: str, capability: Capability, now_s: float, wall_s: float) -> bool:
        """A host called. True when it is new or reports something else than before."""
        old = self.seen.get(name)
        if old is not None and old.capability == capability:
            self.seen[name] = replace(old, at_s=now_s, wall_s=wall_s, heard=True)
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
        else:
            self.seen[name] = before

    # -- the decision

    def best(self, host: HostView, others: Iterable[HostView]) -> Head | None:
        """The job this host gets now: the best head among the classes it may run.

        The same functions as in `eligibility.checks`: policy and capability (cached per class), the
        host's state, and for classes with a preference whether a better live host could take the job.
        """
        if not all(check.ok for check in eligibility.state_checks(host)):
            return None
        fits = self._fits_of(host)
        rivals: list[HostView] | None = None
        best: Head | None = None
        for class_id, requirement in self._requirements.items():
            head = self._heads[class_id] if class_id in self._heads else self._head(class_id)
            if head is None or (best is not None and best.order < head.order):
                continue
            known = fits.get(class_id)
            if known is None:
                known = fits[class_id] = eligibility.fits(requirement, host, self.rules)
            if not known:
                continue
            if requirement.has_preference:
                rivals = list(others) if rivals is None else rivals
                if not eligibility.preference_check(requirement, host, rivals, self.rules).ok:
                    continue
            best = head
        return best

    def waiting_for(self, host: HostView, waiting: Mapping[int, int]) -> int:
        """How many waiting jobs this host's policy and capability fit; `waiting` counts them per class."""
        known = self._requirements
        return sum(
            n for key, n in waiting.items() if key in known and eligibility.fits(known[key], host, self.rules)
        )

    def _fits_of(self, host: HostView) -> dict[int, bool]:
        cached = self._fits.get(host.name)
        if cached is not None and cached[0] is host.spec and cached[1] == host.capability:
            return cached[2]
        fresh: dict[int, bool] = {}
        self._fits[host.name] = (host.spec, host.capability, fresh)
        return fresh


def _parse(key: str) -> Requirement:
    raw: dict[str, Any] = json.loads(key)
    raw |= {name: tuple(raw[name]) for name in ("allowed_hosts", "failed_hosts")}
    return Requirement(**raw)
