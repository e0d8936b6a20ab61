"""One claim from its question to its answer: tried at once, then again whenever it is its turn (`waiters`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from training.fleet.coordinator import Coordinator
from training.fleet.http_io import Problem
from training.fleet.peers import OPEN, Peer
from training.fleet.queue import Claim
from training.fleet.types import Capability


class Line(Protocol):
    """The part of a request that tells whether its client still waits."""

    async def is_disconnected(self) -> bool: ...
    def receive(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A worker's question for a job, checked."""

    host: str
    capability: Capability
    with_token: bool
    claim_request: str | None
    wait_s: float
    peer: Peer = OPEN


async def claim(app: Coordinator, asked: Asked, line: Line) -> Claim:
    """The job and its lease, or the reason why there is none. Problem when the client went away."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + asked.wait_s
    found = await _try(app, asked, line)
    if found.row is not None or not found.admitted or asked.wait_s <= 0:
        return found
    with (
        app.waiters.enter(asked.host, asked.capability) as waiter,
        app.open_requests.enter(asked.peer, waiter.called.set),
    ):
        while True:
            gone = await _wait(line, waiter.called, ends_at - loop.time())
            if gone:  # nobody would receive the job
                raise Problem(400, "the client went away while it waited")
            if not app.counts(asked.peer):
                raise Problem(
                    401, f"the certificate of {asked.peer} was revoked or ended while this claim waited"
                )
            if app.stopping:
                return Claim(reason="the receiver is stopping")
            found = await _try(app, asked, line)
            if found.row is not None or not found.admitted or loop.time() >= ends_at:
                return found
            app.waiters.got_nothing(waiter)


async def _try(app: Coordinator, asked: Asked, line: Line) -> Claim:
    """Ask the queue once; Problem while the disk is full, also for a claim that has waited since before."""
    if app.ballast is not None and not app.ballast.is_held:
        raise Problem(503, app.ballast.refusal, reason="disk full")
    found, told_news = await app.write(lambda: _ask(app, asked))
    if told_news:
        app.changed()
    if found.row is not None and not asked.claim_request and await line.is_disconnected():
        await _take_back(app, asked.host, found)
        raise Problem(400, "the client went away before it got its job")
    return found


def _ask(app: Coordinator, asked: Asked) -> tuple[Claim, bool]:
    """In the writer: the queue's answer, and whether the host is new or reports something else than before. Then
    a job that waited for it may be open to others."""
    before = app.queue.matcher.seen.get(asked.host)
    found = app.queue.claim(
        asked.host, asked.capability, with_token=asked.with_token, claim_request=asked.claim_request
    )
    after = app.queue.matcher.seen.get(asked.host)
    same = before is not None and after is not None and before.capability == after.capability
    return found, not same


async def _take_back(app: Coordinator, host: str, found: Claim) -> None:
    """Nobody received this job, and without a claim request nobody can ask for it again."""
    row, lease = found.row, found.lease
    if row is not None and lease is not None:
        await app.write(
            lambda: app.queue.release(row.job_id, host, token=lease.token, reason="claim not received")
        )
        app.changed()


async def _wait(line: Line, called: asyncio.Event, seconds: float) -> bool:
    """Until it is this claim's turn or the time is over; True when the client went away instead."""
    turn = asyncio.ensure_future(called.wait())
    left = asyncio.ensure_future(line.receive())  # the body was read: the next message is the goodbye
    try:
        await asyncio.wait({turn, left}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        return left.done()
    finally:
        turn.cancel()
        left.cancel()
