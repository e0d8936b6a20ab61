"""HTTP endpoints: the fleet's events as a stream and as a list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.fleet import audit_trail
from training.fleet.endpoint import Endpoint
from training.fleet.event_bus import Event, Wants
from training.fleet.event_stream import EventStream
from training.fleet.events import DURABLE_KINDS, EPHEMERAL_KINDS
from training.fleet.http_io import Problem, answer, one_header, peer_of
from training.fleet.lease_answers import coordinator_of

MAX_STREAMS = 100
MAX_REPLAY = 10_000
"""Events that a stream catches up with; who is further behind is told to load everything anew."""
RETRY_AFTER_S = 5
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
_KINDS = (*DURABLE_KINDS, *EPHEMERAL_KINDS)


async def events(request: Request) -> Response:
    """What happens, as it happens: server-sent events, from `Last-Event-ID` or `?after=` on."""
    app = coordinator_of(request)
    after = _last_event_id(request)
    wants = _filter(request)
    if request.method == "HEAD":
        return EventStream.head()
    if app.event_streams >= MAX_STREAMS:
        found = Problem(429, f"{MAX_STREAMS} event streams are open already; close one, or ask again later")
        out = found.response()
        out.headers["Retry-After"] = str(RETRY_AFTER_S)
        return out
    return EventStream(app, wants, after, most_replayed=MAX_REPLAY, peer=peer_of(request))


async def audit(request: Request) -> Response:
    """The audit trail: `?after=`, `?before=`, `?limit=`, filtered by `?job=`, `?host=`, `?event=`; oldest first."""
    app = coordinator_of(request)
    after, before = _whole(request, "after", None), _whole(request, "before", None)
    limit = _whole(request, "limit", DEFAULT_LIMIT) or 0
    if not 1 <= limit <= MAX_LIMIT:
        raise Problem(400, f"limit={limit} lies outside 1 to {MAX_LIMIT}")

    def read() -> dict[str, Any]:
        return audit_trail.page(
            app.queue, after=after, before=before, limit=limit, job=_text(request, "job"),
            host=_text(request, "host"), event=_text(request, "event"),
        )  # fmt: skip

    return answer(await asyncio.to_thread(read))


def _last_event_id(request: Request) -> int | None:
    """Where to go on: the header wins, as it is newer than the address that a browser repeats."""
    header = one_header(request, "last-event-id")
    if not header:
        return _whole(request, "after", None)
    return _number(header, "Last-Event-ID")


def _whole(request: Request, key: str, default: int | None) -> int | None:
    found = request.query_params.get(key)
    return default if found is None else _number(found, key)


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(400, f"{what}={text[:40]!r} is no event number: expected digits, such as an event's id")
    return int(text)


def _text(request: Request, key: str) -> str | None:
    return request.query_params.get(key) or None


def _filter(request: Request) -> Wants:
    """`?kind=job,host`, `?job=` (id or name) and `?host=`: all that are given must fit."""
    kinds = _kinds(request.query_params.get("kind"))
    job, host = _text(request, "job"), _text(request, "host")

    def wants(event: Event) -> bool:
        return (
            (kinds is None or event.kind in kinds)
            and (job is None or job in (event.data.get("job_id"), event.data.get("name")))
            and (host is None or host == event.data.get("host"))
        )

    return wants


def _kinds(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = _unknown(wanted)
    if unknown is not None or not wanted:
        raise Problem(400, f"kind={(unknown or text)[:40]!r} is none of {', '.join(_KINDS)}")
    return frozenset(wanted)


def _unknown(words: Iterable[str]) -> str | None:
    return next((word for word in words if word not in _KINDS), None)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/events", events, "reader"),
    Endpoint("GET", "/v1/audit", audit, "reader"),
)
