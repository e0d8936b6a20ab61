"""What somebody should know before a reload; only what is certainly so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from training.fleet.catalog import Step
from training.fleet.eligibility import Requirement, static_checks
from training.fleet.plan_fleet import ACTIVE, Fleet, Picture, Waiting, listed, names_of
from training.fleet.specs import Reference, stale_of
from training.fleet.types import Manifest


def warnings(
    picture: Picture,
    wanted: Manifest,
    fleet: Fleet,
    steps: Sequence[Step],
    waiting: Waiting,
    reference: Reference,
) -> list[dict[str, Any]]:
    """What somebody should know before the reload; only what is certainly so. By line."""
    found = [
        *_nobody_can(fleet, waiting),
        *_goes_on(steps),
        *_hosts_that_go(picture, wanted),
        *_opens(picture, wanted),
        *_names_alike(wanted, picture),
        *_stale_results(steps, reference),
        *(
            _warning(
                "W006", f"{name} is paused ({reason}); every reload ends that", None,
                f"mend the host first, or keep it from jobs: cis490-jobs drain {name}",
            )
            for name, reason in sorted(picture.paused.items())
        ),
    ]  # fmt: skip
    return sorted(found, key=lambda item: item["line"] or 0)


def _warning(code: str, text: str, line: int | None, hint: str, about: Sequence[Step] = ()) -> dict[str, Any]:
    """`about`: the jobs that it is about."""
    jobs = [step.spec.name for step in about if step.spec is not None]
    return {"code": code, "text": text, "line": line, "hint": hint, "jobs": jobs}


def _nobody_can(fleet: Fleet, waiting: Waiting) -> Iterable[dict[str, Any]]:
    for requirement, group in waiting.items():
        waits = [step for step in group if step.row is None or step.row.status not in ACTIVE]
        if not waits or fleet.able(requirement):
            continue
        line = min((step.spec.line for step in waits if step.spec and step.spec.line), default=None)
        names = names_of(waits)
        word = "it" if len(waits) == 1 else "them"
        hidden = fleet.may_turn_out_able(requirement)
        if hidden:
            silent = f"{listed(hidden)} may, but {'has' if len(hidden) == 1 else 'have'} never called"
            hint = f"start the worker on {hidden[0]}: systemctl start cis490-trainer-worker"
            yield _warning(
                "W002", f"{names}: no host that has called can run {word}; {silent}", line, hint, waits
            )
        else:
            closest, hint = _closest(requirement, fleet)
            yield _warning("W001", f"{names}: no enrolled host can run {word}{closest}", line, hint, waits)


def _closest(requirement: Requirement, fleet: Fleet) -> tuple[str, str]:
    """What the host lacks that lacks least, and the first step to mend that."""
    judged = (
        (name, [check for check in static_checks(requirement, view, fleet.rules) if not check.ok])
        for name, view in fleet.views.items()
    )
    name, failed = min(judged, key=lambda pair: len(pair[1]), default=("", []))
    if not failed:
        return ": none is in the manifest and none has called", "start a worker, or add [[hosts]]"
    return f"; closest is {name}: {'; '.join(check.message for check in failed)}", failed[0].hint


def _goes_on(steps: Sequence[Step]) -> Iterable[dict[str, Any]]:
    for step in steps:
        gone = step.replaced if step.replaced is not None else step.row if step.spec is None else None
        if gone is None or gone.status not in ACTIVE:
            continue
        line = None if step.spec is None else step.spec.line
        yield _warning(
            "W003", f"{gone.name}: the attempt on {gone.claimed_by} goes on under the old id {gone.job_id[:12]}, "
            "and its result counts for that", line,
            f"to end it: cis490-jobs cancel {gone.job_id[:12]}",
        )  # fmt: skip


def _hosts_that_go(picture: Picture, wanted: Manifest) -> Iterable[dict[str, Any]]:
    closed = bool(wanted.hosts) and wanted.policy.unknown_hosts == "deny"
    for name in [*picture.hosts, *(name for name in picture.seen if name not in picture.hosts)]:
        busy = picture.busy.get(name, 0)
        if name not in wanted.hosts and busy and closed:
            verb = "1 job that goes" if busy == 1 else f"{busy} jobs that go"
            yield _warning(
                "W004", f"{name} is not in the manifest, so it gets no more jobs; it runs {verb} on", None,
                f'to keep it: add [[hosts]] name = "{name}"',
            )  # fmt: skip


def _opens(picture: Picture, wanted: Manifest) -> Iterable[dict[str, Any]]:
    """A manifest that names hosts keeps all others out; one that names none lets every caller in."""
    if picture.hosts and picture.rules.unknown_hosts == "deny" and not wanted.hosts:
        yield _warning(
            "W008", f"no host is named any more ({listed(sorted(picture.hosts))} went): every host that calls is then "
            "given jobs", None, f'to keep others out: [[hosts]] name = "{min(picture.hosts)}"',
        )  # fmt: skip


def _names_alike(wanted: Manifest, picture: Picture) -> Iterable[dict[str, Any]]:
    """Names that differ in capitals alone are one file name on Windows, and a typing error nearly always."""
    jobs = [(spec.name, spec.line) for spec in wanted.jobs]
    hosts = [(name, spec.lines.get("")) for name, spec in wanted.hosts.items()]
    for kind, named in (("jobs", jobs), ("hosts", hosts)):
        first: dict[str, str] = {}
        for name, line in named:
            other = first.setdefault(name.lower(), name)
            if other != name:
                yield _warning(
                    "W005", f"the names of the {kind} {other} and {name} differ in capitals alone", line,
                    f"rename one of the two: {name}-2",
                )  # fmt: skip
    lower = {name.lower(): name for name in wanted.hosts}
    for name in picture.seen:
        other = lower.get(name.lower(), name)
        if name not in wanted.hosts and other != name:
            yield _warning(
                "W005", f"the host {name} has called, and the manifest names {other}: they differ in capitals alone",
                wanted.hosts[other].lines.get(""), f'if they are one host: name = "{name}"',
            )  # fmt: skip


def _stale_results(steps: Sequence[Step], reference: Reference) -> Iterable[dict[str, Any]]:
    by_reason: dict[str, list[Step]] = {}
    for step in steps:
        if step.spec is not None and step.row is not None and step.action != "retrain":
            for reason in stale_of(step.row, reference):
                by_reason.setdefault(reason, []).append(step)
    for reason, stale in by_reason.items():
        yield _warning(
            "W007", f"{names_of(stale)}: completed, and stays so although the {reason.replace(' ', ' has ')}", None,
            'to train again: on_change = "retrain" in the manifest, or cis490-jobs requeue --force JOB',
        )  # fmt: skip
