"""The endpoints that take an artifact, whole or in ranges."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cis490.blobs.pipeline import Stalled
from cis490.digest import Digest, is_digest
from cis490.failpoints import failpoint
from cis490.logs import event
from training.fleet import wire_headers
from training.fleet.arriving import Arriving
from training.fleet.coordinator import Coordinator
from training.fleet.http_io import (
    Problem,
    answer,
    content_length_of,
    drain,
    host_of,
    one_header,
    peer_of,
    token_of,
)
from training.fleet.lease_answers import coordinator_of, lease_answer
from training.fleet.ledger import QueueUnavailable
from training.fleet.peers import Peer
from training.fleet.rows import JobRow, Outcome
from training.fleet.store import IngestResult

log = logging.getLogger(__name__)
_RANGE = re.compile(
    r"bytes (?:(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})|(?P<none>\*))/(?P<total>[0-9]{1,18})", re.ASCII
)
_RANGE_FORM = "expected `bytes FIRST-LAST/TOTAL`, or `bytes */TOTAL` with no body when everything was sent"


@dataclass(frozen=True, slots=True)
class Piece:
    """What a request brings: `size_bytes` from `offset` on, of `total_bytes`. `offset` None: the whole, anew."""

    offset: int | None
    size_bytes: int
    total_bytes: int

    @property
    def is_last(self) -> bool:
        return (self.offset or 0) + self.size_bytes == self.total_bytes


def piece_of(content_range: str, length: int) -> Piece:
    """Read a Content-Range ("" when there is none) for a body of `length` bytes; ValueError in words."""
    if not content_range:
        return Piece(None, length, length)
    found = _RANGE.fullmatch(content_range)
    if found is None:
        raise ValueError(f"Content-Range {content_range[:80]!r} cannot be read; {_RANGE_FORM}")
    total = int(found["total"])
    if found["none"]:
        if length:
            raise ValueError(
                f"Content-Range {content_range} goes without a body, and this one has {length} bytes"
            )
        return Piece(total, 0, total)
    first, last = int(found["first"]), int(found["last"])
    if not first <= last < total:
        raise ValueError(
            f"Content-Range {content_range} contradicts itself; {_RANGE_FORM}, FIRST <= LAST < TOTAL"
        )
    if last - first + 1 != length:
        raise ValueError(
            f"Content-Range {content_range} names {last - first + 1} bytes, and Content-Length is {length}"
        )
    return Piece(first, length, total)


async def upload(request: Request) -> Response:
    """Store an artifact: a tar.zst bundle, hashed while it arrives, synced before the answer."""
    body = Arriving(request)
    try:
        response = await _upload(request, body)
        if body.is_detached:
            response.headers["connection"] = "close"
        return response
    except Problem:
        await body.stop()
        if not body.is_detached:
            await drain(request)
        raise
    except ClientDisconnect as error:
        raise Problem(
            400, "the connection ended before all bytes were there; those that came are kept"
        ) from error
    except Stalled as error:
        raise Problem(408, f"{error}: what came is kept, send the rest") from error
    finally:
        await body.stop()


async def _upload(request: Request, body: Arriving) -> Response:
    app, job_id = coordinator_of(request), request.path_params["id"]
    host, token = host_of(request), token_of(request)
    expected = _digest_of(request)
    if not expected:
        raise Problem(
            400,
            f"{wire_headers.HEADER_SHA256} is missing: the artifact's sha256, 64 lower-case hexadecimal digits",
        )
    length = content_length_of(request)
    row = await _holder(app, job_id, host, token)
    try:
        piece = piece_of(one_header(request, "content-range"), length)
    except ValueError as error:
        offset = await app.store.offset_of(job_id, row.epoch, expected)
        raise Problem(400, str(error), offset=offset) from error
    if piece.total_bytes > app.max_artifact_bytes:
        raise Problem(
            413,
            f"the artifact has {piece.total_bytes} bytes; this receiver takes at most {app.max_artifact_bytes}",
        )
    if app.ballast is not None and not app.ballast.is_held:
        raise Problem(507, app.ballast.refusal)
    peer = peer_of(request)
    with app.open_requests.enter(peer, lambda: app.store.interrupt(job_id)):
        result = await app.store.ingest_stream(
            job_id=job_id, model=row.model, mode=row.mode, worker=host, expected_sha256=expected,
            body=body, max_bytes=app.max_artifact_bytes, epoch=row.epoch, generation=row.generation,
            provenance=_provenance(row),
            offset=piece.offset, is_last=piece.is_last, announced_bytes=piece.size_bytes,
        )  # fmt: skip
    if result.status == "taken-over" and not app.counts(peer):
        raise Problem(401, _no_longer(peer))
    if result.status not in ("stored", "already-present"):
        return _not_stored(app, job_id, result, expected)
    artifact_id = result.artifact_id or expected
    failpoint("upload.before_record")
    recorded = await app.write(
        lambda: _record(app, peer, job_id, host, token, row.epoch, artifact_id, result.size_bytes)
    )
    failpoint("upload.recorded")
    if not recorded:  # given to another, cancelled or requeued while the body arrived
        await lease_answer(app, host, recorded)
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


def _provenance(row: JobRow) -> dict[str, object]:
    """Of what the artifact was made, and of a shadow run: which job and artifact it verifies."""
    found: dict[str, object] = {
        "dataset_id": row.dataset_id,
        "trainer_digest": row.trainer_digest,
        "spec": row.spec,
    }
    if row.is_shadow:
        found |= {"kind": row.kind, "of_job_id": row.of_job_id, "of_artifact_id": row.of_artifact_id}
    return found


def _no_longer(peer: Peer) -> str:
    return f"the certificate of {peer} was revoked or ended while this upload arrived"


def _record(
    app: Coordinator, peer: Peer, job_id: str, host: str, token: str | None, epoch: int, artifact_id: str,
    size_bytes: int,
) -> Outcome:  # fmt: skip
    """In the writer: the upload counts if its attempt still does."""
    if app.store.size_of(artifact_id) is None:  # retention took it away in between; see gc.Cleaner._take_away
        raise QueueUnavailable(f"artifact {artifact_id[:12]} was just removed as an old one; send it again")
    # Also for an attempt that has ended meanwhile: retention then knows whose the file is.
    app.queue.record_upload(job_id, epoch, artifact_id, size_bytes)
    if not app.counts(peer):
        return Outcome(False, http_status=401, reason=_no_longer(peer))
    holder = app.queue.standing(job_id, host, token)
    if not holder or holder.row is None:
        return holder
    if holder.row.epoch != epoch:
        return Outcome(False, http_status=410, reason="the job was claimed again while the artifact arrived")
    return holder


def _not_stored(app: Coordinator, job_id: str, result: IngestResult, expected: str) -> Response:
    match result.status:
        case "partial":
            return answer({"status": "partial", "offset": result.size_bytes}, 202)
        case "wrong-offset":
            raise Problem(
                416,
                f"the receiver has {result.size_bytes} bytes of this upload: send the rest from there",
                offset=result.size_bytes,
            )
        case "sha-mismatch":
            found = result.actual_sha256
            text = f"the sha256 of what came is {found}, the header said {expected}; nothing was kept, send it anew"
            return answer({"status": "sha-mismatch", "actual_sha256": found, "error": text}, 400)
        case "too-large":
            raise Problem(413, f"the artifact is larger than {app.max_artifact_bytes} bytes")
        case "taken-over":
            why = (
                "the receiver is stopping"
                if app.stopping
                else "a later request for this upload is being served"
            )
            raise Problem(
                503, f"{why}; what this one had sent is kept (GET /v1/job/{job_id}/upload says how much)"
            )
        case _:
            raise Problem(507, result.reason)


async def upload_offset(request: Request) -> Response:
    """How many bytes of this attempt's artifact the receiver has; 0: send it from the beginning."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    app = coordinator_of(request)
    sha256 = _digest_of(request)
    row = await _holder(app, job_id, host, token)
    if sha256 is not None:
        stored: bool = await app.write(lambda: app.queue.has_upload(job_id, row.epoch, sha256))
        size = await asyncio.to_thread(app.store.size_of, sha256) if stored else None
        if size is not None:
            return answer({"ok": True, "offset": size, "status": "stored"})
    return answer({"ok": True, "offset": await app.store.offset_of(job_id, row.epoch, sha256)})


async def _holder(app: Coordinator, job_id: str, host: str, token: str | None) -> JobRow:
    """The job's row as this requester's attempt sees it. Raises Problem for whoever may not upload."""
    holder = await app.write(lambda: app.queue.standing(job_id, host, token))
    if not holder or holder.row is None:
        await lease_answer(app, host, holder)
        raise Problem(409, "this attempt has ended")
    return holder.row


def _digest_of(request: Request) -> Digest | None:
    """The announced digest, None when there is none; 400 for what is no digest."""
    text = one_header(request, wire_headers.HEADER_SHA256)
    if not text:
        return None
    if not is_digest(text):
        raise Problem(
            400,
            f"{wire_headers.HEADER_SHA256} must be the artifact's sha256: 64 lower-case hexadecimal digits",
        )
    return text
