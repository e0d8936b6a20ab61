"""The HTTP interface: each handler decodes, calls, encodes. What may happen is decided elsewhere.

`ROUTES` is the one table of endpoints: the application, `GET /openapi.json` and the test that every
endpoint is documented are made from it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from cis490.digest import is_digest
from cis490.logs import event
from training.fleet import (
    artifact_routes,
    claiming,
    enrolment_routes,
    event_routes,
    expectations,
    health_details,
    leaderboard,
    metrics_routes,
    notify_routes,
    overview_routes,
    plan_routes,
    provenance_routes,
    provenance_store,
    redaction,
    shadows,
    steering_routes,
    telemetry_routes,
    waiting,
    why_routes,
    wire,
    wire_headers,
)
from training.fleet.claiming import Asked
from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.host_routes import drain, undrain
from training.fleet.http_io import (
    Problem,
    answer,
    decode,
    decoded,
    host_of,
    one_header,
    peer_of,
    read_body,
    require_operator,
    token_of,
)
from training.fleet.lease_answers import coordinator_of, lease_answer
from training.fleet.manifest import TrainingManifestError
from training.fleet.plan import PlanRefused
from training.fleet.queue import MAX_LISTED, Claim
from training.fleet.reports import ProgressPoint, Usage, points_fault, usage_fault
from training.fleet.rows import Outcome
from training.fleet.types import ROW_KINDS, STATUSES
from training.fleet.upload_routes import upload, upload_offset
from training.fleet.views import job as job_view
from training.fleet.views import job_in_full

log = logging.getLogger(__name__)
ZSTD = "application/zstd"
Word = TypeVar("Word", bound=str)


# -- worker


async def claim(request: Request) -> Response:
    """Ask for a job: the best pending one that this host may run, or `{"job": null}`."""
    host = host_of(request)
    with_token = one_header(request, wire_headers.HEADER_PROTOCOL) == wire_headers.PROTOCOL
    claim_request = one_header(request, wire_headers.HEADER_CLAIM_REQUEST)[:128] or None
    raw = await read_body(request)
    body = (_checked_known if len(raw) <= KNOWN_BYTES else _checked)(raw)
    asked = Asked(
        host, body.capability, with_token, claim_request, min(max(body.wait_s, 0.0), wire.MAX_WAIT_S),
        peer_of(request),
    )  # fmt: skip
    app = coordinator_of(request)
    is_known = host in app.queue.matcher.seen
    if is_known and body.usage is not None:
        app.telemetry.host_usage(host, body.usage)
    found = await claiming.claim(app, asked, request)
    if not is_known and body.usage is not None and found.admitted:
        app.telemetry.host_usage(host, body.usage)
    return _claimed(app, host, found)


def _checked(raw: bytes) -> wire.ClaimRequest:
    body = decoded(raw, wire.ClaimRequest)
    fault = wire.capability_fault(body.capability)
    if fault is not None:
        raise Problem(400, fault)
    _check_report(body.usage)
    return body


KNOWN_BYTES = 4096
_checked_known = functools.lru_cache(maxsize=256)(_checked)
"""A worker asks with the same words each time; at most 1 MiB is kept of them."""


def _claimed(app: Coordinator, host: str, found: Claim) -> Response:
    if not found.admitted:
        raise Problem(403, f"host {host} is not admitted: {found.reason}")
    if found.row is None or found.lease is None:
        return answer({"job": None, "reason": found.reason})
    row, lease = found.row, found.lease
    event(log, "job.claimed", job_id=row.job_id[:12], name=row.name, host=host, epoch=row.epoch)
    return answer(
        wire.ClaimAnswer(
            job_id=row.job_id, name=row.name, spec=row.spec, attempts=row.attempts, model=row.model, mode=row.mode,
            hyper=row.spec["hyper"], epoch=row.epoch, lease_s=app.queue.stale_after_s,
            heartbeat_s=app.queue.heartbeat_s, dataset_id=lease.dataset_id, lease_token=lease.token,
            resume=row.learned.is_released, device=found.device,
        )
    )  # fmt: skip


async def heartbeat(request: Request) -> Response:
    """Renew the lease; 410 when the job is no longer this worker's."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.HeartbeatRequest, empty_ok=True)
    app = coordinator_of(request)
    _check_report(body.usage, body.points)
    held = app.queue.leases.get(job_id)
    before = held.progress if held is not None else None
    if app.queue.renew_lease(job_id, host, token=token, progress=body.progress):
        done = Outcome(True)  # nothing but memory changed: no transaction, no waiting for one
    else:
        done = await app.write(lambda: app.queue.heartbeat(job_id, host, token=token, progress=body.progress))
    lease = app.queue.leases.get(job_id) if done else None
    points = body.news(before)
    if lease is not None and lease.host == host and (points or body.usage is not None):
        app.telemetry.heard(lease, points, body.sent_s, body.usage)
    return await lease_answer(app, host, done, {"lease_s": app.queue.stale_after_s})


def _check_report(usage: Usage | None, points: Sequence[ProgressPoint] = ()) -> None:
    fault = points_fault(points) or (None if usage is None else usage_fault(usage))
    if fault is not None:
        raise Problem(400, fault)


async def complete(request: Request) -> Response:
    """Hand in the result: the artifact must have been uploaded for this very attempt."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.CompleteRequest)
    if not is_digest(body.artifact_id):
        raise Problem(400, "artifact_id must be the artifact's sha256: 64 lower-case hexadecimal digits")
    fault = wire.metrics_fault(body.metrics)
    if fault is not None:
        raise Problem(400, fault)
    app = coordinator_of(request)
    done = await app.write(
        lambda: provenance_store.complete(
            app.queue, app.authority, peer_of(request), job_id, host,
            manifest_digest=app.manifest.digest if app.manifest else None,
            artifact_id=body.artifact_id, token=token, metrics=body.metrics, require_upload=True,
            usage={"duration_s": body.duration_s, "peak_rss_mib": body.peak_rss_mib, "cpu_s": body.cpu_s},
        )
    )  # fmt: skip
    if done:
        app.changed()
        event(log, "job.completed", job_id=job_id[:12], host=host, artifact=body.artifact_id[:12])
    return await lease_answer(app, host, done)


async def fail(request: Request) -> Response:
    """Report that the attempt failed, with the real error; the job waits again or has failed for good."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.FailRequest, empty_ok=True, limit_bytes=wire.MAX_ERROR_BODY_BYTES)
    if body.exit_code is not None and abs(body.exit_code) > wire.MAX_EXIT_CODE:
        raise Problem(400, f"exit_code must lie between -{wire.MAX_EXIT_CODE} and {wire.MAX_EXIT_CODE}")
    app = coordinator_of(request)
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
    return await lease_answer(app, host, done)


async def release(request: Request) -> Response:
    """Give the job back unharmed (the worker stops); no budget is used."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, wire.ReleaseRequest, empty_ok=True)
    app = coordinator_of(request)
    done = await app.write(lambda: app.queue.release(job_id, host, token=token, reason=body.reason))
    if done:
        app.changed()
        event(log, "job.released", job_id=job_id[:12], host=host)
    return await lease_answer(app, host, done)


async def dataset(request: Request) -> Response:
    """The packed dataset with this id, as the manifest pins it."""
    app, digest = coordinator_of(request), request.path_params["digest"]
    if not is_digest(digest):
        raise Problem(400, "a dataset id is 64 lower-case hexadecimal digits")
    pin = app.datasets.get(digest)
    if pin is None:
        raise Problem(404, f"no dataset {digest[:12]}: no manifest that was in force here pinned it")
    try:
        found = await asyncio.to_thread(Path(pin.path).stat)
    except FileNotFoundError as error:
        raise Problem(
            404,
            f"the receiver's copy of dataset {digest[:12]} is gone: {pin.path}; put it back, or pin another",
        ) from error
    _check_range(request, found.st_size)
    return FileResponse(pin.path, media_type=ZSTD, stat_result=found)


# -- reads


async def jobs(request: Request) -> Response:
    """All jobs, by priority; `?status=` keeps one status, `?kind=shadow` asks for verification runs instead.

    `?limit=` and `?offset=` give a part of the list, and `total` beside it; with `?reasons=1` each entry has
    `waits_for`.
    """
    app, peer = coordinator_of(request), peer_of(request)
    status, kind = _one_of(request, "status", STATUSES), _one_of(request, "kind", ROW_KINDS) or "job"
    limit, offset = _count(request, "limit"), _count(request, "offset")
    with_reasons = _one_of(request, "reasons", ("0", "1")) == "1"

    def read() -> dict[str, Any]:
        leases = app.queue.live_leases()
        found = app.queue.list_jobs(
            status, kind=kind, limit=MAX_LISTED if limit is None else limit, offset=offset or 0
        )
        told = [job_view(row, leases.get(row.job_id), app.queue.reference) for row in found]
        if with_reasons:
            told = waiting.with_reasons(app.queue, found, told)
        out: dict[str, Any] = {"jobs": [redaction.job(peer, one) for one in told]}
        if limit is not None or offset is not None:
            counts = app.queue.counts(kind=kind)
            out["total"] = sum(counts.values()) if status is None else counts.get(status, 0)
        return out

    return await asyncio.to_thread(lambda: answer(read()))


def _count(request: Request, key: str) -> int | None:
    """A number of the query, None when it is not there; 400 for what is none."""
    text = request.query_params.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise Problem(400, f"{key}={text[:40]!r} is no number from 0 to 999999")
    return int(text)


def _one_of(request: Request, key: str, known: tuple[Word, ...]) -> Word | None:
    """A word of the query, None when it is not there; 400 for one that is not known."""
    wanted = request.query_params.get(key)
    found = next((word for word in known if word == wanted), None)
    if wanted is not None and found is None:
        raise Problem(400, f"{key}={wanted[:40]!r} is none of {', '.join(known)}")
    return found


async def job(request: Request) -> Response:
    """One job in full: spec, attempts, audit trail."""
    app, job_id, peer = coordinator_of(request), request.path_params["id"], peer_of(request)

    def read() -> dict[str, Any] | None:
        row = app.queue.get(job_id)
        if row is None:
            return None
        attempts, trail = app.queue.attempts(job_id), app.queue.audit(job_id)
        expected = expectations.of_job(app.queue, row)
        return job_in_full(
            row, app.queue.live_leases().get(job_id), app.queue.reference, attempts, trail,
            None if expected is None else expected.to_dict(),
        )  # fmt: skip

    found = await asyncio.to_thread(read)
    if found is None:
        raise Problem(404, f"no job {job_id[:80]}")
    return answer({"job": redaction.job(peer, found)})


async def models(request: Request) -> Response:
    """What was trained, grouped by what makes it comparable, with the gap between the modes."""
    app = coordinator_of(request)

    def read() -> dict[str, Any]:
        made = {
            (row["job_id"], row["artifact_id"]): leaderboard.Made(
                row["size_bytes"], row["duration_s"], row["peak_rss_mib"]
            )
            for row in app.queue.read("attempts_made")
        }
        return leaderboard.board(app.queue.list_jobs(), app.queue.reference, made)

    return answer(await asyncio.to_thread(read))


async def workers(request: Request) -> Response:
    """The last-seen capability of each host that called."""
    app, peer = coordinator_of(request), peer_of(request)
    rows = [
        row for row in await asyncio.to_thread(app.queue.workers) if redaction.sees_host(peer, row["host"])
    ]
    return answer({"workers": [{**row, "usage": app.telemetry.usage(row["host"])} for row in rows]})


async def health(request: Request) -> Response:
    """Alive; with a sentence under `disk`, `writer` or `reaper` for each of these that is in trouble."""
    app, peer = coordinator_of(request), peer_of(request)
    found = redaction.health(peer, {"status": "ok", **app.trouble()})
    if request.query_params.get("details") == "1" and redaction.sees_details(peer):
        found["details"] = await asyncio.to_thread(health_details.details, app)
    return answer(found)


async def model(request: Request) -> Response:
    """An artifact by its digest (ranges allowed)."""
    app, artifact_id = coordinator_of(request), request.path_params["id"]
    if not is_digest(artifact_id):
        raise Problem(400, "an artifact id is 64 lower-case hexadecimal digits")
    path = await asyncio.to_thread(app.store.path_of, artifact_id)
    if path is None:
        await _say_if_removed(app, artifact_id)
        raise Problem(404, f"no artifact {artifact_id[:12]}")
    found = await asyncio.to_thread(path.stat)
    _check_range(request, found.st_size)
    return FileResponse(path, media_type=ZSTD, headers={"ETag": f'"{artifact_id}"'}, stat_result=found)


async def _say_if_removed(app: Coordinator, artifact_id: str) -> None:
    """410 for an artifact that was here until retention removed it."""
    removed = await asyncio.to_thread(app.queue.read, "removed_one", artifact_id=artifact_id)
    if removed:
        raise Problem(
            410,
            f"artifact {artifact_id[:12]} was removed by the manifest's [retention]: {removed[0]['why']}",
            removed_at=removed[0]["at"],
        )


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
            raise Problem(416, f"the range {text} lies outside the file's {size_bytes} bytes")


# -- operator


async def cancel(request: Request) -> Response:
    """End a job; a worker that trains it learns so from its next heartbeat."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    actor = require_operator(request, app.operator_token)
    done = await app.write(lambda: app.queue.cancel(job_id, actor=actor))
    app.changed()  # its host has a free slot again
    return _operator_answer(job_id, "cancel", done, actor)


async def requeue(request: Request) -> Response:
    """Try a job again with fresh budgets; completed work only with `{"force": true}`."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    actor = require_operator(request, app.operator_token)
    body = await decode(request, wire.RequeueRequest, empty_ok=True)
    done = await app.write(lambda: app.queue.requeue(job_id, force=body.force, actor=actor))
    app.changed()
    return _operator_answer(job_id, "requeue", done, actor)


async def verify(request: Request) -> Response:
    """Let a completed job be trained once more, to compare; nothing about the job itself changes."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    actor = require_operator(request, app.operator_token)
    made = await app.write(lambda: shadows.start(app.queue, job_id, actor=actor))
    if made.row is None:
        raise Problem(made.http_status, made.reason, ok=False, **made.told)
    app.changed()
    shadow = made.row
    event(
        log, "job.verify", job_id=job_id[:12], shadow_job_id=shadow.job_id[:12], hosts=",".join(made.hosts), actor=actor
    )  # fmt: skip
    return answer({"ok": True, "shadow_job_id": shadow.job_id, "name": shadow.name, "hosts": made.hosts})


def _operator_answer(job_id: str, verb: str, done: Outcome, actor: str) -> Response:
    if not done:
        raise Problem(done.http_status, done.reason, ok=False)
    event(log, f"job.{verb}", job_id=job_id[:12], actor=actor)
    return answer({"ok": True})


async def reload(request: Request) -> Response:
    """Read the manifest again, with a plan only if it still holds; when something is wrong, nothing changes."""
    app = coordinator_of(request)
    actor = require_operator(request, app.operator_token)
    body = await decode(request, wire.ReloadRequest, empty_ok=True)
    try:
        counts, found = await app.reload(body.plan, actor=actor)
    except TrainingManifestError as error:
        raise plan_routes.faulty(error) from error
    except PlanRefused as error:
        raise plan_routes.refused(error) from error
    return answer({"ok": True, "counts": counts, "n_jobs": len(found.jobs), "manifest_digest": found.digest})


async def openapi(request: Request) -> Response:
    """This interface, as OpenAPI 3.1."""
    return answer(await asyncio.to_thread(_openapi))


@functools.cache
def _openapi() -> msgspec.Raw:
    """Made once: it takes some 10 ms."""
    from training.fleet.openapi import document  # msgspec's schema code is only needed here

    return msgspec.Raw(msgspec.json.encode(document(ROUTES)))


ROUTES: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/job/claim", claim, "worker", wire.ClaimRequest),
    Endpoint("POST", "/v1/job/{id}/heartbeat", heartbeat, "worker", wire.HeartbeatRequest),
    Endpoint("POST", "/v1/job/{id}/complete", complete, "worker", wire.CompleteRequest),
    Endpoint("POST", "/v1/job/{id}/fail", fail, "worker", wire.FailRequest),
    Endpoint("POST", "/v1/job/{id}/release", release, "worker", wire.ReleaseRequest),
    Endpoint("PUT", "/v1/model/{id}", upload, "worker"),
    Endpoint("GET", "/v1/job/{id}/upload", upload_offset, "worker"),
    Endpoint("GET", "/v1/dataset/{digest}", dataset, "member"),
    Endpoint("GET", "/v1/jobs", jobs, "member"),
    Endpoint("GET", "/v1/job/{id}", job, "reader"),
    Endpoint("GET", "/v1/model/{id}", model, "reader"),
    Endpoint("GET", "/v1/models", models, "reader"),
    Endpoint("GET", "/v1/workers", workers, "member"),
    Endpoint("GET", "/v1/health", health, "anyone"),
    Endpoint("GET", "/openapi.json", openapi, "member"),
    Endpoint("POST", "/v1/job/{id}/cancel", cancel, "operator"),
    Endpoint("POST", "/v1/job/{id}/requeue", requeue, "operator", wire.RequeueRequest),
    Endpoint("POST", "/v1/job/{id}/verify", verify, "operator"),
    Endpoint("POST", "/v1/manifest/reload", reload, "operator", wire.ReloadRequest),
    Endpoint("POST", "/v1/host/{name}/drain", drain, "operator", wire.DrainRequest),
    Endpoint("POST", "/v1/host/{name}/undrain", undrain, "operator"),
    *overview_routes.ENDPOINTS,
    *why_routes.ENDPOINTS,
    *plan_routes.ENDPOINTS,
    *steering_routes.ENDPOINTS,
    *telemetry_routes.ENDPOINTS,
    *event_routes.ENDPOINTS,
    *metrics_routes.ENDPOINTS,
    *notify_routes.ENDPOINTS,
    *artifact_routes.ENDPOINTS,
    *enrolment_routes.ENDPOINTS,
    *provenance_routes.ENDPOINTS,
)

LEASE_VERBS = {"heartbeat": heartbeat, "complete": complete, "fail": fail, "release": release}
"""What workers call most, beside `claim`: found by their path alone (`training.fleet.direct`)."""
