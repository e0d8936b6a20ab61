"""From an event loop to a blob: in order, in bounded memory, and nothing that came is lost however it ends."""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from cis490.blobs import Block, NoSpace, pipeline
from cis490.blobs.pipeline import BLOCK_BYTES, Pool, Stalled, Wire, allowance, pour, undisturbed
from cis490.digest import Digest


class Memory:
    """A writer that keeps its bytes in memory; `gate` holds every append back until it is set."""

    def __init__(self) -> None:
        self.data, self.state = bytearray(), hashlib.sha256()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.syncs: list[int] = []

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def append(self, block: Block) -> None:
        assert self.gate.wait(timeout=30)
        if self.error is not None:
            raise self.error
        self.data += block

    def hash(self, block: Block) -> None:
        self.state.update(block)

    def write(self, block: Block) -> None:
        self.append(block)
        self.hash(block)

    def sync(self) -> None:
        self.syncs.append(len(self.data))

    def digest(self) -> Digest:
        return Digest(self.state.hexdigest())

    def commit(self, shelf: str) -> bool:
        raise AssertionError(f"a pipeline never commits; it was asked for shelf {shelf}")

    def resume(self) -> int:
        return len(self.data)

    def suspend(self) -> None: ...
    def discard(self) -> None: ...


async def blocks(count: int, size: int = BLOCK_BYTES, taken: list[int] | None = None) -> AsyncIterator[bytes]:
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield bytes([number % 251]) * size


@pytest.mark.parametrize(
    ("count", "size"), [(0, 1), (1, 1), (7, 1000), (3, BLOCK_BYTES), (20, 3 * BLOCK_BYTES // 2)]
)
def test_a_body_arrives_in_order_and_hashed(count: int, size: int) -> None:
    writer = Memory()
    assert asyncio.run(pour(blocks(count, size), writer, Pool(), 1 << 30))
    assert bytes(writer.data) == b"".join(bytes([number % 251]) * size for number in range(count))
    assert writer.digest() == hashlib.sha256(writer.data).hexdigest()


def test_a_slow_disk_holds_the_sender_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, whatever the sender could send."""
    writer, taken = Memory(), list[int]()
    writer.gate.clear()

    async def scenario() -> None:
        pouring = asyncio.ensure_future(pour(blocks(100, taken=taken), writer, Pool(), 1 << 30))
        while len(taken) * BLOCK_BYTES <= allowance(1):
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(taken) * BLOCK_BYTES <= allowance(1) + 2 * BLOCK_BYTES
        writer.gate.set()
        assert await pouring

    asyncio.run(scenario())
    assert len(writer.data) == 100 * BLOCK_BYTES


@pytest.mark.parametrize("uploads", [0, 1, 2, 50, 10_000])
def test_what_waits_in_memory_is_bounded_for_each_and_for_all(uploads: int) -> None:
    each = allowance(uploads)
    assert 1 <= each <= pipeline.MAX_WAITING_BYTES
    assert each * uploads <= max(pipeline.TOTAL_WAITING_BYTES, uploads)


def test_an_error_of_the_disk_ends_the_upload_at_once() -> None:
    writer, taken = Memory(), list[int]()
    writer.error = NoSpace("full")
    with pytest.raises(NoSpace):
        asyncio.run(pour(blocks(1000, taken=taken), writer, Pool(), 1 << 40))
    assert len(taken) < 1000


def test_a_body_that_is_too_long_is_not_read_further() -> None:
    taken = list[int]()
    assert not asyncio.run(pour(blocks(1000, taken=taken), Memory(), Pool(), 3 * BLOCK_BYTES))
    assert len(taken) == 4


def test_a_cancelled_upload_has_written_what_came() -> None:
    writer = Memory()

    async def endless() -> AsyncIterator[bytes]:
        yield b"came"
        await asyncio.Event().wait()

    async def scenario() -> None:
        pouring = asyncio.ensure_future(pour(endless(), writer, Pool(), 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring

    asyncio.run(scenario())
    assert (bytes(writer.data), writer.digest()) == (b"came", hashlib.sha256(b"came").hexdigest())


def test_a_long_upload_is_synced_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SYNC_EVERY_BYTES", 4 * BLOCK_BYTES)
    writer = Memory()
    asyncio.run(pour(blocks(17), writer, Pool(), 1 << 30))
    assert len(writer.syncs) == 4


def test_fifty_uploads_share_a_few_threads() -> None:
    async def scenario() -> list[Memory]:
        pool, writers = Pool(work_threads=2), [Memory() for _ in range(50)]
        await asyncio.gather(*(pour(blocks(5), writer, pool, 1 << 30) for writer in writers))
        return writers

    assert {len(writer.data) for writer in asyncio.run(scenario())} == {5 * BLOCK_BYTES}


def test_undisturbed_work_ends_although_its_task_is_cancelled_again_and_again() -> None:
    async def scenario() -> None:
        done, go_on = list[str](), asyncio.Event()

        async def work() -> None:
            await go_on.wait()
            done.append("done")

        task = asyncio.ensure_future(undisturbed(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["done"]

    asyncio.run(scenario())


class Detached:
    """A large body: one block by the event loop, then `left_bytes` that a thread receives from a socket."""

    def __init__(self, left_bytes: int) -> None:
        self.near, self.far = socket.socketpair()
        self.left_bytes = left_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield bytes(BLOCK_BYTES)

    def detach(self) -> Wire:
        return Wire(b"first", self.near, self.left_bytes, ConnectionAbortedError)


def test_a_thread_receives_the_rest_of_a_body_and_not_a_byte_more() -> None:
    body, writer = Detached(4), Memory()
    after = body.near.dup()
    body.far.sendall(b"restGET / HTTP/1.1")
    assert asyncio.run(pour(body, writer, Pool(), 1 << 30))
    assert bytes(writer.data[BLOCK_BYTES:]) == b"firstrest"
    assert after.recv(100) == b"GET / HTTP/1.1"
    after.close()
    body.far.close()


def test_a_sender_that_falls_silent_does_not_hold_its_thread_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "IDLE_S", 0.1)
    body, writer, pool = Detached(1 << 20), Memory(), Pool()
    body.far.sendall(b"came")
    with pytest.raises(Stalled, match=r"no further byte of the body came for 0\.1 s"):
        asyncio.run(pour(body, writer, pool, 1 << 30))
    assert (bytes(writer.data[BLOCK_BYTES:]), pool.uploads) == (b"firstcame", 0)
    assert body.near.fileno() == -1, "the connection was left open"
    body.far.close()


def test_a_cancelled_upload_has_written_what_its_thread_received() -> None:
    body, writer = Detached(1 << 20), Memory()
    body.far.sendall(b"came")
    waiting = body.near.dup()

    async def scenario() -> None:
        pouring = asyncio.ensure_future(pour(body, writer, Pool(), 1 << 30))
        while select.select([waiting], [], [], 0)[0]:
            await asyncio.sleep(0.01)
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring

    asyncio.run(scenario())
    assert bytes(writer.data[BLOCK_BYTES:]) == b"firstcame"
    waiting.close()
    body.far.close()
