"""For each check that fails: the smallest changes that would mend it on this host. Pure.

Nothing is proposed that no change can mend: a host does not get a GPU, and a verification run has no lines in the
manifest. A check without a fix leaves its host out of the suggestions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from training.fleet import eligibility
from training.fleet.changes import RELOAD, Change, needs_of, needs_text, word_for
from training.fleet.eligibility import Check, HostView
from training.fleet.situation import Situation
from training.fleet.specs import spec_of
from training.fleet.types import Capability, HostSpec

MAX_SLOTS: Final = 64
"""As many as a manifest may state for a host."""
START: Final = "systemctl start cis490-trainer-worker"


def of_job(situation: Situation, check: Check) -> Change | None:
    """What mends one of the job's own checks; None when nothing needs to be mended: the job runs."""
    row, word = situation.row, word_for(situation.row)
    if check.constraint == "pending":
        if row.is_shadow or row.status in ("claimed", "running"):
            return None
        force = " --force" if row.status == "completed" else ""
        done = (
            "train it once more (its artifacts are kept)" if force else "queue it again, with fresh budgets"
        )
        return Change(
            "requeue",
            done,
            key="status",
            old=row.status,
            new="pending",
            command=f"cis490-jobs requeue{force} {word}",
        )
    if check.constraint == "in_manifest":
        text = f"put [[jobs]] {row.name} back into the manifest"
        return Change("put_back", text, key="held", old=True, new=False, command=RELOAD)
    if check.constraint == "not_paused_job":
        command = f"cis490-jobs resume {word}"
        return Change(
            "resume_job",
            f"end the pause of {row.name}",
            key="paused_reason",
            old=row.paused_reason,
            command=command,
        )
    if check.constraint == "disk":
        return Change(
            "free_disk",
            "free space on the receiver's disk; nothing needs a restart",
            key="disk",
            old=situation.disk,
        )
    return None


def of_host(situation: Situation, view: HostView, check: Check) -> list[Change]:
    """What mends one check of one host, the least invasive first; usually one change, two where there is a choice."""
    make = _FIXES.get(check.constraint)
    return make(situation, view) if make is not None else []


def _known_host(situation: Situation, view: HostView) -> list[Change]:
    text = f'manifest: add [[hosts]] name = "{view.name}"'
    return [
        Change("add_host", text, view.name, "hosts", None, view.name, None, RELOAD),
        Change(
            "allow_unknown_hosts", 'manifest: set [policy] unknown_hosts = "allow"', view.name, "unknown_hosts",
            situation.rules.unknown_hosts, "allow", None, RELOAD,
        ),
    ]  # fmt: skip


def _deny_jobs(situation: Situation, view: HostView) -> list[Change]:
    spec, model = _spec(view), situation.requirement.model
    left = [name for name in spec.deny_jobs if name != model]
    text = f'{_line(spec, "deny_jobs")}: remove "{model}" from deny_jobs of {view.name}'
    return [_host_edit("remove_deny", text, view, "deny_jobs", list(spec.deny_jobs), left)]


def _allow_jobs(situation: Situation, view: HostView) -> list[Change]:
    spec, model = _spec(view), situation.requirement.model
    text = f'{_line(spec, "allow_jobs")}: add "{model}" to allow_jobs of {view.name}'
    return [
        _host_edit("add_allow", text, view, "allow_jobs", list(spec.allow_jobs), [*spec.allow_jobs, model])
    ]


def _allowed_hosts(situation: Situation, view: HostView) -> list[Change]:
    named = list(spec_of(situation.row.spec).allowed_hosts)
    text = f'add "{view.name}" to allowed_hosts of {situation.row.name}'
    return _job_edit(situation, view, "add_allowed_host", text, "allowed_hosts", named, [*named, view.name])


def _model(situation: Situation, view: HostView) -> list[Change]:
    model, declared = situation.requirement.model, _spec(view).capability.models
    if declared is not None and model not in declared:
        text = f'add "{model}" to capability.models of {view.name}'
        return [_declared(view, "models", declared, [*declared, model], text)]
    reported = situation.detected.get(view.name, view.capability).models or []
    text = f"on {view.name}: install what {model} needs, or update its checkout, and restart the worker"
    return [Change("install_model", text, view.name, "models", reported, [*reported, model])]


def _trainer(situation: Situation, view: HostView) -> list[Change]:
    wanted, found = situation.rules.trainer_digest, view.capability.trainer_digest
    text = f"on {view.name}: update the checkout to the receiver's, and restart the worker"
    policy = 'manifest: set [policy] trainer = "any"'
    return [
        Change("update_trainer", text, view.name, "trainer_digest", found, wanted),
        Change("any_trainer", policy, view.name, "trainer", situation.rules.trainer, "any", None, RELOAD),
    ]


def _require_cuda(situation: Situation, view: HostView) -> list[Change]:
    declared, detected = _spec(view).capability, situation.detected.get(view.name, Capability())
    out = []
    if declared.has_cuda is False and detected.has_cuda:
        out.append(
            _declared(view, "has_cuda", False, None, f"remove capability.has_cuda = false of {view.name}")
        )
    text = f"set require_cuda = false for {situation.row.name}, which may then train without a GPU"
    return out + _job_edit(situation, view, "drop_require_cuda", text, "require_cuda", True, False)


def _min_vram(situation: Situation, view: HostView) -> list[Change]:
    return _size(situation, view, "vram_gib", "min_vram_gib", "lower_min_vram")


def _min_ram(situation: Situation, view: HostView) -> list[Change]:
    return _size(situation, view, "ram_gib", "min_ram_gib", "lower_min_ram")


def _size(situation: Situation, view: HostView, key: str, constraint: str, kind: str) -> list[Change]:
    wanted = float(getattr(situation.requirement, constraint))
    found = getattr(view.capability, key)
    new = lowered(wanted, found)
    whose = f"{constraint} of {situation.row.name}"
    text = f"lower {whose} from {wanted:g} to {new:g}" if new else f"remove {whose}, which is {wanted:g}"
    return _undeclared(situation, view, key) + _job_edit(situation, view, kind, text, constraint, wanted, new)


def lowered(wanted_gib: float, found_gib: float | None) -> float:
    """The largest tidy size below `wanted_gib` that a host with `found_gib` meets; 0 where it reports none."""
    if not found_gib or found_gib <= 0:
        return 0.0
    least = 1 - eligibility.NOMINAL_TOLERANCE
    for tidy in (float(round(found_gib)), float(int(found_gib)), int(found_gib * 10) / 10, found_gib):
        if 0 < tidy < wanted_gib and found_gib >= tidy * least and tidy <= found_gib + 0.5:
            return tidy
    return 0.0


def _vram_after_oom(situation: Situation, view: HostView) -> list[Change]:
    return _undeclared(situation, view, "vram_gib") + _forget(situation, view)


def _ram_after_oom(situation: Situation, view: HostView) -> list[Change]:
    return _undeclared(situation, view, "ram_gib") + _forget(situation, view)


def _undeclared(situation: Situation, view: HostView, key: str) -> list[Change]:
    """Where the manifest makes a host smaller than it is: it need not."""
    declared, detected = getattr(_spec(view).capability, key), situation.detected.get(view.name, Capability())
    reported = getattr(detected, key)
    if declared is None or reported is None or declared >= reported:
        return []
    text = f"remove capability.{key} = {declared:g} of {view.name}, which has {reported:g}"
    return [_declared(view, key, declared, None, text)]


def _live(situation: Situation, view: HostView) -> list[Change]:
    text = f"start the worker on {view.name}"
    needs = {} if view.name in situation.detected else needs_of(situation.requirement, view.capability)
    if needs:
        text += f" (nobody knows yet whether it has {needs_text(needs)})"
    return [Change("start_worker", text, view.name, "live", False, needs, None, START)]


def _not_paused(situation: Situation, view: HostView) -> list[Change]:
    command = f"cis490-jobs resume --host {view.name}"
    text = f"mend {view.name}, then end its pause"
    return [Change("resume_host", text, view.name, "paused_reason", view.paused_reason, None, None, command)]


def _not_drained(situation: Situation, view: HostView) -> list[Change]:
    command = f"cis490-jobs undrain {view.name}"
    text = f"give {view.name} jobs again"
    return [Change("undrain", text, view.name, "drained_reason", view.drained_reason, None, None, command)]


def _free_slot(situation: Situation, view: HostView) -> list[Change]:
    rules, more = situation.rules, view.busy + 1
    out = []
    # a first [[hosts]] table would shut out every host that has none
    if more <= MAX_SLOTS and (view.spec is not None or rules.names_hosts or rules.unknown_hosts == "allow"):
        where = _line(_spec(view), "slots") if view.spec is not None else "manifest"
        text = f"{where}: set slots = {more} for {view.name}, whose jobs then share it"
        out.append(_host_edit("add_slots", text, view, "slots", view.slots, more))
    wait = f"wait until a job on {view.name} ends"
    return [*out, Change("wait_slot", wait, view.name, "busy", view.busy, view.slots - 1)]


def _preference(situation: Situation, view: HostView) -> list[Change]:
    requirement, out = situation.requirement, []
    if requirement.prefer_cuda:
        text = f"set prefer_cuda = false for {situation.row.name}"
        out += _job_edit(situation, view, "drop_prefer_cuda", text, "prefer_cuda", True, False)
    if requirement.failed_hosts or requirement.wait_for_host:
        out += _forget(situation, view)
    if requirement.may_ripen:
        wish = requirement.wait_for_host or "a host with CUDA"
        text = f"wait: the grace period for {wish} ends by itself"
        out.append(Change("wait_grace", text, view.name, "preference", wish))
    return out


def _forget(situation: Situation, view: HostView) -> list[Change]:
    row, word = situation.row, word_for(situation.row)
    if row.is_shadow:
        return []
    text = (
        "make the job smaller, then let it forget its past attempts"
        if situation.requirement.more_vram_than_gib or situation.requirement.more_ram_than_gib
        else "let the job forget its past attempts"
    )
    command = f"cis490-jobs cancel {word} && cis490-jobs requeue {word}"
    return [Change("forget_attempts", text, view.name, "learned", None, None, None, command)]


def _fleet(situation: Situation, view: HostView) -> list[Change]:
    command, reason = "cis490-jobs resume", situation.rules.paused_reason
    return [
        Change(
            "resume_fleet", "end the pause of the fleet", None, "paused_reason", reason, None, None, command
        )
    ]


_FIXES: Final[Mapping[str, Callable[[Situation, HostView], list[Change]]]] = {
    "known_host": _known_host,
    "deny_jobs": _deny_jobs,
    "allow_jobs": _allow_jobs,
    "allowed_hosts": _allowed_hosts,
    "model": _model,
    "trainer": _trainer,
    "require_cuda": _require_cuda,
    "min_vram_gib": _min_vram,
    "min_ram_gib": _min_ram,
    "vram_after_oom": _vram_after_oom,
    "ram_after_oom": _ram_after_oom,
    "live": _live,
    "not_paused": _not_paused,
    "not_drained": _not_drained,
    "free_slot": _free_slot,
    "preference": _preference,
    "fleet_not_paused": _fleet,
}


# -- parts


def _spec(view: HostView) -> HostSpec:
    return view.spec or HostSpec(view.name)


def _line(spec: HostSpec, key: str) -> str:
    line = _line_of(spec, key)
    return f"manifest line {line}" if line else "manifest"


def _line_of(spec: HostSpec, key: str) -> int | None:
    return spec.lines.get(key) or spec.lines.get("")


def _host_edit(kind: str, text: str, view: HostView, key: str, old: Any, new: Any) -> Change:
    return Change(kind, text, view.name, key, old, new, _line_of(_spec(view), key), RELOAD)


def _declared(view: HostView, key: str, old: Any, new: Any, text: str) -> Change:
    where = _line(_spec(view), "capability")
    return Change(
        "declare", f"{where}: {text}", view.name, key, old, new, _line_of(_spec(view), "capability"), RELOAD
    )


def _job_edit(
    situation: Situation, view: HostView, kind: str, text: str, key: str, old: Any, new: Any
) -> list[Change]:
    """An edit of the job's table; none for a verification run, which has no table."""
    row = situation.row
    if row.is_shadow:
        return []
    line = situation.lines.get(key) or row.spec.get("line")
    where = f"manifest line {line}" if line else "manifest"
    return [Change(kind, f"{where}: {text}", view.name, key, old, new, line, RELOAD)]
