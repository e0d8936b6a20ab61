"""Signs of life for systemd: given only while every part that has to move does move.

What does not move is a matter for a restart: a hung event loop, writer, reaper or main thread. What moves and fails (a
full disk, a receiver out of reach) is not, for a restart would not change it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from cis490.logs import event
from cis490.sd_notify import Systemd
from cis490.threads import start_beside

log = logging.getLogger(__name__)
MAIN_SILENT_S = 3600.0
"""So long a worker's main thread may not look whether it shall stop: to unpack a data set or to pack a large result
it looks away for minutes, on a memory card for longer; a restart in the middle would only begin that anew."""


async def keep_receiver(
    manager: Systemd,
    *,
    writer_turn: Callable[[], Awaitable[object]],
    reaper_age_s: Callable[[], float],
    reaper_limit_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Tell `manager` until cancelled that the receiver lives. Runs on the event loop, which that proves alive.

    `writer_turn` comes back when the writer's thread has had a turn; an error is an answer too. `reaper_age_s` is how
    long ago the reaper's timer last came round.
    """
    was_still = ""
    while True:
        still = await _still(manager.every_s, writer_turn, reaper_age_s(), reaper_limit_s)
        if not still:
            manager.alive("serving")
        elif still != was_still:
            event(log, "receiver.stalled", level=logging.ERROR, part=still)
        was_still = still
        await sleep(manager.every_s)


async def _still(
    patience_s: float,
    writer_turn: Callable[[], Awaitable[object]],
    reaper_age_s: float,
    reaper_limit_s: float,
) -> str:
    """The part that does not move; empty when all do."""
    if reaper_age_s > reaper_limit_s:
        return f"the reaper: its timer last came round {reaper_age_s:.0f} s ago"
    try:
        await asyncio.wait_for(writer_turn(), patience_s)
    except TimeoutError:
        return f"the queue's writer: no turn within {patience_s:.0f} s"
    except Exception:  # noqa: BLE001 - it cannot write, and says so: the thread lives
        return ""
    return ""


class WorkerWatch:
    """A thread that tells `manager` that the worker lives, as long as its main thread looks up now and then."""

    def __init__(
        self, manager: Systemd, main_age_s: Callable[[], float], *, limit_s: float = MAIN_SILENT_S
    ) -> None:
        """`main_age_s`: how long ago the main thread last looked whether it shall stop."""
        self._manager, self._main_age_s, self._limit_s = manager, main_age_s, limit_s
        self._was_still = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Start-up is over."""
        self._manager.ready("asking for jobs")
        if self._manager.watchdog_s is not None:
            start_beside(self._thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        self._manager.stopping()

    def look(self) -> None:
        """Once: a sign of life, or a line in the log that there is none to give."""
        age_s = self._main_age_s()
        is_still = age_s > self._limit_s
        if not is_still:
            self._manager.alive()
        elif not self._was_still:
            event(log, "worker.stalled", level=logging.ERROR, silent_s=age_s)
        self._was_still = is_still

    def _run(self) -> None:
        while not self._closing.wait(self._manager.every_s):
            self.look()
