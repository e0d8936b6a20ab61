"""The operator's verbs for a host: drain and undrain."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from cis490.failpoints import failpoint
from cis490.files import is_safe_name
from cis490.logs import event
from training.fleet import hosts, wire
from training.fleet.coordinator import Coordinator, log
from training.fleet.http_io import Problem, answer, decode, require_operator
from training.fleet.lease_answers import coordinator_of
from training.fleet.rows import Outcome


async def drain(request: Request) -> Response:
    """Let a host finish what it has, and give it nothing more until it is undrained."""
    app, host = coordinator_of(request), request.path_params["name"]
    actor = require_operator(request, app.operator_token)
    body = await decode(request, wire.DrainRequest, empty_ok=True)
    reason = " ".join(body.reason.split()) or wire.DrainRequest().reason
    if len(reason) > wire.MAX_DRAIN_REASON_CHARS:
        raise Problem(
            400,
            f"reason has {len(reason)} characters, at most {wire.MAX_DRAIN_REASON_CHARS} are kept",
            ok=False,
        )
    return await _change(app, host, "drain", lambda: hosts.drain(app.queue, host, reason, actor=actor), actor)


async def undrain(request: Request) -> Response:
    """Give a drained host jobs again."""
    app, host = coordinator_of(request), request.path_params["name"]
    actor = require_operator(request, app.operator_token)
    return await _change(app, host, "undrain", lambda: hosts.undrain(app.queue, host, actor=actor), actor)


async def _change(
    app: Coordinator, host: str, verb: str, call: Callable[[], Outcome], actor: str
) -> Response:
    if not is_safe_name(host):
        raise Problem(404, "no such host: a name matches [A-Za-z0-9._-]{1,64} with no leading dot", ok=False)
    done, reason, busy = await app.write(
        lambda: (call(), app.queue.matcher.drained.get(host), app.queue.leases.busy(host))
    )
    if not done:
        raise Problem(done.http_status, done.reason, ok=False)
    failpoint("coordinator.drain_committed")
    app.changed()  # a job that preferred this host is open to others; or this host is open to jobs
    event(log, f"host.{verb}", host=host, actor=actor, reason=reason, busy=busy)
    return answer({"ok": True, "host": host, "drained_reason": reason, "busy": busy})
