"""The queue and its hosts as a plan sees them: who could run what, before and after. Pure but for `look`.

Whether a host can run a job is judged once for each requirement and kind of host, not for each job, by the function
that claims use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from training.fleet import catalog
from training.fleet.catalog import Step
from training.fleet.eligibility import (
    HostView,
    Requirement,
    Rules,
    effective,
    fits,
    policy_allows,
    requirement_of,
)
from training.fleet.rows import JobRow
from training.fleet.specs import Reference
from training.fleet.types import Capability, HostSpec, Manifest, Policy

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

ACTIVE = ("claimed", "running")
UNFINISHED = ("pending", *ACTIVE)
MOST_NAMED = 5


class Standing(NamedTuple):
    """Where one job stood. That a claimed one runs now is no change: its attempt is the same."""

    name: str
    status: str
    generation: int
    held: bool
    epoch: int
    """Grows with each claim."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The queue at one instant. Nothing in it changes afterwards."""

    known: Mapping[str, JobRow]
    """The jobs of the manifest in force, and the held ones that the new one names."""
    standing: Mapping[str, Standing]
    """Every job there ever was."""
    hosts: Mapping[str, HostSpec]
    policy: Policy
    rules: Rules
    reference: Reference
    seen: Mapping[str, Capability]
    """What each host that has called reported."""
    paused: Mapping[str, str]
    """Why hosts are paused; a reload ends that."""
    busy: Mapping[str, int]
    requirements: Mapping[int, Requirement]
    """What each class of jobs asks of a host."""
    audit_seq: int = 0
    in_force: Manifest | None = None


def look(queue: JobQueue, wanted: Manifest, in_force: Manifest | None) -> Picture:
    """Everything a plan depends on, in one transaction of the queue."""
    with queue.atomic():
        seen, leases = queue.matcher.seen, queue.leases
        known = catalog.known_rows(queue, wanted.jobs)
        standing = {row["job_id"]: _standing(*row) for row in queue.execute("jobs_held")}
        standing |= {
            key: _standing(key, row.name, row.status, row.generation, row.held, row.epoch)
            for key, row in known.items()
            if not row.is_shadow
        }
        last = queue.execute("audit_last").fetchone()
        return Picture(
            known=known,
            standing=standing,
            hosts=dict(queue.matcher.hosts),
            policy=queue.policy,
            rules=queue.matcher.rules,
            reference=queue.reference,
            seen={name: found.capability for name, found in seen.items()},
            paused={name: found.paused_reason for name, found in seen.items() if found.paused_reason},
            busy={name: leases.busy(name) for name in {*queue.matcher.hosts, *seen}},
            requirements=queue.matcher.requirements(),
            audit_seq=last["seq"] or 0,
            in_force=in_force,
        )


def _standing(_: str, name: str, status: str, generation: int, held: bool, epoch: int) -> Standing:
    """From the columns of `jobs_held`, in their order."""
    return Standing(name, "active" if status in ACTIVE else status, generation, bool(held), epoch)


class Fleet:
    """The hosts as they would be, and which of them fit which requirement. Judged once for each requirement and
    kind of host: hosts that differ in nothing that the checks look at are one kind."""

    def __init__(self, picture: Picture, wanted: Manifest, rules: Rules) -> None:
        self.rules, self.picture = rules, picture
        names = sorted({*wanted.hosts, *picture.seen})
        self.views = {name: view_of(name, wanted.hosts.get(name), picture.seen) for name in names}
        kinds: dict[tuple[object, ...], list[HostView]] = {}
        for view in self.views.values():
            kinds.setdefault(_kind(view), []).append(view)
        self._kinds = list(kinds.values())
        self._able: dict[Requirement, list[str]] = {}

    def able(self, requirement: Requirement) -> list[str]:
        """The names of the hosts that could run it, as far as they are known; sorted."""
        found = self._able.get(requirement)
        if found is None:
            found = self._able[requirement] = sorted(self._judged(requirement))
        return found

    def _judged(self, requirement: Requirement) -> Iterable[str]:
        if requirement.allowed_hosts:  # the one check that asks for a host's name, beside its admission
            named = [self.views[name] for name in requirement.allowed_hosts if name in self.views]
            return [view.name for view in named if fits(requirement, view, self.rules)]
        return [view.name for kind in self._kinds if fits(requirement, kind[0], self.rules) for view in kind]

    def may_turn_out_able(self, requirement: Requirement) -> list[str]:
        """Hosts of the manifest that have never called, and of which nothing but their own report is missing."""
        return [
            view.name
            for view in self.views.values()
            if view.name not in self.picture.seen
            and policy_allows(requirement, view.name, view.spec, self.rules)
        ]


def view_of(name: str, spec: HostSpec | None, seen: Mapping[str, Capability]) -> HostView:
    """The host as matching sees it under this policy; as `Matcher.view_as` does, for what a host can do."""
    declared = spec.capability if spec is not None else Capability()
    capability = effective(seen[name], spec)[0] if name in seen else declared
    return HostView(name, spec, capability)


def _kind(view: HostView) -> tuple[object, ...]:
    """All that `static_checks` look at, but for the name."""
    spec, can = view.spec, view.capability
    policy = None if spec is None else (spec.allow_jobs, spec.deny_jobs)
    models = None if can.models is None else tuple(can.models)
    return policy, models, can.trainer_digest, bool(can.has_cuda), can.vram_gib, can.ram_gib


Waiting = Mapping[Requirement, Sequence[Step]]
"""The jobs that wait or run after the reload, by what they ask of a host."""


def by_requirement(steps: Iterable[Step], known: Mapping[int, Requirement]) -> Waiting:
    """`known` are the queue's own classes: a job that stays as it is stays in its class."""
    out: dict[Requirement, list[Step]] = {}
    same: dict[int, list[Step]] = {}
    for step in steps:
        row = step.row
        if step.spec is None or (
            row is not None and step.action != "retrain" and row.status not in UNFINISHED
        ):
            continue
        if row is not None and step.action in ("keep", "move") and row.class_id in known:
            same.setdefault(row.class_id, []).append(step)
        else:
            out.setdefault(requirement_after(step, known), []).append(step)
    for class_id, group in same.items():
        out.setdefault(known[class_id], []).extend(group)
    return out


def requirement_after(step: Step, known: Mapping[int, Requirement]) -> Requirement:
    """What the job asks of a host after the reload; one that stays as it is stays in its class, as `known` has it."""
    assert step.spec is not None
    if step.row is not None and step.action in ("keep", "move") and step.row.class_id in known:
        return known[step.row.class_id]
    learned = None if step.row is None or step.action == "retrain" else step.row.learned
    return requirement_of(step.spec, learned)


def names_of(steps: Sequence[Step]) -> str:
    return listed([step.spec.name for step in steps if step.spec is not None])


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, c, d, e and 7 more`."""
    if len(names) <= 1:
        return "".join(names)
    head, rest = names[:MOST_NAMED], len(names) - MOST_NAMED
    last = f"{rest} more" if rest > 0 else head[-1]
    return f"{', '.join(head if rest > 0 else head[:-1])} and {last}"
