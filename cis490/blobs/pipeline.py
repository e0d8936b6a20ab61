"""From an event loop to a blob: receiving, hashing, writing and syncing at the same time, in bounded memory.

What arrives is gathered in blocks. Each goes to three *lanes*: one hashes, one writes, one syncs every
`SYNC_EVERY_BYTES`. A lane works in order in the threads of a `Pool`, and holds a thread only while it has something to
do, so a few threads serve any number of uploads. SHA-256, write(2) and fdatasync(2) all let go of the interpreter's
lock: an upload is as fast as the slowest of them alone.

A large body is not even seen by the event loop: once it is clear that it is one, `pour` asks the body for its
connection and lets a thread receive from there, into a few buffers that are used again and again.

The last fsync then finds little to do. One fsync of 1 GiB at the end would stall every other write of the machine.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from cis490.blobs import BlobWriter, Block

T = TypeVar("T")

BLOCK_BYTES = 512 * 1024
SYNC_EVERY_BYTES = 32 * 1024 * 1024
RECEIVE_BYTES = 2 * 1024 * 1024
"""Block of an upload that a thread receives, while there are few: each hand-over costs a turn of the interpreter's
lock, and with a quarter of it the same upload took twice as long."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
TOTAL_WAITING_BYTES = 48 * 1024 * 1024
DIRECT = 64
"""So many uploads may have a thread of their own that receives; further ones are received by the event loop."""
IDLE_S = 120.0
"""A sender that is silent for so long has gone, or may as well begin again: its thread is for others."""
_TURN = 8
_POLL_S = 0.2


class Stalled(Exception):
    """No byte of a body came for IDLE_S, though its connection stands. What came before has been kept."""

    def __init__(self) -> None:
        super().__init__(f"no further byte of the body came for {IDLE_S:g} s")


def allowance(uploads: int) -> int:
    """Bytes that each of so many uploads may have waiting for a thread: at least the block in work, then a share."""
    return max(1, min(MAX_WAITING_BYTES, TOTAL_WAITING_BYTES // max(uploads, 1)))


class Pool:
    """The threads of one store, shared by its uploads. They start when needed and end with the process.

    Syncs have threads of their own: a disk that takes its time must not keep others from hashing.
    """

    def __init__(self, *, work_threads: int = 6, sync_threads: int = 2) -> None:
        self.work: Executor = ThreadPoolExecutor(work_threads, thread_name_prefix="store")
        self.sync: Executor = ThreadPoolExecutor(sync_threads, thread_name_prefix="store-sync")
        self.receive: Executor = ThreadPoolExecutor(DIRECT, thread_name_prefix="store-receive")
        self.uploads = 0
        """Running now; read and changed on the event loop only."""


@dataclass(frozen=True, slots=True)
class Wire:
    """The connection that brings the rest of a body. Whoever has it owns the socket, and closes it."""

    first: bytes
    """Received already, to come before what the socket brings."""
    connection: socket.socket
    left_bytes: int
    """How many bytes the socket is to bring."""
    broken: Callable[[], Exception]
    """What to raise when it ends before that."""


@runtime_checkable
class Detachable(Protocol):
    """A body that can hand over its connection."""

    def detach(self) -> Wire | None:
        """From now on the caller receives; None if that is not possible, and then nothing has changed."""
        ...


class Lane(Generic[T]):
    """Does `work` to one item after the other; `on_step` is called in the working thread after each.

    The first error ends the lane: what waits is dropped, and so is whatever is put later.
    """

    def __init__(self, pool: Executor, work: Callable[[T], None], on_step: Callable[[], None]) -> None:
        self._pool, self._work, self._on_step = pool, work, on_step
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._is_running = False
        self.error: BaseException | None = None
        self.done = 0
        """Items that were worked on to their end."""

    @property
    def waiting(self) -> int:
        """Items that are not done, the one in work included."""
        return len(self._items)

    @property
    def is_idle(self) -> bool:
        return not self._is_running

    def put(self, item: T) -> None:
        with self._lock:
            if self.error is not None:
                return
            self._items.append(item)
            if self._is_running:
                return
            self._is_running = True
        self._pool.submit(self._run)

    def _run(self) -> None:
        """A few items, then back to the end of the pool's queue: other uploads wait for a thread, too."""
        for _ in range(_TURN):
            try:
                self._work(self._items[0])
            except BaseException as error:  # noqa: BLE001 - the upload that waits for this lane raises it
                self.error = error
            with self._lock:
                if self.error is not None:
                    self._items.clear()
                else:
                    self._items.popleft()
                    self.done += 1
                self._is_running = bool(self._items)
                goes_on = self._is_running
            self._on_step()
            if not goes_on:
                return
        self._pool.submit(self._run)


class Line:
    """The lanes of one upload. Made, and used, on an event loop."""

    def __init__(self, writer: BlobWriter, pool: Pool) -> None:
        self._writer, self._pool = writer, pool
        self._loop = asyncio.get_running_loop()
        self._loop_waits = False
        self._stepped = asyncio.Event()
        self._stepped_in_thread = threading.Event()
        self._stop = threading.Event()
        self._unsynced_bytes = 0
        self._count = 0
        """Blocks that were put."""
        self._hash = Lane[Block](pool.work, writer.hash, self._on_step)
        self._disk = Lane[Block](pool.work, self._append, self._on_step)
        self._sync = Lane[None](pool.sync, lambda _: writer.sync(), self._on_step)

    def put(self, block: Block) -> None:
        """Hand a block over, which nobody changes before both lanes are done with it."""
        self._count += 1
        self._hash.put(block)
        self._disk.put(block)

    async def room(self) -> None:
        """Wait until another block may come. Raises what a lane raised."""
        await self._until(lambda: not self._is_full())

    async def drain(self) -> None:
        """Wait until everything that was put is done, or has failed. Raises what a lane raised."""
        await self._until(lambda: self._hash.is_idle and self._disk.is_idle and self._sync.is_idle)

    async def pull(self, wire: Wire) -> None:
        """Receive the rest of a body in a thread. When this task is cancelled, what was received has been put."""
        pulling = asyncio.ensure_future(self._loop.run_in_executor(self._pool.receive, self._pull, wire))
        try:
            await asyncio.shield(pulling)
        except asyncio.CancelledError:
            self._stop.set()
            await undisturbed(asyncio.wait([pulling]))
            raise
        self._raise()

    def _pull(self, wire: Wire) -> None:
        share = allowance(self._pool.uploads)
        size = max(1, min(RECEIVE_BYTES, share // 2))
        buffers = [bytearray(size) for _ in range(max(2, share // size))]
        before, left = self._count, wire.left_bytes
        with wire.connection as connection:
            connection.settimeout(
                _POLL_S
            )  # the descriptor stays non-blocking, as its duplicate in the loop needs it
            while left:
                number = self._count - before
                if not self._wait_until_done(self._count - len(buffers) + 1):
                    return
                view = memoryview(buffers[number % len(buffers)])[:left]
                filled, is_silent = self._fill(view, connection)
                if filled:
                    self.put(view[:filled])
                    left -= filled
                if filled < len(view):
                    if self._stop.is_set():
                        return
                    raise Stalled if is_silent else wire.broken()

    def _wait_until_done(self, count: int) -> bool:
        """Wait until both lanes are done with so many blocks, and not far behind with syncing; False to stop."""
        while min(self._hash.done, self._disk.done) < count or self._sync.waiting > 1:
            self._stepped_in_thread.wait(_POLL_S)
            self._stepped_in_thread.clear()
            if self._stop.is_set() or self._failed():
                return False
        return True

    def _fill(self, view: memoryview, connection: socket.socket) -> tuple[int, bool]:
        """Receive until `view` is full, the connection ends or is silent for long, or we are to stop: how many bytes,
        and whether the sender was silent."""
        filled, heard_s = 0, time.monotonic()
        while filled < len(view) and not self._stop.is_set():
            try:
                count = connection.recv_into(view[filled:])
            except TimeoutError:
                if time.monotonic() - heard_s > IDLE_S:
                    return filled, True
                continue  # look whether to stop
            except OSError:
                break
            if count == 0:
                break
            filled, heard_s = filled + count, time.monotonic()
        return filled, False

    async def _until(self, is_so: Callable[[], bool]) -> None:
        self._loop_waits = True
        while not is_so():
            self._stepped.clear()
            if not is_so():
                await self._stepped.wait()
        self._loop_waits = False
        self._raise()

    def _append(self, block: Block) -> None:
        self._writer.append(block)
        self._unsynced_bytes += len(block)
        if self._unsynced_bytes >= SYNC_EVERY_BYTES:
            self._unsynced_bytes = 0
            self._sync.put(None)

    def _is_full(self) -> bool:
        if self._failed():
            return False
        blocks = max(self._hash.waiting, self._disk.waiting)
        # A disk that is behind by one sync gets time: else the page cache fills, and its writing out stalls everybody.
        return blocks * BLOCK_BYTES > allowance(self._pool.uploads) or self._sync.waiting > 1

    def _failed(self) -> BaseException | None:
        return self._disk.error or self._hash.error or self._sync.error

    def _raise(self) -> None:
        error = self._failed()
        if error is not None:
            raise error

    def _on_step(self) -> None:
        self._stepped_in_thread.set()
        if self._loop_waits:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._stepped.set)


async def pour(body: AsyncIterable[bytes], writer: BlobWriter, pool: Pool, max_bytes: int) -> bool:
    """Bring `body` into `writer`; False as soon as it is longer than `max_bytes`.

    However this ends (also when `body` raises or the task is cancelled), what arrived until then has been given to the
    writer, and no thread works for it any more. Raises what the writer raised.
    """
    line = Line(writer, pool)
    pool.uploads += 1
    block = bytearray()
    left = max_bytes
    try:
        async for chunk in body:
            left -= len(chunk)
            if left < 0:
                return False
            block += chunk
            if len(block) >= BLOCK_BYTES:
                line.put(block)
                block = bytearray()
                wire = body.detach() if isinstance(body, Detachable) and pool.uploads <= DIRECT else None
                if wire is not None:
                    block = bytearray(wire.first)
                    if len(block) + wire.left_bytes > left:
                        wire.connection.close()
                        return False
                    line.put(block)
                    block = bytearray()
                    await line.pull(wire)
                    break
                await line.room()
    finally:
        pool.uploads -= 1
        if block:
            line.put(block)
        await undisturbed(line.drain())
    return True


async def undisturbed(work: Coroutine[None, None, T]) -> T:
    """Await `work` to its end also when this task is cancelled meanwhile, once or repeatedly; then pass that on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.done():
                break
            cancelled = error
        except BaseException:  # noqa: BLE001 - raised again below, from the task
            break
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()
