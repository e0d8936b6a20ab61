"""The event bus alone: order, bounds, and what is told to whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from training.fleet import event_bus
from training.fleet.event_bus import EventBus, Subscription


class Trail:
    """An audit trail in memory; `add` stands for a commit."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.reads = 0
        self.broken = False
        self.bus = EventBus(self.read, lambda: len(self.rows))

    def read(self, after: int, limit: int) -> list[dict[str, Any]]:
        self.reads += 1
        if self.broken:
            self.broken = False
            raise OSError("the disk does not answer")
        return self.rows[after : after + limit]

    def add(self, n: int = 1, kind: str = "job") -> None:
        self.rows += [{"seq": len(self.rows) + 1 + k, "kind": kind} for k in range(n)]
        self.bus.committed()


def run(test: Callable[[Trail], Coroutine[Any, Any, None]]) -> Trail:
    trail = Trail()
    asyncio.run(test(trail))
    return trail


async def take(listener: Subscription, n: int) -> list[int | None]:
    found: list[int | None] = []
    while len(found) < n:
        news = await listener.take(10.0)
        assert news, "nothing came"
        found += [item.seq for item in news]
    return found


def test_everybody_gets_what_is_committed_after_he_listens_in_order() -> None:
    async def test(trail: Trail) -> None:
        trail.add(3)
        first = await trail.bus.subscribe()
        trail.add(2)
        assert await take(first, 2) == [4, 5]
        second = await trail.bus.subscribe()
        trail.add(1)
        assert (await take(first, 1), await take(second, 1)) == ([6], [6])
        assert (first.start, second.start) == (3, 5)

    run(test)


def test_more_rows_than_one_page_are_told_by_one_commit() -> None:
    async def test(trail: Trail) -> None:
        listener = await trail.bus.subscribe()
        trail.add(event_bus.PAGE + 7)
        assert await take(listener, event_bus.PAGE + 7) == list(range(1, event_bus.PAGE + 8))

    run(test)


def test_a_commit_while_listening_begins_is_not_lost() -> None:
    """Between the question for the newest row and its answer the first listener is there, but has no place yet."""

    async def test(trail: Trail) -> None:
        last = trail.bus._last

        def slowly() -> int:
            found = last()
            trail.add(1)
            return found

        trail.bus._last = slowly
        listener = await trail.bus.subscribe()
        assert (listener.start, await take(listener, 1)) == (0, [1])

    run(test)


def test_without_a_listener_nothing_is_read() -> None:
    async def test(trail: Trail) -> None:
        trail.add(5)
        listener = await trail.bus.subscribe()
        listener.close()
        trail.add(5)
        trail.bus.publish("progress", {})
        await asyncio.sleep(0)
        assert (trail.reads, len(trail.bus), trail.bus.wanted) == (0, 0, False)

    run(test)


def test_who_listens_again_is_not_told_what_happened_meanwhile() -> None:
    async def test(trail: Trail) -> None:
        listener = await trail.bus.subscribe()
        trail.add(1)
        assert await take(listener, 1) == [1]
        listener.close()
        trail.add(4)
        again = await trail.bus.subscribe()
        trail.add(1)
        assert await take(again, 1) == [6]

    run(test)


def test_who_does_not_keep_up_gets_no_more_and_holds_nothing() -> None:
    async def test(trail: Trail) -> None:
        slow = await trail.bus.subscribe(most=10)
        quick = await trail.bus.subscribe()
        trail.add(11)
        assert await take(quick, 11) == list(range(1, 12))
        assert slow.behind
        assert await slow.take(0.0) == []
        trail.add(1)
        assert await take(quick, 1) == [12]
        assert await slow.take(0.0) == []

    run(test)


def test_ephemeral_events_give_way_to_those_that_are_kept() -> None:
    async def test(trail: Trail) -> None:
        slow = await trail.bus.subscribe(most=10)
        for step in range(100):
            trail.bus.publish("progress", {"step": step})
        trail.add(5)
        assert await take(slow, 10) == [None] * 5 + [1, 2, 3, 4, 5]
        assert not slow.behind

    run(test)


def test_a_filter_keeps_the_rest_out_of_the_queue() -> None:
    async def test(trail: Trail) -> None:
        hosts = await trail.bus.subscribe(lambda item: item.kind == "host", most=2)
        trail.add(50)
        trail.add(1, kind="host")
        assert await take(hosts, 1) == [51]

    run(test)


def test_a_trail_that_cannot_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_bus, "AFTER_FAILURE_S", 0.0)

    async def test(trail: Trail) -> None:
        listener = await trail.bus.subscribe()
        trail.broken = True
        trail.add(2)
        assert await take(listener, 2) == [1, 2]

    assert run(test).reads == 2


def test_the_end_of_the_receiver_is_the_end_of_everybody() -> None:
    async def test(trail: Trail) -> None:
        before = await trail.bus.subscribe()
        trail.bus.close()
        after = await trail.bus.subscribe()
        assert (await before.take(), await after.take()) == ([], [])
        assert before.over
        assert after.over

    run(test)


def test_another_thread_may_publish_and_close() -> None:
    async def test(trail: Trail) -> None:
        listener = await trail.bus.subscribe()
        await asyncio.to_thread(trail.bus.publish_threadsafe, "log", {"next_offset": 7})
        assert [item.kind for item in await listener.take(10.0)] == ["log"]
        await asyncio.to_thread(trail.bus.close_threadsafe)
        assert await listener.take() == []

    trail = run(test)
    trail.bus.committed()  # the loop is closed: nobody is told, and nobody stumbles
    trail.bus.publish_threadsafe("log", {})


def test_an_event_travels_as_one_line_of_json_with_its_number() -> None:
    frame = event_bus.Event("job", {"text": "a\nb\r"}, 7).frame
    assert frame == b'id: 7\nevent: job\ndata: {"text":"a\\nb\\r"}\n\n'
    assert json.loads(event_bus.Event("log", {"x": 1}).frame.split(b"data: ")[1]) == {"x": 1}
