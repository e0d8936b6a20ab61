"""However often a listener is cut off in a storm of events: by asking again it gets each event once, in order."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.factories.fleet import job_id
from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import event_bus
from training.fleet.client import FleetClient, Unreachable

MANIFEST = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
LAST = "the last one"


def _storm(receiver: LiveReceiver, dice: random.Random, transactions: int) -> None:
    """Transactions of one to many events, some of them rolled back, between ephemeral ones."""

    def audits(how_many: int, fails: bool) -> None:
        for _ in range(how_many):
            receiver.queue.audit_add("test", "storm", job_id("x"), "", "", 0)
        if fails:
            raise LookupError("taken back")

    for _ in range(transactions):
        size = dice.choice((1, 1, 2, 5, 40))
        receiver.queue.run_batch(
            [lambda size=size: audits(size, False), lambda: audits(3, dice.random() < 0.3)]  # type: ignore[misc]
        )
        receiver.coordinator.events.publish_threadsafe("progress", {"step": size})
    receiver.queue.audit_add("test", LAST, job_id("x"), "", "", 0)
    receiver.queue.on_audit()


def _listen(receiver: LiveReceiver, dice: random.Random, seen: list[int]) -> None:
    """Hang up at random, ask again from the last number, until the last event has come."""
    client = FleetClient(receiver.url)
    after = 0
    while True:
        stream = client.events(after)
        try:
            for left, event in zip(range(dice.choice((1, 2, 5, 30, 500)), 0, -1), stream, strict=False):
                assert event.kind != "reset"
                if event.kind == "job" and event.seq is not None:
                    seen.append(event.seq)
                    after = event.seq
                    if event.data["event"] == LAST:
                        return
                del left
        except Unreachable:
            continue
        finally:
            stream.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_nothing_is_missed_and_nothing_comes_twice(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_bus, "PAGE", 7)
    monkeypatch.setattr("training.fleet.event_stream.PAGE", 7)
    seen: list[list[int]] = [[] for _ in range(6)]
    with live_receiver(tmp_path, MANIFEST) as receiver:
        listeners = [
            threading.Thread(
                target=_listen, args=(receiver, random.Random(f"{seed}/{k}"), found), daemon=True
            )
            for k, found in enumerate(seen)
        ]
        for thread in listeners:
            thread.start()
        _storm(receiver, random.Random(seed), 100)
        for thread in listeners:
            thread.join(30)
        rows = receiver.queue.read("audit_after", after=0, limit=100_000)
        expected = [row["seq"] for row in rows]
    assert len(expected) > 200
    assert [found == expected for found in seen] == [True] * len(seen)
