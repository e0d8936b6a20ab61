"""A sign of life is given while every part moves, and by none that merely exists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from cis490.sd_notify import Systemd
from training.fleet.ledger import QueueUnavailable
from training.fleet.stopping import Stop
from training.fleet.watchdog import MAIN_SILENT_S, WorkerWatch, keep_receiver


@dataclass(frozen=True, slots=True)
class Told(Systemd):
    """A service manager that remembers."""

    watchdog_s: float | None = 0.15
    heard: list[str] = field(default_factory=list)

    def _send(self, state: str, status: str) -> None:
        self.heard.append(state)


class _Over(Exception):
    pass


async def fine() -> None:
    return None


async def hung() -> None:
    await asyncio.Event().wait()


async def refused() -> None:
    raise QueueUnavailable("the disk is full")


def rounds(manager: Systemd, writer: Callable[[], Awaitable[None]], ages_s: list[float]) -> None:
    """As many rounds as there are ages of the reaper's last tick."""
    left = list(ages_s)

    async def sleep(seconds: float) -> None:
        assert seconds == manager.every_s
        if not left:
            raise _Over

    async def run() -> None:
        await keep_receiver(
            manager, writer_turn=writer, reaper_age_s=lambda: left.pop(0), reaper_limit_s=180.0, sleep=sleep
        )

    with pytest.raises(_Over):
        asyncio.run(run())


def test_the_receiver_lives_while_loop_writer_and_reaper_move() -> None:
    manager = Told()
    rounds(manager, fine, [0.0, 60.0, 179.0])
    assert manager.heard == ["WATCHDOG=1"] * 3


def test_a_writer_that_fails_still_lives_for_a_restart_would_not_mend_a_full_disk() -> None:
    manager = Told()
    rounds(manager, refused, [0.0, 0.0])
    assert manager.heard == ["WATCHDOG=1"] * 2


def test_a_writer_that_hangs_is_no_life_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    manager = Told()
    with caplog.at_level(logging.ERROR):
        rounds(manager, hung, [0.0, 0.0])
    assert manager.heard == []
    assert [record.getMessage() for record in caplog.records] == ["receiver.stalled"]


def test_a_reaper_that_hangs_is_no_life_until_it_comes_round_again() -> None:
    manager = Told()
    rounds(manager, fine, [0.0, 181.0, 0.0])
    assert manager.heard == ["WATCHDOG=1"] * 2


def test_a_worker_lives_while_its_main_thread_looks_whether_it_shall_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    stop, manager = Stop(lambda: now[0]), Told()
    watch = WorkerWatch(manager, stop.unseen_s)
    watch.look()
    now[0] += MAIN_SILENT_S
    watch.look()
    now[0] += 1.0
    with caplog.at_level(logging.ERROR):
        watch.look()
        watch.look()
    assert manager.heard == ["WATCHDOG=1"] * 2
    assert [record.getMessage() for record in caplog.records] == ["worker.stalled"]
    assert not stop.requested
    watch.look()
    assert manager.heard == ["WATCHDOG=1"] * 3


def test_a_worker_tells_when_it_is_ready_and_when_it_ends_also_where_nobody_watches() -> None:
    manager = Told(watchdog_s=None)
    with WorkerWatch(manager, lambda: 0.0):
        assert manager.heard == ["READY=1"]
    assert manager.heard == ["READY=1", "STOPPING=1"]


def test_the_threads_signs_of_life_come_by_themselves() -> None:
    came = asyncio.Queue[str]()

    async def run() -> None:
        loop = asyncio.get_running_loop()

        @dataclass(frozen=True, slots=True)
        class Heard(Systemd):
            def _send(self, state: str, status: str) -> None:
                loop.call_soon_threadsafe(came.put_nowait, state)

        with WorkerWatch(Heard(watchdog_s=0.003), lambda: 0.0):
            assert await came.get() == "READY=1"
            assert await came.get() == "WATCHDOG=1"
        while await came.get() != "STOPPING=1":
            pass

    asyncio.run(asyncio.wait_for(run(), 30.0))
