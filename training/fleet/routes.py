"""The HTTP interface: each handler decodes, calls, encodes. What may happen is decided elsewhere.

`ROUTES` is the one table of endpoints: the application, `GET /openapi.json` and the test that every
endpoint is documented are made from it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from cis490.digest import is_digest
from cis490.logs import event
from training.fleet import wire
from training.fleet.coordinator import Coordinator
from training.fleet.http_io import (
    Problem,
    answer,
    content_length_of,
    decode,
    drain,
    host_of,
    one_header,
    require_operator,
    token_of,
)
from training.fleet.manifest import TrainingManifestError
from training.fleet.queue import Claim
from training.fleet.rows import Outcome
from training.fleet.types import STATUSES
from training.fleet.views import job as job_view
from training.fleet.views import job_in_full

log = logging.getLogger(__name__)
ZSTD = "application/zstd"


def _coordinator(request: Request) -> Coordinator:
    found: Coordinator = request.app.state.coordinator
    return found


# -- worker


async def claim(request: Request) -> Response:
    """Ask for a job: the best pending one that this host may run, or `{"job": null}`."""
    host = host_of(request)
    with_token = one_header(request, wire.HEADER_PROTOCOL) == wire.PROTOCOL
    claim_request = one_header(request, wire.HEADER_CLAIM_REQUEST)[:128] or None
    body = await decode(request, wire.ClaimRequest)
    fault = wire.capability_fault(body.capability)
    if fault is not None:
        raise Problem(400, fault)
    app = _coordinator(request)
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + min(max(body.wait_s, 0.0), wire.MAX_WAIT_S)
    while True:
        change = app.next_change()
        found = await app.write(
            lambda: app.queue.claim(host, body.capability, with_token=with_token, claim_request=claim_request)
        )
        left_s = ends_at - loop.time()
        if found.row is not None and not claim_request and await request.is_disconnected():
            await _take_back(app, host, found)
            raise Problem(400, "the client went away before it got its job")
        if found.row is not None or not found.admitted or left_s <= 0:
            return _claimed(app, host, found)
        ripe_s = await app.write(app.queue.next_ripe_in_s)
        gone = await _wait(request, change, left_s if ripe_s is None else min(left_s, ripe_s + 0.01))
        if gone:  # nobody would receive the job
            raise Problem(400, "the client went away while it waited")
        if app.stopping:
            return answer({"job": None, "reason": "the receiver is stopping"})


async def _take_back(app: Coordinator, host: str, found: Claim) -> None:
    """Nobody received this job, and without a claim request nobody can ask for it again."""
    row, lease = found.row, found.lease
    if row is not None and lease is not None:
        await app.write(
            lambda: app.queue.release(row.job_id, host, token=lease.token, reason="claim not received")
        )
        app.changed()


async def _wait(request: Request, change: asyncio.Event, seconds: float) -> bool:
    """Until jobs may have become claimable or the time is over; True when the client went away instead."""
    changed = asyncio.ensure_future(change.wait())
    left = asyncio.ensure_future(request.receive())  # the body was read: the next message is the goodbye
    try:
        await asyncio.wait({changed, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return left.done()
    finally:
        changed.cancel()
        left.cancel()


def _claimed(app: Coordinator, host: str, found: Claim) -> Response:
    if not found.admitted:
        raise Problem(403, f"host {host} is not admitted: {found.reason}")
    if found.row is None or found.lease is None:
        return answer({"job": None, "reason": found.reason})
    row, lease = found.row, found.lease
    event(log, "job.claimed", job_id=row.job_id[:12], name=row.name, host=host, epoch=row.epoch)
    body = asdict(
        wire.ClaimAnswer(
            job_id=row.job_id, name=row.name, spec=row.spec, attempts=row.attempts, model=row.model, mode=row.mode,
            hyper=dict(row.spec["hyper"]), epoch=row.epoch, lease_s=app.queue.stale_after_s,
            heartbeat_s=app.queue.heartbeat_s, dataset_id=lease.dataset_id, lease_token=lease.token,
        )
    )  # fmt: skip
    return answer(body)


async def heartbeat(request: Request) -> Response:
    """Renew the lease; 410 when the job is no longer this worker's."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.HeartbeatRequest, empty_ok=True)
    app = _coordinator(request)
    done = await app.write(lambda: app.queue.heartbeat(job_id, host, token=token, progress=body.progress))
    return await _lease_answer(app, host, done, {"lease_s": app.queue.stale_after_s})


async def complete(request: Request) -> Response:
    """Hand in the result: the artifact must have been uploaded for this very attempt."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.CompleteRequest)
    if not is_digest(body.artifact_id):
        raise Problem(400, "artifact_id must be the artifact's sha256: 64 lower-case hexadecimal digits")
    app = _coordinator(request)
    done = await app.write(
        lambda: app.queue.complete(
            job_id, host, artifact_id=body.artifact_id, token=token, metrics=body.metrics, require_upload=True,
            usage={"duration_s": body.duration_s, "peak_rss_mib": body.peak_rss_mib, "cpu_s": body.cpu_s},
        )
    )  # fmt: skip
    if done:
        app.changed()
        event(log, "job.completed", job_id=job_id[:12], host=host, artifact=body.artifact_id[:12])
    return await _lease_answer(app, host, done)


async def fail(request: Request) -> Response:
    """Report that the attempt failed, with the real error; the job waits again or has failed for good."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.FailRequest, empty_ok=True, limit_bytes=wire.MAX_ERROR_BODY_BYTES)
    if body.exit_code is not None and abs(body.exit_code) > wire.MAX_EXIT_CODE:
        raise Problem(400, f"exit_code must lie between -{wire.MAX_EXIT_CODE} and {wire.MAX_EXIT_CODE}")
    app = _coordinator(request)
    done = await app.write(
        lambda: app.queue.fail(
            job_id, host, error=body.error or "no error message", token=token, fail_class=body.fail_class,
            exit_code=body.exit_code,
            usage={"duration_s": body.duration_s, "peak_rss_mib": body.peak_rss_mib, "cpu_s": body.cpu_s},
        )
    )  # fmt: skip
    if done:
        app.changed()
        event(log, "job.attempt_failed", job_id=job_id[:12], host=host, fail_class=body.fail_class)
    return await _lease_answer(app, host, done)


async def release(request: Request) -> Response:
    """Give the job back unharmed (the worker stops); no budget is used."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.ReleaseRequest, empty_ok=True)
    app = _coordinator(request)
    done = await app.write(lambda: app.queue.release(job_id, host, token=token, reason=body.reason))
    if done:
        app.changed()
        event(log, "job.released", job_id=job_id[:12], host=host)
    return await _lease_answer(app, host, done)


async def _lease_answer(
    app: Coordinator, host: str, done: Outcome, extra: dict[str, Any] | None = None
) -> Response:
    if done:
        return answer({"ok": True, **(extra or {})})
    if done.http_status == 410 and not await app.write(lambda: app.queue.is_admitted(host)):
        raise Problem(403, f"host {host} is not admitted by the manifest in force")
    raise Problem(done.http_status, done.reason, reason=done.reason)


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
    app, job_id = _coordinator(request), request.path_params["id"]
    host, token = host_of(request), token_of(request)
    expected = one_header(request, wire.HEADER_SHA256)
    if not is_digest(expected):
        raise Problem(
            400, f"{wire.HEADER_SHA256} must be the body's sha256: 64 lower-case hexadecimal digits"
        )
    size = content_length_of(request)
    holder = await app.write(lambda: app.queue.standing(job_id, host, token))
    if not holder or holder.row is None:
        await _lease_answer(app, host, holder)
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
    app = _coordinator(request)
    holder = await app.write(lambda: app.queue.standing(job_id, host, token))
    return await _lease_answer(app, host, holder, {"offset": 0})


async def dataset(request: Request) -> Response:
    """The packed dataset with this id, as the manifest pins it."""
    app, digest = _coordinator(request), request.path_params["digest"]
    if not is_digest(digest):
        raise Problem(400, "a dataset id is 64 lower-case hexadecimal digits")
    pin = app.datasets.get(digest)
    if pin is None:
        raise Problem(404, f"no dataset {digest[:12]}: the manifest in force pins another one or none")
    if not await asyncio.to_thread(Path(pin.path).is_file):
        raise Problem(
            404,
            f"the receiver's copy of dataset {digest[:12]} is gone: {pin.path}; put it back, or pin another",
        )
    return FileResponse(pin.path, media_type=ZSTD)


# -- reads


async def jobs(request: Request) -> Response:
    """All jobs, by priority; `?status=` keeps one status."""
    app, wanted = _coordinator(request), request.query_params.get("status")
    status = next((known for known in STATUSES if known == wanted), None)
    if wanted is not None and status is None:
        raise Problem(400, f"status={wanted[:40]!r} is none of {', '.join(STATUSES)}")

    def read() -> list[dict[str, Any]]:
        leases = app.queue.live_leases()
        return [
            job_view(row, leases.get(row.job_id), app.queue.reference) for row in app.queue.list_jobs(status)
        ]

    return answer({"jobs": await asyncio.to_thread(read)})


async def job(request: Request) -> Response:
    """One job in full: spec, attempts, audit trail."""
    app, job_id = _coordinator(request), request.path_params["id"]

    def read() -> dict[str, Any] | None:
        row = app.queue.get(job_id)
        if row is None:
            return None
        attempts, trail = app.queue.attempts(job_id), app.queue.audit(job_id)
        return job_in_full(row, app.queue.live_leases().get(job_id), app.queue.reference, attempts, trail)

    found = await asyncio.to_thread(read)
    if found is None:
        raise Problem(404, f"no job {job_id[:80]}")
    return answer({"job": found})


async def eligibility(request: Request) -> Response:
    """Why a job is pending: every host, every constraint, judged by what a claim uses."""
    app, job_id = _coordinator(request), request.path_params["id"]
    found = await app.write(lambda: app.queue.explain(job_id))
    if found is None:
        raise Problem(404, f"no job {job_id[:80]}")
    return answer(found)


async def workers(request: Request) -> Response:
    """The last-seen capability of each host that called."""
    return answer({"workers": await asyncio.to_thread(_coordinator(request).queue.workers)})


async def health(request: Request) -> Response:
    """Alive."""
    return answer({"status": "ok"})


async def model(request: Request) -> Response:
    """An artifact by its digest (ranges allowed)."""
    app, artifact_id = _coordinator(request), request.path_params["id"]
    if not is_digest(artifact_id):
        raise Problem(400, "an artifact id is 64 lower-case hexadecimal digits")
    path = await asyncio.to_thread(app.store.path_of, artifact_id)
    if path is None:
        raise Problem(404, f"no artifact {artifact_id[:12]}")
    _check_range(request, path.stat().st_size)
    return FileResponse(path, media_type=ZSTD, headers={"ETag": f'"{artifact_id}"'})


def _check_range(request: Request, size_bytes: int) -> None:
    """Refuse in words what the file response would refuse in plain text."""
    text = one_header(request, "range")
    if not text:
        return
    if not re.fullmatch(
        r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})(, ?(\d{1,18}-\d{0,18}|-\d{1,18})){0,9}", text, re.ASCII
    ):
        raise Problem(400, "Range must look like bytes=0-99, bytes=100- or bytes=-100")
    for first, last in re.findall(r"(\d*)-(\d*)", text):
        if not first and int(last) == 0:
            raise Problem(416, f"the range {text} asks for nothing")
        if first and (int(first) >= size_bytes or (last and int(last) < int(first))):
            raise Problem(416, f"the range {text} lies outside the artifact's {size_bytes} bytes")


# -- operator


async def cancel(request: Request) -> Response:
    """End a job; a worker that trains it learns so from its next heartbeat."""
    app, job_id = _coordinator(request), request.path_params["id"]
    require_operator(request, app.operator_token)
    done = await app.write(lambda: app.queue.cancel(job_id))
    app.changed()  # its host has a free slot again
    return _operator_answer(job_id, "cancel", done)


async def requeue(request: Request) -> Response:
    """Try a job again with fresh budgets; completed work only with `{"force": true}`."""
    app, job_id = _coordinator(request), request.path_params["id"]
    require_operator(request, app.operator_token)
    body = await decode(request, wire.RequeueRequest, empty_ok=True)
    done = await app.write(lambda: app.queue.requeue(job_id, force=body.force))
    app.changed()
    return _operator_answer(job_id, "requeue", done)


def _operator_answer(job_id: str, verb: str, done: Outcome) -> Response:
    if not done:
        raise Problem(done.http_status, done.reason, ok=False)
    event(log, f"job.{verb}", job_id=job_id[:12])
    return answer({"ok": True})


async def reload(request: Request) -> Response:
    """Read the manifest again; when it has a fault, nothing changes and the old one stays in force."""
    app = _coordinator(request)
    require_operator(request, app.operator_token)
    try:
        counts, found = await app.reload()
    except TrainingManifestError as error:
        raise Problem(400, str(error), ok=False) from error
    return answer({"ok": True, "counts": counts, "n_jobs": len(found.jobs), "manifest_digest": found.digest})


async def openapi(request: Request) -> Response:
    """This interface, as OpenAPI 3.1."""
    from training.fleet.openapi import document  # msgspec's schema code is only needed here

    return answer(document(ROUTES))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the interface."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    who: Literal["worker", "operator", "anyone"]
    body: type | None = None


ROUTES: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/job/claim", claim, "worker", wire.ClaimRequest),
    Endpoint("POST", "/v1/job/{id}/heartbeat", heartbeat, "worker", wire.HeartbeatRequest),
    Endpoint("POST", "/v1/job/{id}/complete", complete, "worker", wire.CompleteRequest),
    Endpoint("POST", "/v1/job/{id}/fail", fail, "worker", wire.FailRequest),
    Endpoint("POST", "/v1/job/{id}/release", release, "worker", wire.ReleaseRequest),
    Endpoint("PUT", "/v1/model/{id}", upload, "worker"),
    Endpoint("GET", "/v1/job/{id}/upload", upload_offset, "worker"),
    Endpoint("GET", "/v1/dataset/{digest}", dataset, "anyone"),
    Endpoint("GET", "/v1/jobs", jobs, "anyone"),
    Endpoint("GET", "/v1/job/{id}", job, "anyone"),
    Endpoint("GET", "/v1/job/{id}/eligibility", eligibility, "anyone"),
    Endpoint("GET", "/v1/model/{id}", model, "anyone"),
    Endpoint("GET", "/v1/workers", workers, "anyone"),
    Endpoint("GET", "/v1/health", health, "anyone"),
    Endpoint("GET", "/openapi.json", openapi, "anyone"),
    Endpoint("POST", "/v1/job/{id}/cancel", cancel, "operator"),
    Endpoint("POST", "/v1/job/{id}/requeue", requeue, "operator", wire.RequeueRequest),
    Endpoint("POST", "/v1/manifest/reload", reload, "operator"),
)
