"""Looks at the fleet when something has happened, and now and then, and tells whom the manifest names.

A look reads the database on another thread; what it means is decided by `training.fleet.notify`, and sent by the
threads of `training.fleet.notify_send`. Without a `[notify]` table none of this runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cis490.ballast import Ballast
from cis490.logs import event
from training.fleet import notify, notify_send
from training.fleet.event_bus import EventBus
from training.fleet.notify import Failed, Known, Picture, Sign, Storm
from training.fleet.notify_send import Courier, NotSent, Place
from training.fleet.queue import JobQueue
from training.fleet.types import Notify

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0
"""Silence of a host and a full disk make no event: somebody has to look."""
PACE_S = 1.0
"""Between two looks, however much happens."""
LOST_AFTER_S = 90.0
"""Silence after which a host that holds a job counts as lost; three heartbeats if that is longer."""
TEST = "this is a test: notifications of this fleet arrive here"


class Notifier:
    """`configure` at the start and with each manifest, `start` once there is an event loop, `close` at the end."""

    def __init__(self, queue: JobQueue, bus: EventBus, ballast: Callable[[], Ballast | None]) -> None:
        self._queue, self._bus, self._ballast = queue, bus, ballast
        self._settings, self._fleet = Notify(), ""
        self._environ: Mapping[str, str] = {}
        self._couriers: list[Courier] = []
        self._known: Known | None = None
        self._bell = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._started = False

    def configure(self, settings: Notify, fleet: str, environ: Mapping[str, str]) -> None:
        """Tell these from now on. The same settings again change nothing: what waits for a digest goes on waiting."""
        changed = (settings, fleet) != (self._settings, self._fleet)
        self._settings, self._fleet, self._environ = settings, fleet, environ
        if changed and self._started:
            for courier in self._couriers:
                courier.stop()
            self._couriers = []
            self._begin()

    def start(self) -> None:
        """Begin to look; on the event loop's thread."""
        self._started = True
        self._begin()

    async def close(self) -> None:
        """Look and send no more."""
        self._started = False
        self._bus.bell = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        await asyncio.to_thread(self._end_couriers)

    @property
    def is_on(self) -> bool:
        """Does the manifest in force name anybody to tell?"""
        return self._settings.is_on

    def _begin(self) -> None:
        if not self._settings.is_on:
            self._bus.bell = None
            if self._looking is not None:
                self._looking.cancel()
                self._looking, self._known = None, None
            return
        found, faults = notify_send.places(self._settings, self._environ)
        for kind, fault in faults:
            event(log, "notify.misconfigured", level=logging.WARNING, place=kind, reason=fault)
        self._couriers = [Courier(place, Storm(self._fleet, self._settings.digest_s)) for place in found]
        if self._looking is None:
            self._bus.listen_for_commits(self._bell.set)
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    def _end_couriers(self) -> None:
        ended, self._couriers = self._couriers, []
        for courier in ended:  # all at once, and then wait for each
            courier.stop()
        for courier in ended:
            courier.close()

    async def _look_on(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look may do
                event(log, "notify.look_failed", level=logging.ERROR, error=repr(error))
            await asyncio.sleep(PACE_S)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """One look, and what is to be told of it is told."""
        self._bell.clear()
        picture = await asyncio.to_thread(self._picture)
        if self._known is None:
            self._known = notify.known_at_start(picture)
        self._known, signs = notify.judge(self._known, picture)
        for sign in signs:
            if sign.kind in self._settings.events:
                for courier in self._couriers:
                    courier.tell(sign)

    def _picture(self) -> Picture:
        queue, ballast = self._queue, self._ballast()
        with queue.still():
            queue.note_all_heard()
            now_s = queue.clock.now_s()
            silent = {host: now_s - seen.at_s for host, seen in queue.matcher.seen.items()}
            holding: dict[str, list[str]] = {}
            for lease in queue.leases.all():
                holding.setdefault(lease.host, []).append(lease.name or lease.job_id[:12])
        return Picture(
            at=queue.clock.wall_s(),
            failed=[
                Failed(
                    row["job_id"], row["epoch"], row["name"], row["claimed_by"] or "", row["last_error"] or ""
                )
                for row in queue.read("notify_failed")
            ],
            unfinished=int(queue.read("notify_unfinished")[0]["n"]),
            completed=queue.counts().get("completed", 0),
            silent_s=silent,
            holding=holding,
            disk="" if ballast is None or ballast.is_held else ballast.refusal,
            lost_after_s=max(LOST_AFTER_S, 3 * queue.heartbeat_s),
        )

    def test(self) -> list[dict[str, Any]]:
        """Send a test message to each place now; how that went, for each. Waits for them: not for the event loop."""
        found, faults = notify_send.places(self._settings, self._environ)
        message = notify.made(
            self._fleet, [Sign("test", "", TEST, "cis490-jobs status", self._queue.clock.wall_s())]
        )

        def ask(place: Place) -> dict[str, Any]:
            try:
                place.send(message)
            except NotSent as error:
                return {"kind": place.kind, "ok": False, "error": str(error)}
            return {"kind": place.kind, "ok": True, "error": None}

        with ThreadPoolExecutor(max(1, len(found))) as pool:
            asked = list(pool.map(ask, found))
        return asked + [{"kind": kind, "ok": False, "error": fault} for kind, fault in faults]
