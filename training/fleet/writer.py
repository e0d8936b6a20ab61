"""The one writer: all waiting requests go into one transaction (group commit).

While one transaction waits for the disk, further requests gather; the next transaction takes them
all, a savepoint each. An answer leaves only after the commit. The event loop never touches the
database: it hops to this thread once per batch and back once per batch.
"""

from __future__ import annotations

import asyncio
import logging
import queue as stdlib_queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cis490.ballast import Ballast, is_disk_full
from cis490.failpoints import failpoint
from cis490.logs import event
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue

T = TypeVar("T")
MAX_BATCH = 256
QUIET_TURNS = 2
"""Turns of the event loop without a further call after which a batch is handed over. A request takes two from the
socket to its call, so more of them are under way as long as there is none."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class _Gathering:
    """Calls of one event loop on their way to the thread. Only that loop's thread touches it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hand_over: Callable[[list[_Call]], None]) -> None:
        self._loop, self._hand_over = loop, hand_over
        self._calls: list[_Call] = []
        self._seen = self._quiet = 0

    def add(self, call: _Call) -> None:
        self._calls.append(call)
        if len(self._calls) == 1:
            self._seen = self._quiet = 0
            self._loop.call_soon(self._turn)
        elif len(self._calls) >= MAX_BATCH:
            self.flush()

    def _turn(self) -> None:
        """Once per turn of the loop: a single call passes within microseconds, a burst of them as one batch."""
        if not self._calls:
            return  # a full batch has left
        found = len(self._calls)
        self._quiet = self._quiet + 1 if found == self._seen else 0
        self._seen = found
        if self._quiet >= QUIET_TURNS:
            self.flush()
        else:
            self._loop.call_soon(self._turn)

    def flush(self) -> None:
        calls, self._calls = self._calls, []
        self._hand_over(calls)


class Writer:
    """Runs calls on the queue, in order, in batches, on its own thread."""

    def __init__(
        self, queue: JobQueue, ballast: Ballast | None = None, *, max_batch: int = MAX_BATCH
    ) -> None:
        """`ballast` is given up when the disk is full, and the batch tried once more. `max_batch` of 1 makes one
        transaction of each call: what group commit is measured against."""
        self._queue, self._ballast, self._max_batch = queue, ballast, max_batch
        self.trouble = ""
        """Why the last batch could not be written; empty when it could. For display, from any thread."""
        self._inbox: stdlib_queue.SimpleQueue[list[_Call] | None] = stdlib_queue.SimpleQueue()
        self._gathering: dict[asyncio.AbstractEventLoop, _Gathering] = {}
        self._thread = threading.Thread(target=self._work, name="queue-writer", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result once it is committed; raises what it raised, or `QueueUnavailable`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        gathering = self._gathering.get(loop)
        if gathering is None:
            gathering = self._gathering[loop] = _Gathering(loop, self._inbox.put)
        gathering.add(_Call(call, loop, answer))
        return await answer

    def close(self) -> None:
        """Finish what was handed in, then end the thread."""
        for gathering in self._gathering.values():
            gathering.flush()
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        calls: list[_Call] = []
        open_for_more = True
        while open_for_more or calls:
            open_for_more = self._gather(calls) and open_for_more
            batch, calls = calls[: self._max_batch], calls[self._max_batch :]
            if batch:
                self._commit(batch)

    def _gather(self, calls: list[_Call]) -> bool:
        """Take what has been handed in; waits only while there is nothing to do. False: that was the last."""
        while len(calls) < self._max_batch:
            try:
                more = self._inbox.get(block=not calls)
            except stdlib_queue.Empty:
                return True
            if more is None:
                return False
            calls += more
        return True

    def _commit(self, batch: list[_Call]) -> None:
        answers: list[Any]
        try:
            failpoint("writer.before_batch")
            answers = self._run([item.call for item in batch])
            failpoint("writer.before_answers")
        except Exception as error:  # noqa: BLE001 - the thread must live: each caller learns what happened
            event(log, "writer.broken", level=logging.ERROR, requests=len(batch), error=repr(error))
            self.trouble = f"the queue's database does not answer: {error}"
            answers = [QueueUnavailable(self.trouble)] * len(batch)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for item, result in zip(batch, answers, strict=True):
            by_loop.setdefault(item.loop, []).append((item.answer, result))
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, settled)
            except RuntimeError:  # the loop was closed: nobody waits any more
                continue

    def _run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        results = self._try(calls)
        failed = [index for index, result in enumerate(results) if _is_full(result)]
        if failed and self._ballast is not None and self._ballast.give_up():
            again = self._try([calls[index] for index in failed])
            for index, result in zip(failed, again, strict=True):
                results[index] = result
        return results

    def _try(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """One transaction; when it cannot be committed, that error for each of them."""
        try:
            results: list[Any] = self._queue.run_batch(calls)
        except QueueUnavailable as error:
            self.trouble = str(error)
            event(log, "writer.commit_failed", level=logging.ERROR, requests=len(calls), error=str(error))
            return [error] * len(calls)
        self.trouble = ""
        return results


def _is_full(result: object) -> bool:
    return isinstance(result, QueueUnavailable) and is_disk_full(result)


def _settle(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, result in settled:
        if answer.done():  # the client went away
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
