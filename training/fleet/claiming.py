"""One claim from its question to its answer: tried at once, then again whenever jobs may have become claimable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from training.fleet.coordinator import Coordinator
from training.fleet.http_io import Problem
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


async def claim(app: Coordinator, asked: Asked, line: Line) -> Claim:
    """The job and its lease, or the reason why there is none. Problem when the client went away."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + asked.wait_s
    while True:
        change = app.next_change()
        found = await app.write(
            lambda: app.queue.claim(
                asked.host, asked.capability, with_token=asked.with_token, claim_request=asked.claim_request
            )
        )
        left_s = ends_at - loop.time()
        if found.row is not None and not asked.claim_request and await line.is_disconnected():
            await _take_back(app, asked.host, found)
            raise Problem(400, "the client went away before it got its job")
        if found.row is not None or not found.admitted or left_s <= 0:
            return found
        ripe_s = await app.write(app.queue.next_ripe_in_s)
        gone = await _wait(line, change, left_s if ripe_s is None else min(left_s, ripe_s + 0.01))
        if gone:  # nobody would receive the job
            raise Problem(400, "the client went away while it waited")
        if app.stopping:
            return Claim(reason="the receiver is stopping")


async def _take_back(app: Coordinator, host: str, found: Claim) -> None:
    """Nobody received this job, and without a claim request nobody can ask for it again."""
    row, lease = found.row, found.lease
    if row is not None and lease is not None:
        await app.write(
            lambda: app.queue.release(row.job_id, host, token=lease.token, reason="claim not received")
        )
        app.changed()


async def _wait(line: Line, change: asyncio.Event, seconds: float) -> bool:
    """Until jobs may have become claimable or the time is over; True when the client went away instead."""
    changed = asyncio.ensure_future(change.wait())
    left = asyncio.ensure_future(line.receive())  # the body was read: the next message is the goodbye
    try:
        await asyncio.wait({changed, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return left.done()
    finally:
        changed.cancel()
        left.cancel()
