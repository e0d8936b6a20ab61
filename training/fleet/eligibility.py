"""Who may run what: (requirement, host, rules) -> every check with its verdict. Pure.

`claim`, `why`, `plan` and the pages ask the same functions, so an explanation can never disagree with
a decision. A host may run a job when every check of `checks()` is ok; each failed check names what was
wanted, what was found, and what would help.

Three *preferences* are soft: they only hold a job back while some other live host is the better choice
(`prefer_cuda`, the host that released the job, a host that has not failed it yet). The first two end
after a grace period, by dropping the wish from the requirement (`ripened`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

from training.fleet.types import Capability, HostSpec, JobSpec, TrainerPolicy, UnknownHosts

NOMINAL_TOLERANCE = 0.06
"""A card sold as 24 GB reports 23.99 GiB, a PC with 16 GB of RAM 15.5 GiB: sizes compare nominally."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """The eligibility inputs of a job. Jobs with equal requirements form one *requirement class*."""

    model: str
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = 0.0
    min_ram_gib: float = 0.0
    allowed_hosts: tuple[str, ...] = ()
    failed_hosts: tuple[str, ...] = ()
    """Hosts on which this job failed: others first."""
    more_vram_than_gib: float = 0.0
    """It ran out of memory on a GPU of this size; 0: never did."""
    more_ram_than_gib: float = 0.0
    wait_for_host: str = ""
    """It was released by this host, which still has its data."""

    @property
    def may_ripen(self) -> bool:
        """Does a wish hold it back that a grace period ends?"""
        return self.prefer_cuda or bool(self.wait_for_host)

    @property
    def has_preference(self) -> bool:
        return self.may_ripen or bool(self.failed_hosts)


@dataclass(frozen=True, slots=True)
class Learned:
    """What past attempts of a job taught about where it may run."""

    failed_hosts: tuple[str, ...] = ()
    more_vram_than_gib: float = 0.0
    more_ram_than_gib: float = 0.0
    wait_for_host: str = ""

    @property
    def is_released(self) -> bool:
        """Did the last attempt give the job back unharmed, so that a checkpoint of it may be gone on from?"""
        return bool(self.wait_for_host)


@dataclass(frozen=True, slots=True)
class HostView:
    """One host as matching sees it."""

    name: str
    spec: HostSpec | None = None
    """Its policy; None when the manifest does not name it."""
    capability: Capability = field(default_factory=Capability)
    """The *effective* one, see `effective()`."""
    live: bool = True
    seen_s_ago: float | None = None
    busy: int = 0
    paused_reason: str | None = None
    drained_reason: str | None = None
    """An operator wants it to finish what it has and take no more."""

    @property
    def takes_jobs(self) -> bool:
        """Would it be given a job, now or when a slot is free? Other hosts are only held back for such a one."""
        return self.live and self.paused_reason is None and self.drained_reason is None

    @property
    def is_ready(self) -> bool:
        """Are all of its `state_checks` ok? The same, without the words: every claim asks."""
        return self.takes_jobs and self.busy < self.slots

    @property
    def slots(self) -> int:
        if self.spec is not None and self.spec.slots is not None:
            return self.spec.slots
        return max(1, len(self.capability.gpus or ()))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the manifest says about the fleet as a whole."""

    names_hosts: bool = False
    unknown_hosts: UnknownHosts = "deny"
    trainer: TrainerPolicy = "same"
    trainer_digest: str | None = None
    """Of the receiver's own checkout; None: unknown, nothing to compare with."""
    paused_reason: str | None = None
    """Why the whole fleet is given nothing. The operator's word, not the manifest's: it outlives a reload."""


class Check(NamedTuple):
    """One constraint on one host. `message` is a sentence, `hint` the change that would help.

    A tuple because a claim by a new host makes ten for each class of jobs: a frozen dataclass takes five times longer.
    """

    constraint: str
    ok: bool
    wanted: str
    found: str
    message: str = ""
    hint: str = ""


def requirement_of(spec: JobSpec, learned: Learned | None = None) -> Requirement:
    """A job's eligibility inputs, from its spec and what its attempts taught."""
    known = learned or Learned()
    return Requirement(
        model=spec.model,
        require_cuda=spec.require_cuda,
        prefer_cuda=spec.prefer_cuda and not spec.require_cuda,
        min_vram_gib=float(spec.min_vram_gib),
        min_ram_gib=float(spec.min_ram_gib),
        allowed_hosts=tuple(sorted(set(spec.allowed_hosts))),
        failed_hosts=tuple(sorted(set(known.failed_hosts))),
        more_vram_than_gib=known.more_vram_than_gib,
        more_ram_than_gib=known.more_ram_than_gib,
        wait_for_host=known.wait_for_host,
    )


def ripened(requirement: Requirement) -> Requirement:
    """After the grace period: the wishes that only delayed the job are dropped."""
    return replace(requirement, prefer_cuda=False, wait_for_host="")


def admission(name: str, spec: HostSpec | None, rules: Rules) -> Check:
    """May this host take part at all? Fails closed once the manifest names any host."""
    ok = _is_admitted(spec, rules)
    return Check(
        "known_host",
        ok,
        "a host the manifest names",
        name if ok else "not in the manifest",
        "" if ok else f'the manifest names hosts, and "{name}" is not among them',
        "" if ok else f'add [[hosts]] name = "{name}", or set [policy] unknown_hosts = "allow", then reload',
    )


def static_checks(requirement: Requirement, host: HostView, rules: Rules) -> Iterator[Check]:
    """The checks that only change with the manifest or the host's capability; a host's are cached."""
    yield admission(host.name, host.spec, rules)
    yield from _policy_checks(requirement, host)
    yield from _software_checks(requirement, host.capability, rules)
    yield from _hardware_checks(requirement, host.capability)


def checks(
    requirement: Requirement, host: HostView, others: Iterable[HostView], rules: Rules
) -> tuple[Check, ...]:
    """Every check for this job on this host; all ok means that a claim by this host would get it
    (if no better job is waiting). `others` are the fleet's hosts; this host itself is skipped."""
    return verdict(requirement, host, rivals_of(requirement, others, rules), rules)


def verdict(requirement: Requirement, host: HostView, rivals: Rivals, rules: Rules) -> tuple[Check, ...]:
    """The same with the rivals found already: they are those of every host that is judged for this job."""
    found = [*static_checks(requirement, host, rules), fleet_check(rules), *state_checks(host)]
    if requirement.has_preference:
        found.append(preference_check(requirement, host, rivals))
    return tuple(found)


def fits(requirement: Requirement, host: HostView, rules: Rules) -> bool:
    """All static checks are ok: their predicates without their words, which would take ten times as long."""
    spec, capability = host.spec, host.capability
    return (
        _is_admitted(spec, rules)
        and (spec is None or (not _is_denied(requirement, spec) and _is_allowed(requirement, spec)))
        and _is_named(requirement, host.name)
        and _has_model(requirement, capability)
        and _has_trainer(capability, rules)
        and _has_cuda(requirement, capability)
        and _is_enough(requirement.min_vram_gib, capability.vram_gib)
        and _is_enough(requirement.min_ram_gib, capability.ram_gib)
        and _is_more(requirement.more_vram_than_gib, capability.vram_gib)
        and _is_more(requirement.more_ram_than_gib, capability.ram_gib)
    )


# The predicates: what `fits` asks and what the check of the same constraint puts into words.


def _is_admitted(spec: HostSpec | None, rules: Rules) -> bool:
    return spec is not None or not rules.names_hosts or rules.unknown_hosts == "allow"


def _is_denied(requirement: Requirement, spec: HostSpec) -> bool:
    return requirement.model in spec.deny_jobs


def _is_allowed(requirement: Requirement, spec: HostSpec) -> bool:
    return not spec.allow_jobs or requirement.model in spec.allow_jobs


def _is_named(requirement: Requirement, name: str) -> bool:
    return not requirement.allowed_hosts or name in requirement.allowed_hosts


def _has_model(requirement: Requirement, capability: Capability) -> bool:
    return capability.models is None or requirement.model in capability.models


def _has_trainer(capability: Capability, rules: Rules) -> bool:
    wanted, found = rules.trainer_digest, capability.trainer_digest
    return rules.trainer == "any" or wanted is None or found is None or wanted == found


def _has_cuda(requirement: Requirement, capability: Capability) -> bool:
    return bool(capability.has_cuda) or not requirement.require_cuda


def _is_enough(wanted_gib: float, found_gib: float | None) -> bool:
    """Sizes compare nominally, see `NOMINAL_TOLERANCE`."""
    return wanted_gib <= 0 or (found_gib is not None and found_gib >= wanted_gib * (1 - NOMINAL_TOLERANCE))


def _is_more(floor_gib: float, found_gib: float | None) -> bool:
    return floor_gib <= 0 or (found_gib is not None and found_gib > floor_gib * (1 + NOMINAL_TOLERANCE))


def fleet_check(rules: Rules) -> Check:
    """Is anything handed out at all? The same for every host."""
    reason = rules.paused_reason
    return Check(
        "fleet_not_paused", reason is None, "not paused", "not paused" if reason is None else reason,
        "" if reason is None else f"the fleet is paused: {reason}",
        "" if reason is None else "cis490-jobs resume",
    )  # fmt: skip


def state_checks(host: HostView) -> Iterator[Check]:
    """What the host is doing right now."""
    if host.seen_s_ago is not None:
        seen = f"last seen {host.seen_s_ago:.0f} s ago"
    else:
        seen = "not heard since the receiver started" if host.live else "never seen"
    yield Check(
        "live", host.live, "a worker that reports", seen,
        "" if host.live else f"no worker on {host.name} is reporting ({seen})",
        "" if host.live else f"start the worker on {host.name}: systemctl start cis490-trainer-worker",
    )  # fmt: skip
    paused = host.paused_reason is not None
    yield Check(
        "not_paused", not paused, "not paused", host.paused_reason or "not paused",
        f"{host.name} is paused: {host.paused_reason}" if paused else "",
        f"mend the host, then: cis490-jobs resume --host {host.name}" if paused else "",
    )  # fmt: skip
    drained = host.drained_reason is not None
    yield Check(
        "not_drained", not drained, "not drained", host.drained_reason or "not drained",
        f"{host.name} is drained and takes no more jobs: {host.drained_reason}" if drained else "",
        f"cis490-jobs undrain {host.name}" if drained else "",
    )  # fmt: skip
    free = host.busy < host.slots
    yield Check(
        "free_slot", free, f"fewer than {host.slots} running", f"{host.busy} running",
        "" if free else f"{host.name} is busy: {host.busy} of {host.slots} slots",
        "" if free else "wait, or raise slots of this host in the manifest",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rivals:
    """The names of the hosts that take jobs and fit one requirement, by the wish that they meet; sorted."""

    releaser: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    unfailed: tuple[str, ...] = ()


def rivals_of(requirement: Requirement, hosts: Iterable[HostView], rules: Rules) -> Rivals:
    """Whom a job with a preference may wait for."""
    if not requirement.has_preference:
        return Rivals()
    return rivals_among(requirement, [x for x in hosts if x.takes_jobs and fits(requirement, x, rules)])


def rivals_among(requirement: Requirement, able: Iterable[HostView]) -> Rivals:
    """The same of hosts that are known to take jobs and to fit."""
    able = sorted(able, key=lambda host: host.name)
    unfailed = [host for host in able if host.name not in requirement.failed_hosts]
    willing = unfailed or able  # nobody waits for a host that would itself be held back for another
    return Rivals(
        releaser=tuple(host.name for host in willing if host.name == requirement.wait_for_host),
        cuda=tuple(host.name for host in willing if host.capability.has_cuda),
        unfailed=tuple(host.name for host in unfailed),
    )


def preference_check(requirement: Requirement, host: HostView, rivals: Rivals) -> Check:
    """Is there a live host that should have the job before this one?"""
    better, why = _better(requirement, host, rivals)
    named = ", ".join([name for name in better if name != host.name][:3])
    return Check(
        "preference", not better, "no better live host", named or "none",
        f"{why}: {named}" if better else "",
        "wait for the grace period, or stop the wish (prefer_cuda = false)" if better else "",
    )  # fmt: skip


def _better(requirement: Requirement, host: HostView, rivals: Rivals) -> tuple[tuple[str, ...], str]:
    releaser = requirement.wait_for_host
    if releaser and _other(rivals.releaser, host):
        return rivals.releaser, "waits a while for the host that released it"
    # the releaser goes before a host with CUDA, or each would wait for the other
    prefers_cuda = requirement.prefer_cuda and host.name != releaser
    if prefers_cuda and not host.capability.has_cuda and _other(rivals.cuda, host):
        return rivals.cuda, "prefers a live host with CUDA for a grace period"
    if host.name in requirement.failed_hosts and _other(rivals.unfailed, host):
        return rivals.unfailed, f"has failed on {host.name} already and goes to another host first"
    return (), ""


def _other(names: tuple[str, ...], host: HostView) -> bool:
    return any(name != host.name for name in names)


def policy_allows(requirement: Requirement, name: str, spec: HostSpec | None, rules: Rules) -> bool:
    """May this host have the job as far as the manifest is concerned, whatever it can do?"""
    return (
        _is_admitted(spec, rules)
        and (spec is None or (not _is_denied(requirement, spec) and _is_allowed(requirement, spec)))
        and _is_named(requirement, name)
    )


def _policy_checks(requirement: Requirement, host: HostView) -> Iterator[Check]:
    spec = host.spec or HostSpec(host.name)
    model = requirement.model
    denied = _is_denied(requirement, spec)
    yield Check(
        "deny_jobs", not denied, f"{model} not denied", _listed(spec.deny_jobs),
        f'{model} is denied by hosts.{host.name}.deny_jobs{_at(spec, "deny_jobs")}' if denied else "",
        f'remove "{model}" from deny_jobs of {host.name}{_at(spec, "deny_jobs")}' if denied else "",
    )  # fmt: skip
    allowed = _is_allowed(requirement, spec)
    yield Check(
        "allow_jobs", allowed, f"{model} allowed", _listed(spec.allow_jobs, empty="all"),
        "" if allowed else f'hosts.{host.name}.allow_jobs{_at(spec, "allow_jobs")} does not list {model}',
        "" if allowed else f'add "{model}" to allow_jobs of {host.name}{_at(spec, "allow_jobs")}',
    )  # fmt: skip
    named = _is_named(requirement, host.name)
    yield Check(
        "allowed_hosts", named, _listed(requirement.allowed_hosts, empty="any host"), host.name,
        "" if named else f"the job's allowed_hosts does not list {host.name}",
        "" if named else f'add "{host.name}" to the job\'s allowed_hosts',
    )  # fmt: skip


def _software_checks(requirement: Requirement, capability: Capability, rules: Rules) -> Iterator[Check]:
    models = capability.models
    has_model = _has_model(requirement, capability)
    yield Check(
        "model", has_model, f"a trainer with {requirement.model}", _listed(models or (), empty="not told"),
        "" if has_model else f"the trainer there has no model {requirement.model} (it has {_listed(models or ())})",
        "" if has_model else f"install what {requirement.model} needs on that host, or update its checkout",
    )  # fmt: skip
    wanted, found = rules.trainer_digest, capability.trainer_digest
    same = _has_trainer(capability, rules)
    yield Check(
        "trainer", same, _short(wanted), _short(found),
        "" if same else f"its trainer {_short(found)} is not the receiver's {_short(wanted)}",
        "" if same else 'update the checkout on that host, or set [policy] trainer = "any"',
    )  # fmt: skip


def _hardware_checks(requirement: Requirement, capability: Capability) -> Iterator[Check]:
    cuda = _has_cuda(requirement, capability)
    yield Check(
        "require_cuda", cuda, "CUDA" if requirement.require_cuda else "any",
        "CUDA" if capability.has_cuda else "no CUDA",
        "" if cuda else "no working CUDA there",
        "" if cuda else "run it on a host with CUDA, or set require_cuda = false",
    )  # fmt: skip
    sizes = (
        ("min_vram_gib", requirement.min_vram_gib, capability.vram_gib, "VRAM"),
        ("min_ram_gib", requirement.min_ram_gib, capability.ram_gib, "RAM"),
    )
    for constraint, wanted, found, what in sizes:
        ok = _is_enough(wanted, found)
        short = (
            f"{wanted - (found or 0.0):.1f} GiB of {what} short"
            if found is not None
            else f"{what} not reported"
        )
        hint = (
            f"lower {constraint} to {found:g}" if found else f"run it on a host with {wanted:g} GiB of {what}"
        )
        yield Check(
            constraint, ok, f">= {wanted:g} GiB", _gib(found), "" if ok else short, "" if ok else hint
        )
    bigger = (
        ("vram_after_oom", requirement.more_vram_than_gib, capability.vram_gib, "VRAM"),
        ("ram_after_oom", requirement.more_ram_than_gib, capability.ram_gib, "RAM"),
    )
    for constraint, floor, found, what in bigger:
        if floor <= 0:
            continue
        ok = _is_more(floor, found)
        yield Check(
            constraint, ok, f"> {floor:g} GiB", _gib(found),
            "" if ok else f"the job ran out of memory on a host with {floor:g} GiB of {what}",
            "" if ok else f"enrol a host with more {what}, or make the job smaller and requeue it",
        )  # fmt: skip


_LOWERABLE = ("cores", "ram_gib", "vram_gib")


def effective(detected: Capability, spec: HostSpec | None) -> tuple[Capability, tuple[str, ...]]:
    """What matching believes, and the mismatches between manifest and host as sentences.

    A declared value may lower a detected one (a host that shall give only 8 of its 32 GiB); it raises
    one, or states what the host does not report, only with `force = true`.
    """
    if spec is None:
        return detected, ()
    declared = spec.capability
    changes: dict[str, object] = {}
    notes: list[str] = []
    for item in fields(Capability):
        wish, found = getattr(declared, item.name), getattr(detected, item.name)
        if wish is None or wish == found:
            continue
        if spec.force or _lowers(item.name, wish, found):
            changes[item.name] = wish
            notes.append(f"{item.name}: the manifest's {wish} is used, the host reports {found}")
        else:
            notes.append(f"{item.name}: the manifest says {wish}, the host reports {found}, which is used")
    if changes.get("has_cuda") is False:  # the host keeps its GPU to itself, memory and slots with it
        changes |= {"vram_gib": None, "gpus": None}
    return replace(detected, **changes), tuple(notes)  # type: ignore[arg-type]


def _lowers(key: str, wish: object, found: object) -> bool:
    if key == "has_cuda":
        return wish is False
    if key == "models" and isinstance(wish, list):
        return found is None or (isinstance(found, list) and set(wish) <= set(found))
    if key in _LOWERABLE and isinstance(wish, int | float) and isinstance(found, int | float):
        return wish < found
    return False


def _listed(names: Iterable[str], *, empty: str = "none") -> str:
    return ", ".join(names) or empty


def _at(spec: HostSpec, key: str) -> str:
    line = spec.lines.get(key) or spec.lines.get("")
    return f" (manifest line {line})" if line else ""


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "not told"


def _gib(size: float | None) -> str:
    return "not reported" if size is None else f"{size:g} GiB"
