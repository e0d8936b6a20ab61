"""The endpoints that take an artifact."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cis490.digest import is_digest
from cis490.logs import event
from training.fleet import wire
from training.fleet.http_io import Problem, answer, content_length_of, drain, host_of, one_header, token_of
from training.fleet.lease_answers import coordinator_of, lease_answer

log = logging.getLogger(__name__)


async def upload(request: Request) -> Response:
    """Store an artifact: a tar.zst bundle, hashed while it arrives, synced before the answer."""
    try:
        return await _upload(request)
    except Problem:
        await drain(request)
        raise
    except ClientDisconnect as error:
        raise Problem(
            400, "the connection ended before the whole artifact was there; send it again"
        ) from error


async def _upload(request: Request) -> Response:
    app, job_id = coordinator_of(request), request.path_params["id"]
    host, token = host_of(request), token_of(request)
    expected = one_header(request, wire.HEADER_SHA256)
    if not is_digest(expected):
        raise Problem(
            400, f"{wire.HEADER_SHA256} must be the body's sha256: 64 lower-case hexadecimal digits"
        )
    size = content_length_of(request)
    holder = await app.write(lambda: app.queue.standing(job_id, host, token))
    if not holder or holder.row is None:
        await lease_answer(app, host, holder)
        raise Problem(409, "this attempt has ended")
    if size > app.max_artifact_bytes:
        raise Problem(
            413, f"the artifact has {size} bytes; this receiver takes at most {app.max_artifact_bytes}"
        )
    if one_header(request, "content-range"):
        raise Problem(416, "this receiver takes an artifact whole: send it again from offset 0", offset=0)
    row = holder.row
    result = await app.store.ingest_stream(
        job_id=job_id, model=row.model, mode=row.mode, worker=host, expected_sha256=expected,
        body=request.stream(), max_bytes=app.max_artifact_bytes, epoch=row.epoch, generation=row.generation,
        provenance={"dataset_id": row.dataset_id, "trainer_digest": row.trainer_digest, "spec": row.spec},
    )  # fmt: skip
    if result.status == "sha-mismatch":
        return answer(
            {
                "status": "sha-mismatch",
                "actual_sha256": result.actual_sha256,
                "error": f"the body's sha256 is {result.actual_sha256}, the header said {expected}",
            },
            400,
        )
    if result.status == "too-large":
        raise Problem(413, f"the artifact is larger than {app.max_artifact_bytes} bytes")
    if result.status == "no-space":
        raise Problem(
            507, "the receiver's disk is nearly full: the operator must free space in the store's folder"
        )
    artifact_id = result.artifact_id or expected
    await app.write(lambda: app.queue.record_upload(job_id, row.epoch, artifact_id, result.size_bytes))
    event(
        log,
        "artifact.stored",
        job_id=job_id[:12],
        host=host,
        artifact=artifact_id[:12],
        bytes=result.size_bytes,
    )
    if result.status == "already-present":
        return answer({"status": "already-present", "artifact_id": artifact_id})
    return answer({"status": "stored", "artifact_id": artifact_id, "size_bytes": result.size_bytes}, 201)


async def upload_offset(request: Request) -> Response:
    """How many bytes of this attempt's artifact the receiver has; 0: send it from the beginning."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    app = coordinator_of(request)
    holder = await app.write(lambda: app.queue.standing(job_id, host, token))
    return await lease_answer(app, host, holder, {"offset": 0})
