"""What is expected of the fleet is worked out once for all who look at the same time, and anew when it may differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cis490.clock import ManualClock
from training.fleet import expectations
from training.fleet.expectations import KEPT_S, Remembered
from training.fleet.ledger import MEMORY
from training.fleet.queue import JobQueue

JOBS = [{"name": f"gbt-{seed}", "model": "gbt", "mode": "realistic", "seed": seed} for seed in range(3)]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> Iterator[JobQueue]:
    queue = JobQueue(MEMORY, clock=clock)
    queue.sync_from_manifest(JOBS)
    yield queue
    queue.close()


def test_while_nothing_happens_everybody_is_told_the_same(queue: JobQueue, clock: ManualClock) -> None:
    remembered = Remembered()
    first = remembered.of_fleet(queue)
    clock.advance(KEPT_S / 4)
    assert remembered.of_fleet(queue) is first
    assert first == expectations.of_fleet(queue)


def test_after_any_event_it_is_made_anew(queue: JobQueue) -> None:
    remembered = Remembered()
    first = remembered.of_fleet(queue)
    queue.cancel(queue.list_jobs()[0].job_id)
    assert remembered.of_fleet(queue) is not first


def test_a_host_that_falls_silent_writes_no_event_so_it_is_never_old(
    queue: JobQueue, clock: ManualClock
) -> None:
    remembered = Remembered()
    first = remembered.of_fleet(queue)
    clock.advance(KEPT_S)
    assert remembered.of_fleet(queue) is not first
