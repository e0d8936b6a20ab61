"""The signed records of how an artifact was made."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request
from starlette.responses import Response

from cis490.digest import is_digest
from training.fleet import provenance_store
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer
from training.fleet.lease_answers import coordinator_of


async def provenance(request: Request) -> Response:
    """The signed records of an artifact, one for each completion with it: DSSE envelopes, to be verified offline."""
    app, artifact_id = coordinator_of(request), request.path_params["id"]
    if not is_digest(artifact_id):
        raise Problem(400, "an artifact id is 64 lower-case hexadecimal digits")
    found, is_incomplete = await asyncio.to_thread(provenance_store.envelopes, app.queue, artifact_id)
    authority = app.authority
    unsigned = provenance_store.why_unsigned(authority, app.queue.clock.wall_s())
    if is_incomplete and authority is not None and not unsigned:
        await app.write(lambda: provenance_store.add_missing(app.queue, authority, artifact_id))
        found, _ = await asyncio.to_thread(provenance_store.envelopes, app.queue, artifact_id)
    if found:
        return answer({"provenance": [json.loads(one) for one in found]})
    if is_incomplete:
        raise Problem(409, f"artifact {artifact_id[:12]} has no signed record, for {unsigned}")
    raise Problem(404, f"no job was completed with artifact {artifact_id[:12]}")


ENDPOINTS = (Endpoint("GET", "/v1/model/{id}/provenance", provenance, "reader"),)
