"""Who is told of what happens: a bounded publish and subscribe within the receiver.

Two sorts of events go through it. *Durable* ones are the rows of the audit trail, in the order of their `seq`: they
are read after the commit that wrote them, so what was rolled back is never told, and who comes back later finds them
in the database. *Ephemeral* ones (a progress point, a host's figures) are told to those who listen now and kept
nowhere. docs/design/events.md says why.

With nobody listening an event costs the look at one attribute. Everything here but `committed` and
`publish_threadsafe` runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from cis490.logs import event

log = logging.getLogger(__name__)

PAGE = 500
"""Audit rows that are read at once."""
AFTER_FAILURE_S = 1.0
"""Until the audit trail is read again after it could not be."""

Read = Callable[[int, int], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Event:
    """`kind`: job, host, manifest, fleet, progress, usage, log, ...; `seq`: of a durable event, its audit row's."""

    kind: str
    data: Mapping[str, Any]
    seq: int | None = None

    @cached_property
    def frame(self) -> bytes:
        """The event as it travels; made once, however many listen."""
        head = b"" if self.seq is None else b"id: %d\n" % self.seq
        return head + b"event: %s\ndata: %s\n\n" % (self.kind.encode(), msgspec.json.encode(self.data))


Wants = Callable[[Event], bool]


class Subscription:
    """One listener's events, in order. At most `most` wait; who does not keep up is `behind` and gets no more."""

    def __init__(self, bus: EventBus, wants: Wants, most: int) -> None:
        self._bus, self._wants, self._most = bus, wants, most
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self.start = 0
        """The newest audit row when listening began: all after it come."""
        self.behind = False
        """Events were left out: what this listener knows has a gap."""
        self.over = False
        """Nothing more will come: the receiver stops, or somebody called `close`."""
        self.on_end: Callable[[], object] = lambda: None
        """Called once, when nothing more will come."""

    def offer(self, news: Event) -> None:
        """Called by the bus. Ephemeral events give way first: they may use half of the room."""
        if self.over or self.behind or not self._wants(news):
            return
        waiting = len(self._waiting)
        if news.seq is None and waiting >= self._most // 2:
            return
        if waiting >= self._most:
            self.behind = True
            self._waiting.clear()
        else:
            self._waiting.append(news)
        self._news.set()

    async def take(self, timeout_s: float | None = None) -> list[Event]:
        """Whatever waits, at least one event; [] after `timeout_s`, or when this listener is `behind` or `over`."""
        if not self._waiting and not self.over and not self.behind:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return []
        found, self._waiting = list(self._waiting), deque()
        return found

    def end(self) -> None:
        """Called by the bus, or by whoever listens: no more events, and `take` returns."""
        if not self.over:
            self.over = True
            self._news.set()
            self.on_end()

    def close(self) -> None:
        """Listen no longer. Calling again changes nothing."""
        self.end()
        self._bus.drop(self)


class EventBus:
    """`read(after, limit)`: committed audit rows with a larger `seq`, ascending, each with `kind` and `seq`;
    `last()`: the largest `seq` there is (0: none). Both are called on other threads."""

    def __init__(self, read: Read, last: Callable[[], int]) -> None:
        self._read, self._last = read, last
        self._listeners: dict[Subscription, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: int | None = None
        """The newest audit row that was published; None while nobody listens."""
        self._pump: asyncio.Task[None] | None = None
        self._stale = False
        self._over = False
        self.bell: Callable[[], object] | None = None
        """Rung after commits; see `listen_for_commits`."""
        self.wanted = False
        """Does anybody listen? Any thread may look."""

    def __len__(self) -> int:
        return len(self._listeners)

    # -- from any thread

    def committed(self) -> None:
        """A transaction that wrote audit rows was committed. Costs nothing while nobody listens."""
        if self.wanted:
            self._call(self._wake)
        if self.bell is not None:
            self._call(self._ring)

    def publish_threadsafe(self, kind: str, data: Mapping[str, Any]) -> None:
        """As `publish`, from any thread."""
        if self.wanted:
            self._call(lambda: self.publish(kind, data))

    def close_threadsafe(self) -> None:
        """As `close`, from any thread."""
        self._over = True
        self._call(self.close)

    def _call(self, what: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(what)
            except RuntimeError:  # the loop was closed: nobody listens any more
                return

    # -- on the loop's thread

    def listen_for_commits(self, bell: Callable[[], object]) -> None:
        """Call `bell` on this loop after each commit that something happened in, without reading what it was."""
        self._loop = asyncio.get_running_loop()
        self.bell = bell

    def _ring(self) -> None:
        if self.bell is not None:
            self.bell()

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell an ephemeral event to those who listen now."""
        if self._listeners:
            self._tell(Event(kind, data))

    async def subscribe(self, wants: Wants = lambda _: True, *, most: int = 2000) -> Subscription:
        """Listen from now on: every audit row that is committed after this returns will come, and none twice.

        The caller closes the subscription.
        """
        self._loop = asyncio.get_running_loop()
        found = Subscription(self, wants, most)
        self._listeners[found] = None
        self.wanted = True  # first: a commit from here on wakes us
        if self._over:
            found.end()
        try:
            found.start = await self._beginning()
        except BaseException:
            found.close()
            raise
        return found

    async def _beginning(self) -> int:
        """The newest row that was published; for the first who listens, the newest there is."""
        if self._told is not None:
            return self._told
        last = await asyncio.to_thread(self._last)
        told = self._begin_at(last)
        if self._stale:  # something was committed meanwhile, perhaps after `last` was read
            self._wake()
        return told

    def _begin_at(self, last: int) -> int:
        if (
            self._told is None
        ):  # else another was faster, and what came since has been published from there on
            self._told = last
        return self._told

    def drop(self, listener: Subscription) -> None:
        self._listeners.pop(listener, None)
        if not self._listeners:
            self.wanted, self._told = False, None

    def close(self) -> None:
        """The receiver stops: every listener is told that nothing more comes."""
        self._over = True
        for listener in list(self._listeners):
            listener.end()

    def _tell(self, news: Event) -> None:
        for listener in list(self._listeners):
            listener.offer(news)

    def _wake(self) -> None:
        self._stale = True
        if self._pump is None and self._listeners and not self._over:
            self._pump = asyncio.get_running_loop().create_task(self._publish_rows())

    async def _publish_rows(self) -> None:
        """Read and publish until there is nothing new. One at a time, so the rows come in order."""
        try:
            while self._stale and self._told is not None:
                self._stale = False
                after = self._told
                rows = await asyncio.to_thread(self._read, after, PAGE)
                if self._told != after:  # nobody listened for a while, and now somebody does again
                    self._stale = True
                    continue
                for row in rows:
                    self._tell(Event(row["kind"], row, row["seq"]))
                if rows:
                    self._told = rows[-1]["seq"]
                    self._stale |= len(rows) == PAGE
        except Exception as error:  # noqa: BLE001 - whatever happened, who listens must not miss what comes next
            event(log, "events.read_failed", level=logging.ERROR, error=repr(error))
            asyncio.get_running_loop().call_later(AFTER_FAILURE_S, self._wake)
        finally:
            self._pump = None
