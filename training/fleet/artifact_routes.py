"""What lies in an artifact and where it comes from, for those who look at it without fetching it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cis490.digest import is_digest
from training.fleet import lineage as lineages
from training.fleet.artifact_files import Unreadable
from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer
from training.fleet.lease_answers import coordinator_of

INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=31536000, immutable",
}
"""An artifact is input from a worker: no browser carries out what stands in one. Its content never changes."""


async def files(request: Request) -> Response:
    """What lies in an artifact: its files with their sizes, and the job it belongs to."""
    app, artifact_id = coordinator_of(request), _artifact_id(request)
    try:
        found = await app.artifact_files.contents(artifact_id)
    except Unreadable as error:
        raise _refused(error) from error
    size_bytes, trail = await asyncio.to_thread(_trace, app, artifact_id)
    return answer(
        {
            "artifact_id": artifact_id,
            "size_bytes": size_bytes,
            "job": trail["job"] if trail else None,
            "files": [{"name": name, "size_bytes": size} for name, size in found.files],
        }
    )


async def file(request: Request) -> Response:
    """One small text out of an artifact; `?as=json` gives it as a JSON string with its name and size."""
    app, artifact_id = coordinator_of(request), _artifact_id(request)
    form = request.query_params.get("as", "file")
    if form not in ("file", "json"):
        raise Problem(400, f"as={form[:40]!r} is none of file, json")
    try:
        found = await app.artifact_files.member(artifact_id, request.path_params["name"])
    except Unreadable as error:
        raise _refused(error) from error
    if form == "json":
        text = found.content.decode("utf-8")
        out = answer(
            {"artifact_id": artifact_id, "name": found.name, "size_bytes": len(found.content), "text": text}
        )
    else:
        out = Response(found.content, headers={"Content-Type": found.media_type})
    out.headers.update(INERT)
    return out


async def lineage(request: Request) -> Response:
    """Where an artifact comes from: job, attempt, host, data, code, and the artifacts beside it."""
    app, artifact_id = coordinator_of(request), _artifact_id(request)
    _, found = await asyncio.to_thread(_trace, app, artifact_id)
    if found is None:
        raise Problem(404, f"no job was completed with artifact {artifact_id[:12]}")
    return answer(found)


def _trace(app: Coordinator, artifact_id: str) -> tuple[int | None, dict[str, Any] | None]:
    size_bytes = app.store.size_of(artifact_id)
    return size_bytes, lineages.trace(app.queue, artifact_id, size_bytes)


def _artifact_id(request: Request) -> str:
    artifact_id: str = request.path_params["id"]
    if not is_digest(artifact_id):
        raise Problem(400, "an artifact id is 64 lower-case hexadecimal digits")
    return artifact_id


def _refused(error: Unreadable) -> Problem:
    return Problem(error.status, error.error)


ENDPOINTS = (
    Endpoint("GET", "/v1/model/{id}/files", files, "reader"),
    Endpoint("GET", "/v1/model/{id}/file/{name:path}", file, "reader"),
    Endpoint("GET", "/v1/model/{id}/lineage", lineage, "reader"),
)
