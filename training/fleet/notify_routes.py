"""HTTP endpoints: does a notification arrive?"""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from cis490.logs import event
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer, require_operator
from training.fleet.lease_answers import coordinator_of

log = logging.getLogger(__name__)


async def test(request: Request) -> Response:
    """Send a test message to each place that `[notify]` names, now, and say how that went."""
    app = coordinator_of(request)
    require_operator(request, app.operator_token)
    if not app.notifier.is_on:
        raise Problem(
            409,
            "the manifest in force has no [notify] table, so nobody is told of anything; see docs/manifest.md",
            ok=False,
        )
    targets = await asyncio.to_thread(app.notifier.test)
    ok = bool(targets) and all(target["ok"] for target in targets)
    event(log, "notify.test", ok=ok, places=",".join(target["kind"] for target in targets))
    return answer({"ok": ok, "targets": targets})


ENDPOINTS: tuple[Endpoint, ...] = (Endpoint("POST", "/v1/notify/test", test, "operator"),)
