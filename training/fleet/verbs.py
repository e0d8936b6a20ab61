"""What each verb of `cis490-jobs` does: ask the receiver, then print its answer as JSON or as a screen.

The command line itself is `training.fleet.cli`, which imports this module only once a verb is to be carried out.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from training.fleet import naming, render, render_job, render_models
from training.fleet.client import FleetClient, FleetError, Refused, Unreachable
from training.fleet.exits import (
    MANIFEST_FAULTY,
    OK,
    REFUSED,
    TOKEN_VARIABLE,
    UNREACHABLE,
    URL_VARIABLE,
    USAGE,
    VERIFY_IMPOSSIBLE,
    Stop,
)
from training.fleet.render import View
from training.fleet.tables import Row, rows_of, safe, safe_lines, text_of
from training.fleet.verb import Call, Terminal, named, own_terminal, said

__all__ = ["ACTS", "MOST_EXPLAINED", "Call", "Terminal", "act_of", "carry_out", "own_terminal"]

if TYPE_CHECKING:
    from training.fleet.comparison import Comparison

MOST_EXPLAINED = 50
"""Pending jobs that `status` asks about, highest priority first: one request each."""


def _status(call: Call) -> int:
    jobs, workers, shadows = call.client.jobs(), call.client.workers(), call.client.shadows()
    waiting = [job for job in jobs if job["status"] == "pending"]
    waiting.sort(key=lambda job: -float(job.get("priority") or 0))
    answers = (call.client.eligibility(job["job_id"]) for job in waiting[:MOST_EXPLAINED])
    stuck = [answer for answer in answers if render.is_stuck(answer)]
    return call.say(
        {"jobs": jobs, "workers": workers, "stuck": stuck, "shadows": shadows},
        lambda: render.status(call.view, jobs, workers, stuck, shadows),
    )


def _list(call: Call) -> int:
    jobs = call.client.jobs(call.args.status)
    return call.say({"jobs": jobs}, lambda: render.job_list(call.view, jobs))


def _show(call: Call) -> int:
    job = call.client.job(text_of(named(call), "job_id"))
    return call.say({"job": job}, lambda: render_job.show(call.view, job))


def _workers(call: Call) -> int:
    workers = call.client.workers()
    return call.say({"workers": workers}, lambda: render.worker_list(call.view, workers))


def _models(call: Call) -> int:
    answer = call.client.models()
    return call.say(answer, lambda: render_models.board(call.view, rows_of(answer, "groups")))


def _why(call: Call) -> int:
    if call.args.host is not None:
        return _why_host(call)
    answer = call.client.eligibility(text_of(named(call), "job_id"))
    return call.say(answer, lambda: render_job.why_job(call.view, answer))


def _why_host(call: Call) -> int:
    host, jobs = call.args.host, call.client.jobs()
    worker = next((row for row in call.client.workers() if row["host"] == host), None)
    answers = [call.client.eligibility(job["job_id"]) for job in jobs if job["status"] == "pending"]
    if worker is None:
        _checknamed(host, answers or [call.client.eligibility(job["job_id"]) for job in jobs[:1]])
    running = [
        job
        for job in (*jobs, *call.client.shadows())
        if job["claimed_by"] == host and job["status"] in render.ACTIVE
    ]
    return call.say(
        {"host": host, "worker": worker, "running": running, "jobs": answers},
        lambda: render_job.why_host(call.view, host, worker, running, answers),
    )


def _checknamed(host: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """A host that has never called may still stand in the manifest, which every eligibility answer shows."""
    names = {str(own["host"]) for answer in answers for own in answer["hosts"]}
    if host not in names:
        raise naming.unknown("host", host, names, "cis490-jobs workers")


def _cancel(call: Call) -> int:
    job = named(call)
    answer = _changed("cancel", job, lambda: call.client.cancel(text_of(job, "job_id")))
    return call.say(answer, lambda: render_job.cancelled(job))


def _requeue(call: Call) -> int:
    job = named(call)
    answer = _changed(
        "requeue", job, lambda: call.client.requeue(text_of(job, "job_id"), force=call.args.force)
    )
    return call.say(answer, lambda: render_job.requeued(job))


_AFTER_409 = {
    (
        "requeue",
        "completed",
    ): "cis490-jobs requeue {name} --force   (trains it again; its artifacts are kept)",
    ("requeue", "claimed"): "cis490-jobs cancel {name}",
    ("requeue", "running"): "cis490-jobs cancel {name}",
}
"""What an operator most likely wants next whose verb was refused for a job in this state."""


def _changed(verb: str, job: Row, act: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
    try:
        return act()
    except Refused as refusal:
        if refusal.status != 409:
            raise
        next_one = _AFTER_409.get((verb, text_of(job, "status")), "cis490-jobs show {name}")
        hint = next_one.format(name=render.handle(job))
        raise Stop(REFUSED, f"{render.handle(job)}: {safe(said(refusal))}", f"  next: {hint}") from refusal


def _verify(call: Call) -> int:
    """Start or find the run, wait, compare. The exit code is the verdict's."""
    pull = _zstd("verify")
    from training.fleet import verification

    job, terminal = naming.find_job(call.client.jobs(), call.args.job), call.terminal
    shadow, hosts, was_there = verification.begin(call.client, job, again=call.args.again)
    found: Comparison | None = None
    is_earlier = was_there and text_of(shadow, "status") in verification.ENDED
    if not call.args.no_wait or is_earlier:
        shadow = verification.wait(call.client, shadow, terminal.err, terminal.now_s, terminal.sleep)
        progress = pull.ProgressLine(terminal.err, terminal.err.isatty(), terminal.now_s)
        try:
            found = verification.judge(call.client, shadow, progress)
        except pull.PullError as fault:
            raise Stop(VERIFY_IMPOSSIBLE, *safe_lines(str(fault))) from fault
    verified = verification.Verified(shadow, hosts, found, is_earlier)
    call.say(verified.as_json(job), lambda: render_job.verified(call.view, job, verified))
    return OK if found is None else verification.EXIT_OF[found.verdict]


def _reload(call: Call) -> int:
    try:
        answer = call.client.reload()
    except Refused as refusal:
        if refusal.status != 400:
            raise
        raise Stop(
            MANIFEST_FAULTY,
            "the manifest is faulty; nothing was changed, the last good one stays in force:",
            *safe_lines(said(refusal)),
        ) from refusal
    return call.say(answer, lambda: render_job.reloaded(answer))


def _drain(call: Call) -> int:
    answer = call.client.drain(call.args.host, call.args.reason)
    return call.say(answer, lambda: render_job.drained(answer))


def _undrain(call: Call) -> int:
    answer = call.client.undrain(call.args.host)
    return call.say(answer, lambda: render_job.undrained(answer))


def _zstd(verb: str) -> ModuleType:
    """The module that unpacks bundles; Stop where what it needs is not installed."""
    try:
        from training.fleet import pull
    except ModuleNotFoundError as fault:
        raise Stop(
            REFUSED,
            f"{verb} cannot unpack a bundle: the Python module {fault.name} is missing",
            "  next: python -m pip install backports.zstd   (not needed from Python 3.14 on)",
        ) from fault
    return pull


def _pull(call: Call) -> int:
    pull = _zstd("pull")
    err = call.terminal.err
    progress = pull.ProgressLine(err, err.isatty(), call.terminal.now_s)
    try:
        artifact, name = pull.artifact_of(call.client.jobs(), call.args.what)
        folder = Path(call.args.out or f"{name}-{artifact[:12]}")
        files, metrics = pull.pull(call.client, artifact, folder, progress)
        leaky = pull.is_leaky(folder)
    except pull.PullError as fault:
        raise Stop(REFUSED, *safe_lines(str(fault))) from fault
    return call.say(
        {"artifact_id": artifact, "folder": str(folder), "files": files, "metrics": metrics, "leaky": leaky},
        lambda: render_job.pulled(call.view, artifact, str(folder), files, metrics, leaky=leaky),
    )


ACTS: Mapping[str, str] = {
    "status": "verbs:_status",
    "list": "verbs:_list",
    "show": "verbs:_show",
    "workers": "verbs:_workers",
    "models": "verbs:_models",
    "why": "verbs:_why",
    "cancel": "verbs:_cancel",
    "requeue": "verbs:_requeue",
    "verify": "verbs:_verify",
    "reload": "verbs:_reload",
    "drain": "verbs:_drain",
    "undrain": "verbs:_undrain",
    "pull": "verbs:_pull",
}
"""Verb -> module of `training.fleet` and function: only what is asked for is imported."""


def act_of(verb: str) -> Callable[[Call], int]:
    """The function that carries out a verb."""
    module, _, name = ACTS[verb].partition(":")
    found: Callable[[Call], int] = getattr(importlib.import_module(f"training.fleet.{module}"), name)
    return found


def carry_out(args: argparse.Namespace, url: str, terminal: Terminal) -> int:
    """Carry out `args.verb` at the receiver `url`; returns OK. Raises Stop for whatever else may come of it."""
    view = View(terminal.wall_s(), terminal.columns if terminal.out.isatty() else None)
    try:
        client = FleetClient(url, operator_token=_token(terminal.env))
    except ValueError as fault:
        raise Stop(USAGE, str(fault)) from fault
    try:
        return act_of(args.verb)(Call(args, client, terminal, view))
    except naming.NotNamed as fault:
        raise Stop(USAGE, *fault.lines) from fault
    except Unreachable as fault:
        raise Stop(UNREACHABLE, *_unreachable(url, safe(str(fault)))) from fault
    except Refused as refusal:
        raise Stop(REFUSED, f"{args.verb}: {safe(said(refusal))}", *_token_hint(refusal)) from refusal
    except FleetError as fault:
        raise Stop(REFUSED, f"{args.verb}: {safe(str(fault))}") from fault
    finally:
        client.close()


def _token(env: Mapping[str, str]) -> str | None:
    token = env.get(TOKEN_VARIABLE, "").strip()
    if not (token.isascii() and token.isprintable()) and token:
        raise Stop(
            USAGE, f"${TOKEN_VARIABLE} has characters that no header can carry; expected printable ASCII"
        )
    return token or None


def _unreachable(url: str, fault: str) -> list[str]:
    return [
        f"no receiver answers at {url}",
        f"  {fault}",
        "  start it: systemctl start cis490-trainer-receiver",
        "        or, in a checkout: python -m training.fleet.receiver",
        f"  it is elsewhere? cis490-jobs --url http://HOST:PORT ..., or set ${URL_VARIABLE}",
    ]


def _token_hint(refusal: Refused) -> list[str]:
    if refusal.status == 401:
        return [f"  next: export {TOKEN_VARIABLE}=...   (the value the receiver was started with)"]
    if refusal.status == 403:
        return [f"  next: start the receiver with {TOKEN_VARIABLE} set, and give the CLI the same value"]
    return []
