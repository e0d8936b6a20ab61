"""HTTP endpoints: why a job waits or a host is idle, and what would help."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cis490.files import is_safe_name
from training.fleet import expectations, explain, host_view, redaction, views
from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer, peer_of
from training.fleet.lease_answers import coordinator_of


async def job_eligibility(request: Request) -> Response:
    """Why a job is pending: every host, every constraint, judged by what a claim uses; and what would help."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    found = await asyncio.to_thread(_job, app, job_id)
    if found is None:
        raise Problem(404, f"no job {job_id[:80]}")
    return answer(found)


def _job(app: Coordinator, job_id: str) -> dict[str, Any] | None:
    situation = app.queue.situation(job_id, disk=_disk(app))
    if situation is None:
        return None
    row, past = situation.row, expectations.history(app.queue)
    estimate = expectations.of_job(app.queue, row, past)
    return explain.job(
        situation,
        position=expectations.position(app.queue, row),
        estimate=None if estimate is None else estimate.to_dict(),
        peaks=past.peaks(row.model, row.mode),
    )


async def host_eligibility(request: Request) -> Response:
    """Why a host is idle: what waits, class by class, as this host is judged for it."""
    app, name = coordinator_of(request), request.path_params["name"]
    found = await asyncio.to_thread(_host, app, name)
    if found is None:
        near = host_view.nearest(app.queue, name) if is_safe_name(name) else None
        guess = f"; did you mean {near}?" if near else ""
        raise Problem(
            404,
            f"no host {name[:80]}: the manifest does not name it and it has never called{guess}",
            did_you_mean=near,
        )
    found["running"] = [redaction.job(peer_of(request), one) for one in found["running"]]
    return answer(found)


def _host(app: Coordinator, name: str) -> dict[str, Any] | None:
    queue = app.queue
    if not host_view.is_known(queue, name):
        return None
    leases = queue.live_leases()
    held = [queue.get(lease.job_id) for lease in leases.values() if lease.host == name]
    running = [views.job(row, leases.get(row.job_id), queue.reference) for row in held if row is not None]
    found = explain.host(queue, name)
    disk = _disk(app)
    if disk is not None:
        found = explain.while_disk_full(found, disk)
    worker = next(iter(queue.workers(name)), None)
    return {"name": name, "host": worker, "running": running, **found}


def _disk(app: Coordinator) -> str | None:
    """Why nothing is handed out, when the disk is full."""
    return None if app.ballast is None or app.ballast.is_held else app.ballast.refusal


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/job/{id}/eligibility", job_eligibility, "reader"),
    Endpoint("GET", "/v1/host/{name}/eligibility", host_eligibility, "reader"),
)
