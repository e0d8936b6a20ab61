"""`list`, `show`, `workers` and `models`: what there is."""

from __future__ import annotations

from training.fleet import render, render_job, render_models
from training.fleet.tables import rows_of, text_of
from training.fleet.verb import Call, named


def list_jobs(call: Call) -> int:
    """One line a job."""
    jobs = call.client.jobs(call.args.status)
    return call.say({"jobs": jobs}, lambda: render.job_list(call.view, jobs))


def show(call: Call) -> int:
    """All that is known of one job."""
    job = call.client.job(text_of(named(call), "job_id"))
    return call.say({"job": job}, lambda: render_job.show(call.view, job))


def workers(call: Call) -> int:
    """What each host can do."""
    workers = call.client.workers()
    return call.say({"workers": workers}, lambda: render.worker_list(call.view, workers))


def models(call: Call) -> int:
    """What was trained, best first."""
    answer = call.client.models()
    return call.say(answer, lambda: render_models.board(call.view, rows_of(answer, "groups")))
