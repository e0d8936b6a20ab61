"""`cancel`, `requeue`, `drain` and `undrain`: what an operator changes about jobs and hosts; and `notify --test`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.fleet import render, render_job
from training.fleet.client import Refused
from training.fleet.exits import OK, REFUSED, Stop
from training.fleet.tables import Row, safe, text_of
from training.fleet.verb import Call, host_named, named, said


def cancel(call: Call) -> int:
    """Stop a job, or take it out of the queue."""
    job = named(call)
    answer = _changed("cancel", job, lambda: call.client.cancel(text_of(job, "job_id")))
    return call.say(answer, lambda: render_job.cancelled(job))


def requeue(call: Call) -> int:
    """Queue a job again."""
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


def drain(call: Call) -> int:
    """Give a host no more jobs."""
    answer = call.client.drain(host_named(call), call.args.reason)
    return call.say(answer, lambda: render_job.drained(answer))


def undrain(call: Call) -> int:
    """Give it jobs again."""
    answer = call.client.undrain(host_named(call))
    return call.say(answer, lambda: render_job.undrained(answer))


def notify(call: Call) -> int:
    """Send a test message to each place; REFUSED when one of them did not take it."""
    answer = call.client.notify_test()
    call.say(answer, lambda: render_job.notified(call.view, answer))
    return OK if answer.get("ok") else REFUSED
