"""The one writer: all waiting requests go into one transaction (group commit).

While one transaction waits for the disk, further requests gather; the next transaction takes them
all, a savepoint each. An answer leaves only after the commit. The event loop never touches the
database: it hops to this thread once per request and back once per batch.
"""

from __future__ import annotations

import asyncio
import logging
import queue as stdlib_queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cis490.logs import event
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue

T = TypeVar("T")
MAX_BATCH = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class Writer:
    """Runs calls on the queue, in order, in batches, on its own thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._inbox: stdlib_queue.SimpleQueue[_Call | None] = stdlib_queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="queue-writer", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result once it is committed; raises what it raised, or `QueueUnavailable`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._inbox.put(_Call(call, loop, answer))
        return await answer

    def close(self) -> None:
        """Finish what was handed in, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            first = self._inbox.get()
            if first is None:
                return
            batch, last = self._gather(first)
            self._commit(batch)
            if last:
                return

    def _gather(self, first: _Call) -> tuple[list[_Call], bool]:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                item = self._inbox.get_nowait()
            except stdlib_queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _commit(self, batch: list[_Call]) -> None:
        results: list[Any]
        try:
            results = self._queue.run_batch([item.call for item in batch])
        except QueueUnavailable as error:
            event(log, "writer.commit_failed", level=logging.ERROR, requests=len(batch), error=str(error))
            results = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - the thread must live: each caller learns what happened
            event(log, "writer.broken", level=logging.ERROR, requests=len(batch), error=repr(error))
            results = [QueueUnavailable(f"the queue's database does not answer: {error}")] * len(batch)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for item, result in zip(batch, results, strict=True):
            by_loop.setdefault(item.loop, []).append((item.answer, result))
        for loop, settled in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, result in settled:
        if answer.done():  # the client went away
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
