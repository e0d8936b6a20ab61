"""HTTP endpoints: what a reload would do, before it does it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.fleet import wire
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer, decode, require_operator
from training.fleet.lease_answers import coordinator_of
from training.fleet.manifest_faults import TrainingManifestError
from training.fleet.plan import PlanRefused


async def plan(request: Request) -> Response:
    """What a reload would do; its id makes that binding. With a text: what that manifest would do, to look at."""
    app = coordinator_of(request)
    require_operator(request, app.operator_token)
    body = await decode(request, wire.PlanRequest, empty_ok=True, limit_bytes=wire.MAX_PLAN_BODY_BYTES)
    try:
        made = await app.plan(body.text, body.name)
    except TrainingManifestError as error:
        raise faulty(error) from error
    return answer(made.body)


def faulty(error: TrainingManifestError) -> Problem:
    """The answer to a manifest that has faults: all of them, as text and one by one."""
    return Problem(400, str(error), ok=False, faults=[fault.public() for fault in error.faults])


def refused(error: PlanRefused) -> Problem:
    """The answer to a plan that does not hold: what has moved, and the id of the plan that would do the same."""
    refusal = error.refusal
    told: dict[str, Any] = {"ok": False, "code": refusal.code, "moved": list(refusal.sentences), "plan": None}
    if refusal.fresh is None:
        return Problem(404, refusal.sentences[0], **told)
    if refusal.does_the_same:
        told["plan"] = refusal.fresh.plan_id
    return Problem(409, f"the plan does not hold any more: {'; '.join(refusal.sentences)}", **told)


ENDPOINTS: tuple[Endpoint, ...] = (Endpoint("POST", "/v1/manifest/plan", plan, "operator", wire.PlanRequest),)
