"""HTTP endpoints: pausing, resuming and cleaning up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from cis490.files import is_safe_name
from cis490.logs import event
from training.fleet import hosts, steering, wire
from training.fleet.coordinator import log
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer, decode, require_operator
from training.fleet.lease_answers import coordinator_of
from training.fleet.rows import JobRow, Outcome

SHORT_ID = 12


async def pause_fleet(request: Request) -> Response:
    """Hand out no job until the fleet is resumed; what runs goes on."""
    app = coordinator_of(request)
    actor = require_operator(request, app.operator_token)
    reason = await _reason(request)
    running = await app.write(lambda: steering.pause_fleet(app.queue, reason, actor=actor))
    app.changed()
    event(log, "fleet.pause", actor=actor, reason=reason, running=running)
    return answer({"ok": True, "fleet_paused": reason, "running": running})


async def resume_fleet(request: Request) -> Response:
    """Hand out jobs again."""
    app = coordinator_of(request)
    actor = require_operator(request, app.operator_token)
    running = await app.write(lambda: steering.resume_fleet(app.queue, actor=actor))
    app.changed()  # every claim that waits may get a job now
    event(log, "fleet.resume", actor=actor, running=running)
    return answer({"ok": True, "fleet_paused": None, "running": running})


async def pause_job(request: Request) -> Response:
    """Hand this job out to nobody until it is resumed; if it runs, it goes on."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    actor = require_operator(request, app.operator_token)
    reason = await _reason(request)
    done = await app.write(lambda: steering.pause_job(app.queue, job_id, reason, actor=actor))
    app.changed()
    row = _row_of(done)
    event(log, "job.pause", job_id=job_id[:SHORT_ID], name=row.name, actor=actor, reason=reason)
    return answer(_told(row))


async def resume_job(request: Request) -> Response:
    """Let a paused job be handed out again."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    actor = require_operator(request, app.operator_token)
    done = await app.write(lambda: steering.resume_job(app.queue, job_id, actor=actor))
    app.changed()
    row = _row_of(done)
    event(log, "job.resume", job_id=job_id[:SHORT_ID], name=row.name, actor=actor)
    return answer(_told(row))


async def resume_host(request: Request) -> Response:
    """Give a host jobs again that was paused by failures in a row; they are forgotten."""
    app, host = coordinator_of(request), request.path_params["name"]
    actor = require_operator(request, app.operator_token)
    if not is_safe_name(host):
        raise Problem(404, "no such host: a name matches [A-Za-z0-9._-]{1,64} with no leading dot", ok=False)
    done, drained = await app.write(
        lambda: (hosts.resume(app.queue, host, actor=actor), app.queue.matcher.drained.get(host))
    )
    if not done:
        raise Problem(done.http_status, done.reason, ok=False)
    app.changed()
    event(log, "host.resume", host=host, actor=actor, drained=drained)
    return answer({"ok": True, "host": host, "paused_reason": None, "drained_reason": drained})


async def gc(request: Request) -> Response:
    """Remove what the manifest's `[retention]` lets go; with `dry_run`, which is the default, only say what that is."""
    app = coordinator_of(request)
    actor = require_operator(request, app.operator_token)
    body = await decode(request, wire.GcRequest, empty_ok=True)
    found = await app.cleaner.run(app.retention, dry_run=body.dry_run, actor=actor)
    return answer(found.answer(dry_run=body.dry_run))


async def _reason(request: Request) -> str:
    """Why, from the body, as one line; a plain sentence when it does not say."""
    body = await decode(request, wire.PauseRequest, empty_ok=True)
    reason = " ".join(body.reason.split()) or wire.PauseRequest().reason
    if len(reason) > wire.MAX_DRAIN_REASON_CHARS:
        raise Problem(
            400,
            f"reason has {len(reason)} characters, at most {wire.MAX_DRAIN_REASON_CHARS} are kept",
            ok=False,
        )
    return reason


def _row_of(done: Outcome) -> JobRow:
    if not done or done.row is None:
        raise Problem(done.http_status, done.reason, ok=False)
    return done.row


def _told(row: JobRow) -> dict[str, object]:
    return {
        "ok": True,
        "job_id": row.job_id,
        "name": row.name,
        "status": row.status,
        "claimed_by": row.claimed_by,
        "paused_reason": row.paused_reason,
    }


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/fleet/pause", pause_fleet, "operator", wire.PauseRequest),
    Endpoint("POST", "/v1/fleet/resume", resume_fleet, "operator"),
    Endpoint("POST", "/v1/job/{id}/pause", pause_job, "operator", wire.PauseRequest),
    Endpoint("POST", "/v1/job/{id}/resume", resume_job, "operator"),
    Endpoint("POST", "/v1/host/{name}/resume", resume_host, "operator"),
    Endpoint("POST", "/v1/gc", gc, "operator", wire.GcRequest),
)
