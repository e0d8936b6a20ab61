"""kill -9 of any process at any moment, again and again, while jobs are trained, failed, cancelled, requeued."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time

import pytest

from tests.faults.conftest import StartFleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def test_an_undisturbed_fleet_finds_no_fault(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    fleet.add("one", "two")
    fleet.add("bad", exit=78)
    found = fleet.finish()
    statuses = {job["name"]: job["status"] for job in found.jobs}
    assert statuses == {"one": "completed", "two": "completed", "bad": "failed"}
    assert {ack.verb for ack in found.acks} == {"claim", "upload", "complete", "fail"}
    assert len(found.stamps) > 10


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments_lose_nothing(start_fleet: StartFleet, seed: int) -> None:
    fleet = start_fleet(hosts=("lab-a", "lab-b"))
    dice = random.Random(seed)
    names = [f"job-{n}" for n in range(8)]
    fleet.add(*names, size_bytes=200_000, child=1)
    fleet.add("bad", exit=78)
    for _ in range(12):
        time.sleep(dice.uniform(0.05, 0.8))  # the moment is what is tried here
        pids = [pid for pid, _ in fleet.processes()]
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(pids), signal.SIGKILL)
        verb = dice.choice(("cancel", "requeue", "reload", "nothing", "nothing"))
        with contextlib.suppress(Exception):  # an operator whose request is refused tries something else
            fleet.operate(verb, dice.choice(names) if verb != "reload" else "") if verb != "nothing" else None
        fleet.tend()
    for row in fleet.rows():
        if row["status"] == "cancelled":
            fleet.operate("requeue", row["name"])
    found = fleet.finish()
    assert {job["status"] for job in found.jobs if job["name"] != "bad"} == {"completed"}
