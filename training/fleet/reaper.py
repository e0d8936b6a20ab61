"""Ends leases that ran out, on a timer of its own: an idle or fully busy fleet is swept too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cis490.ballast import Ballast
from cis490.failpoints import failpoint
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
    on_sweep: Callable[[], Awaitable[None]] | None = None,
    on_tick: Callable[[], None] = lambda: None,
    ballast: Ballast | None = None,
) -> None:
    """Sweep every `every_s` seconds until cancelled.

    `on_change` is told when jobs became claimable. `on_sweep` is what else is due after each sweep. `on_tick` is
    told of every round, also of one whose sweep will fail. The space for a full disk (`ballast`) is looked after here
    too: when it is back, claims are answered again.
    """
    last_s = queue.clock.now_s()
    while True:
        await sleep(every_s)
        on_tick()
        now_s = queue.clock.now_s()
        away_s, last_s = overslept_s(now_s - last_s, every_s), now_s
        try:
            failpoint("reaper.before_sweep")
            changed = await writer.run(lambda away_s=away_s, now_s=now_s: tick(queue, away_s, now_s)) > 0  # type: ignore[misc]
            failpoint("reaper.swept")
            if ballast is not None:
                was_held = ballast.is_held
                changed |= await asyncio.to_thread(ballast.restore) and not was_held
            if changed:
                on_change()
            if on_sweep is not None:
                await on_sweep()
        except Exception as error:  # noqa: BLE001 - whatever happened, the next tick sweeps again
            event(log, "reaper.failed", level=logging.ERROR, error=repr(error))


def tick(queue: JobQueue, away_s: float, now_s: float) -> int:
    """One sweep, after giving back the time in which the receiver was away.

    `now_s` is when the loop asked for it. Leases are judged by that moment and not by the one at which the writer
    comes to it: if everything stood still in between, nobody could renew, and the next tick will know.
    """
    if away_s:
        event(log, "reaper.late", level=logging.WARNING, away_s=round(away_s, 3), leases=len(queue.leases))
        queue.extend_leases(away_s)
    swept = queue.sweep_stale(now_s)
    queue.flush_heartbeats()
    if swept:
        event(log, "leases.expired", leases=swept)
    return swept
