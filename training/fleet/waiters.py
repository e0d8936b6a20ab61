"""The claims that wait, in the order in which they came, and the round that says whose turn it is.

In a *round* the queue, inside the writer, says which waiting claims would get a job now, and only those are called.
(First it looks at what is new alone, so that one new job finds its claim at once however many wait.)
A round is started by whatever may make its answer another one: a change of jobs or hosts; a claim that begins to
wait, leaves, or was called and got nothing; and one timer, for the moment at which time alone may have made
something claimable. Whatever happens during a round makes one more, however much it was. So no wake-up is lost
(docs/design/waiting.md has the argument).

Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cis490.logs import event
from training.fleet.turns import Turns
from training.fleet.types import Capability

log = logging.getLogger(__name__)

LONGEST_TIMER_S = 30.0
"""The loop's clock stands still while the machine is suspended, so no timer is trusted for longer."""
AFTER_FAILURE_S = 1.0
"""Until a round is tried again that the database could not answer."""

GO_FIRST_S = 0.005
"""Between calling somebody for a new job and the look at everything: meanwhile he has claimed it."""

Ask = Callable[[Sequence[tuple[str, Capability]], bool], Awaitable[Turns]]


@dataclass(eq=False, slots=True)
class Waiter:
    """One claim that waits. `called` is set when it shall ask for a job again."""

    host: str
    capability: Capability
    called: asyncio.Event = field(default_factory=asyncio.Event)


class Waiters:
    """`ask(waiting, news_only)` puts the question of `training.fleet.turns.whose_turn` to the queue."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waiting: dict[Waiter, None] = {}
        self._round: asyncio.Task[None] | None = None
        self._stale = False
        """The round that runs, or the next one, has to be followed by another."""
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wake_up_under_way(self) -> bool:
        """Will somebody look at the queue again without a further change? For tests."""
        return self._round is not None or any(waiter.called.is_set() for waiter in self._waiting)

    @contextmanager
    def enter(self, host: str, capability: Capability) -> Iterator[Waiter]:
        """Wait in the line's last place, until the end of the block."""
        waiter = Waiter(host, capability)
        self._waiting[waiter] = None
        if self._over:
            waiter.called.set()
        self.changed()  # what came after it asked; and the timer has to know of what it waits for
        try:
            yield waiter
        finally:
            del self._waiting[waiter]
            self.changed()  # what it would have got goes to another

    def got_nothing(self, waiter: Waiter) -> None:
        """It was called and asked in vain: somebody else was faster, or it is no longer eligible."""
        waiter.called.clear()
        self.changed()

    def changed(self) -> None:
        """Something may have become claimable."""
        self._stale = True
        if self._round is None and self._waiting and not self._over:
            self._round = asyncio.get_running_loop().create_task(self._rounds())

    def call_all(self) -> None:
        """The process is to end: nobody waits any longer, and no round is started."""
        self._over = True
        for waiter in self._waiting:
            waiter.called.set()

    async def _rounds(self) -> None:
        try:
            while self._stale and self._waiting:
                self._stale = False
                somebody, _ = await self._ask_queue(
                    news_only=True
                )  # saves time; the whole round always follows
                if somebody:
                    await asyncio.sleep(GO_FIRST_S)
                _, again_in_s = await self._ask_queue(news_only=False)
                self._set_timer(again_in_s)
        finally:
            self._round = None

    async def _ask_queue(self, *, news_only: bool) -> tuple[bool, float | None]:
        """Call whose turn it is. Whether that was anybody, and when time alone may change the answer."""
        called: list[Waiter] = []
        rest = list(self._waiting)
        moments: list[float] = []
        while rest:
            asked = [*called, *rest]
            try:
                turns = await self._ask([(waiter.host, waiter.capability) for waiter in asked], news_only)
            except Exception as error:  # noqa: BLE001 - whatever happened, those who wait must not be forgotten
                event(log, "waiting.round_failed", level=logging.ERROR, waiting=len(asked), error=repr(error))
                return bool(called), AFTER_FAILURE_S
            called, rest = [asked[position] for position in turns.called], asked[turns.looked_at :]
            moments += [] if turns.again_in_s is None else [turns.again_in_s]
            for waiter in called:
                if waiter in self._waiting:
                    waiter.called.set()
                else:  # it left while the queue was asked: what it would have got goes to another
                    self._stale = True
        return bool(called), min(moments, default=None)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(seconds, LONGEST_TIMER_S), self.changed)
