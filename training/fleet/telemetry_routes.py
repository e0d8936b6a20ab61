"""HTTP endpoints: what workers tell beside their leases: logs, progress, the use of their machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.fleet import host_view, overview, redaction
from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.host_history import STEP_S, STEPS
from training.fleet.http_io import Problem, answer, decode, host_of, peer_of, token_of
from training.fleet.lease_answers import coordinator_of, lease_answer
from training.fleet.leases import same_token
from training.fleet.log_store import MAX_POINTS_KEPT, LogStore, WrongOffset
from training.fleet.reports import MAX_LOG_BODY_BYTES, MAX_LOG_BYTES, LogAppend, thinned
from training.fleet.rows import AttemptRow, JobRow, Outcome
from training.fleet.telemetry import Busy

MAX_READ_BYTES = 1024 * 1024


# -- logs


async def append_log(request: Request) -> Response:
    """Add to the log of the attempt whose lease is held; text goes where the log ended, nowhere else."""
    host, token, job_id = host_of(request), token_of(request), request.path_params["id"]
    body = await decode(request, LogAppend, limit_bytes=MAX_LOG_BODY_BYTES)
    try:
        data = body.text.encode()
    except UnicodeEncodeError as error:
        raise Problem(400, f"text holds half a character: {error.reason}") from error
    if len(data) > MAX_LOG_BYTES:
        raise Problem(413, f"text has {len(data)} bytes; one append takes at most {MAX_LOG_BYTES}")
    if not 0 <= body.offset < 2**53:
        raise Problem(400, f"offset is {body.offset}: it counts the bytes sent before, so 0 or more")
    app = coordinator_of(request)
    epoch = _epoch_of_live(app, job_id, host, token)
    if epoch is None:
        done = await app.write(lambda: _may_append(app, job_id, host, token))
        if not done or done.row is None:
            return await lease_answer(app, host, done)
        epoch = done.row.epoch
    if app.ballast is not None and not app.ballast.is_held:
        raise Problem(507, f"no log is taken: {app.ballast.refusal}")
    key = job_id, epoch
    try:
        end = await app.telemetry.on_disk(lambda logs: logs.append(key, body.offset, data))
    except WrongOffset as wrong:
        raise Problem(409, str(wrong), offset=wrong.expected) from wrong
    except (Busy, OSError) as error:
        raise Problem(503, f"the receiver cannot keep logs now ({error}); the training may go on") from error
    if data:
        app.telemetry.publish("log", {"job_id": job_id, "host": host, "epoch": epoch, "next_offset": end})
    return answer({"ok": True, "offset": end})


def _epoch_of_live(app: Coordinator, job_id: str, host: str, token: str | None) -> int | None:
    """Of the requester's live lease, from memory alone."""
    lease = app.queue.leases.get(job_id)
    if lease is None or lease.host != host or not same_token(lease.token, token) or not lease.settled:
        return None
    return lease.epoch


def _may_append(app: Coordinator, job_id: str, host: str, token: str | None) -> Outcome:
    """As for an upload, but not once the attempt has ended. In the writer's thread."""
    done = app.queue.standing(job_id, host, token)
    if done and done.row is not None:
        row = app.queue.row(job_id)
        is_current = row is not None and row.epoch == done.row.epoch
        if not is_current or not (done.row.lapsed or done.row.status in ("claimed", "running")):
            return Outcome(False, done.row, 410, f"the attempt has ended: the job is {done.row.status}")
    return done


async def read_log(request: Request) -> Response:
    """The log of an attempt: `?epoch=` (default: the latest), from byte `?offset=` on, or the last `?tail=` bytes."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    if not redaction.sees_logs(peer_of(request)):
        raise Problem(
            403, "logs are for operators: they may hold data and paths; a reader sees how attempts ended"
        )
    limit = min(_number(request, "limit") or MAX_LOG_BYTES, MAX_READ_BYTES)
    tail, offset = _number(request, "tail"), _number(request, "offset") or 0
    row, attempt, epochs = await _attempt_of(app, request)
    if attempt is None:
        reason = f"{row.name} was never claimed, so nothing was printed yet; see: cis490-jobs why {row.name}"
        return answer(
            {"job_id": job_id, "name": row.name, "epoch": None, "epochs": [], "offset": 0, "next_offset": 0,
             "first_offset": 0, "text": "", "live": False, "empty_reason": reason}
        )  # fmt: skip
    key = job_id, attempt.epoch

    def look(logs: LogStore) -> Any:
        if tail is None:
            return logs.read(key, offset, limit)
        end = logs.read(key, 2**53, 0).end_offset
        return logs.read(key, max(0, end - min(tail, MAX_READ_BYTES)), MAX_READ_BYTES)

    try:
        piece = await app.telemetry.on_disk(look)
    except (Busy, OSError) as error:
        raise Problem(503, f"the receiver cannot read its logs now: {error}") from error
    live = attempt.outcome is None
    return answer(
        {
            "job_id": job_id,
            "name": row.name,
            "epoch": attempt.epoch,
            "epochs": epochs,
            "host": attempt.host,
            "outcome": attempt.outcome,
            "offset": piece.offset,
            "next_offset": piece.offset + len(piece.data),
            "end_offset": piece.end_offset,
            "first_offset": piece.first_offset,
            "text": piece.data.decode("utf-8", "replace"),
            "live": live,
            "empty_reason": None if piece.end_offset else _why_empty(row, attempt, live),
        }
    )


def _why_empty(row: JobRow, attempt: AttemptRow, live: bool) -> str:
    where = f"the worker's own log on {attempt.host} (journalctl -u cis490-trainer-worker) has the rest"
    if live:
        return f"the trainer on {attempt.host} has printed nothing so far; {where}"
    said = "; how it ended: cis490-jobs show " + row.name if attempt.error else ""
    return (
        f"no output of attempt {attempt.epoch} on {attempt.host} was kept (it printed nothing, its worker sends "
        f"none, or it was dropped with age); {where}{said}"
    )


# -- progress


async def progress(request: Request) -> Response:
    """The points of an attempt's progress (at most 1000, thinned) and the most that it used."""
    app, job_id = coordinator_of(request), request.path_params["id"]
    row, attempt, epochs = await _attempt_of(app, request)
    points: list[dict[str, Any]] = []
    peak: dict[str, float] = {}
    if attempt is not None:
        key = job_id, attempt.epoch
        try:
            points, peak = await app.telemetry.on_disk(lambda logs: logs.points(key))
        except (Busy, OSError) as error:
            raise Problem(503, f"the receiver cannot read its progress points now: {error}") from error
    return answer(
        {
            "job_id": job_id,
            "name": row.name,
            "epoch": None if attempt is None else attempt.epoch,
            "epochs": epochs,
            "live": attempt is not None and attempt.outcome is None,
            "points": thinned(points, MAX_POINTS_KEPT),
            "peak": _peak(peak, attempt),
        }
    )


def _peak(found: Mapping[str, float], attempt: AttemptRow | None) -> dict[str, float | None]:
    """The highest use; the guard's own figure of the whole run counts too, once the attempt has ended."""
    names = ("job_rss_gib", "job_vram_gib", "gpu_util_percent", "vram_used_gib")
    out: dict[str, float | None] = {name: found.get(name) for name in names}
    if attempt is not None and attempt.peak_rss_mib is not None:
        out["job_rss_gib"] = round(max(out["job_rss_gib"] or 0.0, attempt.peak_rss_mib / 1024), 3)
    return out


async def _attempt_of(app: Coordinator, request: Request) -> tuple[JobRow, AttemptRow | None, list[int]]:
    """(job, the attempt that is asked for, all epochs); the latest attempt unless `?epoch=` names one."""
    job_id, epoch = request.path_params["id"], _number(request, "epoch")

    def read() -> tuple[JobRow | None, list[AttemptRow]]:
        return app.queue.get(job_id), app.queue.attempts(job_id)

    row, attempts = await asyncio.to_thread(read)
    if row is None:
        raise Problem(404, f"no job {job_id[:80]}")
    epochs = [one.epoch for one in attempts]
    if epoch is None:
        return row, attempts[-1] if attempts else None, epochs
    found = next((one for one in attempts if one.epoch == epoch), None)
    if found is None:
        known = ", ".join(map(str, epochs)) or "none"
        raise Problem(404, f"{row.name} has no attempt with epoch {epoch}; there is {known}", epochs=epochs)
    return row, found, epochs


def _number(request: Request, key: str) -> int | None:
    text = request.query_params.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Problem(400, f"{key}={text[:40]!r} is no whole number from 0 on")
    return int(text)


# -- hosts


async def host(request: Request) -> Response:
    """All that is known of one host: capability, use, policy, what it runs and ran."""
    app, name, peer = coordinator_of(request), request.path_params["name"], peer_of(request)
    found = await asyncio.to_thread(host_view.host, app.queue, name)
    if found is None:
        raise await _unknown(app, name)
    usage = app.telemetry.usage(name)
    if found["host"] is not None:
        found["host"]["usage"] = usage
    state = "unseen" if found["host"] is None else overview.host_state(found["host"])
    since = app.telemetry.history.since(name, app.queue.clock.wall_s())
    found["running"] = [redaction.job(peer, one) for one in found["running"]]
    return answer({**found, "usage": usage, "state": state, "state_since": since})


async def host_history(request: Request) -> Response:
    """A host's state and use over the last `?hours=` (default 24) in steps of 5 minutes."""
    app, name = coordinator_of(request), request.path_params["name"]
    hours = _number(request, "hours") or 24
    if not await asyncio.to_thread(host_view.is_known, app.queue, name):
        raise await _unknown(app, name)
    steps = min(STEPS, hours * 3600 // STEP_S)
    points = app.telemetry.history.points(name, app.queue.clock.wall_s(), steps)
    return answer({"host": name, "step_s": STEP_S, "from_at": points[0]["at"], "points": points})


async def hosts_history(request: Request) -> Response:
    """The state of every host over the last 24 hours: a letter for each 5 minutes."""
    app = coordinator_of(request)
    wall = app.queue.clock.wall_s()
    first = (int(wall // STEP_S) - STEPS + 1) * STEP_S
    return answer({"step_s": STEP_S, "from_at": float(first), "hosts": app.telemetry.history.strips(wall)})


async def _unknown(app: Coordinator, name: str) -> Problem:
    near = await asyncio.to_thread(host_view.nearest, app.queue, name)
    text = (
        f"no host {name[:80]}: the manifest does not name it and it has never called; see cis490-jobs workers"
    )
    guess = f"; did you mean {near}?" if near else ""
    return Problem(404, text + guess, did_you_mean=near)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/job/{id}/log", append_log, "worker", LogAppend),
    Endpoint("GET", "/v1/job/{id}/log", read_log, "reader"),
    Endpoint("GET", "/v1/job/{id}/progress", progress, "reader"),
    Endpoint("GET", "/v1/host/{name}", host, "reader"),
    Endpoint("GET", "/v1/host/{name}/history", host_history, "reader"),
    Endpoint("GET", "/v1/hosts/history", hosts_history, "reader"),
)
