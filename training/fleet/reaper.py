"""Ends leases that ran out, on a timer of its own: an idle or fully busy fleet is swept too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cis490.logs import event
from training.fleet.queue import JobQueue
from training.fleet.writer import Writer

log = logging.getLogger(__name__)


def overslept_s(elapsed_s: float, every_s: float) -> float:
    """How long the receiver itself was away (suspended, stalled), judged by a tick that came late.

    Up to one further period is ordinary jitter; beyond that nobody could have renewed a lease.
    """
    late = elapsed_s - every_s
    return late if late > every_s else 0.0


async def run(
    queue: JobQueue,
    writer: Writer,
    *,
    every_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_change: Callable[[], None] = lambda: None,
) -> None:
    """Sweep every `every_s` seconds until cancelled. `on_change` is told when jobs became claimable."""
    last_s = queue.clock.now_s()
    while True:
        await sleep(every_s)
        now_s = queue.clock.now_s()
        away_s, last_s = overslept_s(now_s - last_s, every_s), now_s
        try:
            if await writer.run(lambda away_s=away_s: tick(queue, away_s)):  # type: ignore[misc]
                on_change()
        except Exception as error:  # noqa: BLE001 - whatever happened, the next tick sweeps again
            event(log, "reaper.failed", level=logging.ERROR, error=repr(error))


def tick(queue: JobQueue, away_s: float) -> int:
    """One sweep, after giving back the time in which the receiver was away."""
    if away_s:
        event(log, "reaper.late", level=logging.WARNING, away_s=round(away_s, 3), leases=len(queue.leases))
        queue.extend_leases(away_s)
    swept = queue.sweep_stale()
    queue.flush_heartbeats()
    if swept:
        event(log, "leases.expired", leases=swept)
    return swept
