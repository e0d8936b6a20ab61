"""`list`, `show`, `workers` and `models`: what there is."""

from __future__ import annotations

import contextlib

from training.fleet import render, render_job, render_models
from training.fleet.client import Refused
from training.fleet.tables import Row, rows_of, text_of
from training.fleet.verb import Call, named


def list_jobs(call: Call) -> int:
    """One line a job."""
    jobs = call.client.jobs(call.args.status, reasons=True)
    return call.say({"jobs": jobs}, lambda: render.job_list(call.view, jobs))


def show(call: Call) -> int:
    """All that is known of one job."""
    job = call.client.job(text_of(named(call), "job_id"))
    told: Row = {}
    if job.get("epoch"):
        with contextlib.suppress(Refused):  # an older receiver keeps no points
            told = call.client.progress(text_of(job, "job_id"))
    return call.say({"job": job, "progress": told}, lambda: render_job.show(call.view, job, told))


def workers(call: Call) -> int:
    """What each host can do."""
    workers = call.client.workers()
    return call.say({"workers": workers}, lambda: render.worker_list(call.view, workers))


def models(call: Call) -> int:
    """What was trained, best first."""
    answer = call.client.models()
    return call.say(answer, lambda: render_models.board(call.view, rows_of(answer, "groups")))
