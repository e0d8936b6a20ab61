"""What every handler of a worker's request needs: the coordinator, and the answer to one that names a lease."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.fleet.coordinator import Coordinator
from training.fleet.http_io import Problem, answer
from training.fleet.rows import Outcome


def coordinator_of(request: Request) -> Coordinator:
    found: Coordinator = request.app.state.coordinator
    return found


async def lease_answer(
    app: Coordinator, host: str, done: Outcome, extra: dict[str, Any] | None = None
) -> Response:
    if done:
        return answer({"ok": True, **(extra or {})})
    if done.http_status == 410 and not await app.write(lambda: app.queue.is_admitted(host)):
        raise Problem(403, f"host {host} is not admitted by the manifest in force")
    told = {} if done.row is None else {"job_status": done.row.status}
    raise Problem(done.http_status, done.reason, reason=done.reason, **told)
