"""HTTP endpoints: figures for Prometheus."""

from __future__ import annotations

import asyncio
import threading

from starlette.requests import Request
from starlette.responses import Response

from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import NO_PAGE, Problem, one_header
from training.fleet.lease_answers import coordinator_of

_making = threading.Lock()


async def metrics(request: Request) -> Response:
    """The receiver's figures in the text format of Prometheus or OpenMetrics, as `Accept` asks for."""
    app = coordinator_of(request)
    accept = one_header(request, "accept")
    body, content_type = await asyncio.to_thread(_text, app, accept)
    return Response(body, headers={"content-type": content_type, **NO_PAGE})


def _text(app: Coordinator, accept: str) -> tuple[bytes, str]:
    # The library is imported when it is first needed: a receiver that nobody watches does without.
    try:
        from training.fleet.metrics import Exposition
    except ModuleNotFoundError as error:
        raise Problem(
            501, "figures need the package prometheus-client: install the extra `receiver`"
        ) from error
    with _making:
        found = app.exposition
        if not isinstance(found, Exposition):
            found = app.exposition = Exposition(app)
    return found.text(accept)


ENDPOINTS: tuple[Endpoint, ...] = (Endpoint("GET", "/metrics", metrics, "reader"),)
