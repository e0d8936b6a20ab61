"""`why`: why a job does not run, or a host is idle, and the smallest changes that would help."""

from __future__ import annotations

from training.fleet import render_why
from training.fleet.tables import text_of
from training.fleet.verb import Call, host_named, named


def why(call: Call) -> int:
    """`why JOB` and `why --host HOST`: one question to the receiver each."""
    if call.args.host is not None:
        host = host_named(call)
        answer = call.client.host_eligibility(host)
        return call.say(answer, lambda: render_why.why_host(call.view, host, answer))
    answer = call.client.eligibility(text_of(named(call), "job_id"))
    return call.say(answer, lambda: render_why.why_job(call.view, answer))
