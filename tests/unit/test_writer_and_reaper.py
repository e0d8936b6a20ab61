"""The one writer and the reaper's timer, without a server and without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, job, manifest
from training.fleet import reaper
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.writer import Writer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> Iterator[JobQueue]:
    opened = JobQueue(tmp_path / "q.db", clock=clock)
    opened.apply_manifest(manifest(*(job(f"j{index}") for index in range(20))))
    yield opened
    opened.close()


def test_many_requests_at_once_each_get_their_own_answer(queue: JobQueue) -> None:
    async def all_at_once() -> list[str]:
        writer = Writer(queue)
        try:
            calls = [writer.run(lambda host=f"h{n}": queue.claim(host, cpu_host())) for n in range(20)]  # type: ignore[misc]
            found = await asyncio.gather(*calls)
            return [claim.row.name for claim in found if claim.row is not None]
        finally:
            writer.close()

    names = asyncio.run(all_at_once())
    assert sorted(names) == sorted(f"j{index}" for index in range(20))


def test_waiting_requests_share_one_transaction(queue: JobQueue) -> None:
    begun = []
    queue._connection.set_trace_callback(lambda text: begun.append(text) if text == "BEGIN" else None)

    async def while_the_writer_is_busy() -> None:
        writer = Writer(queue)
        with queue._lock:  # the first request gets stuck here, the others gather behind it
            calls = [asyncio.ensure_future(writer.run(queue.counts)) for _ in range(10)]
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        writer.close()

    asyncio.run(while_the_writer_is_busy())
    queue._connection.set_trace_callback(None)
    assert len(begun) <= 2


def test_an_error_reaches_the_caller_and_the_writer_goes_on(queue: JobQueue) -> None:
    async def one_bad_one_good() -> object:
        writer = Writer(queue)
        with pytest.raises(ZeroDivisionError):
            await writer.run(lambda: 1 // 0)
        found = await writer.run(lambda: queue.claim("a", cpu_host()).row)
        writer.close()
        return found

    assert asyncio.run(one_bad_one_good()) is not None


def test_a_database_that_does_not_answer_is_unavailable_not_a_crash(queue: JobQueue) -> None:
    async def broken() -> None:
        writer = Writer(queue)
        with pytest.raises(QueueUnavailable):
            await writer.run(lambda: queue._connection.execute("SELECT * FROM nothing"))
        writer.close()

    asyncio.run(broken())


@pytest.mark.parametrize(
    ("elapsed_s", "away_s"), [(60.0, 0.0), (61.0, 0.0), (119.0, 0.0), (181.0, 121.0), (86_400.0, 86_340.0)]
)
def test_only_a_really_late_tick_gives_time_back(elapsed_s: float, away_s: float) -> None:
    assert reaper.overslept_s(elapsed_s, 60.0) == away_s


def _run_reaper(queue: JobQueue, clock: ManualClock, naps: list[float]) -> int:
    """The reaper's loop, in which each nap lasts as long as the list says; how often it told of a change."""
    told: list[None] = []

    async def sleep(seconds: float) -> None:
        if not naps:
            raise asyncio.CancelledError
        clock.advance(naps.pop(0))

    async def loop() -> None:
        writer = Writer(queue)
        try:
            with pytest.raises(asyncio.CancelledError):
                await reaper.run(
                    queue, writer, every_s=60.0, sleep=sleep, on_change=lambda: told.append(None)
                )
        finally:
            writer.close()

    asyncio.run(loop())
    return len(told)


def test_the_reaper_sweeps_without_anybody_claiming(queue: JobQueue, clock: ManualClock) -> None:
    queue.claim("a", cpu_host())
    assert _run_reaper(queue, clock, [60.0] * 10) == 1
    assert queue.counts() == {"pending": 20}


def test_a_receiver_that_slept_punishes_nobody(queue: JobQueue, clock: ManualClock) -> None:
    queue.claim("a", cpu_host())
    assert _run_reaper(queue, clock, [60.0, 50_000.0, 60.0]) == 0
    assert queue.counts()["claimed"] == 1


def test_the_reaper_survives_a_database_that_fails(
    queue: JobQueue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise QueueUnavailable("disk full")

    monkeypatch.setattr(queue, "sweep_stale", fail)
    assert _run_reaper(queue, clock, [60.0, 60.0]) == 0
