"""Jumps of the wall clock: a Pi without a battery clock, a wrong time server. No lease may notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, job
from training.fleet.queue import JobQueue

HOUR_S, DAY_S, YEAR_S = 3600.0, 86_400.0, 365.25 * 86_400.0
JUMPS = {
    "back an hour": -HOUR_S,
    "on an hour": HOUR_S,
    "on 400 days": 400 * DAY_S,
    "back 50 years": -50 * YEAR_S,
}
LEASE_S = 60.0


def story(path: Path, jump_s: float) -> list[Any]:
    """A scenario of claims, heartbeats, lapses and returns; the wall clock jumps before each step. What was seen."""
    clock = ManualClock()
    queue = JobQueue(path, clock=clock, stale_after_s=LEASE_S)
    seen: list[Any] = []

    def step(what: object, pass_s: float = 0.0) -> None:
        seen.append(what)
        clock.advance(pass_s)
        clock.step_wall(jump_s if len(seen) % 2 else -jump_s / 2)

    def claim(host: str) -> tuple[str, str | None] | None:
        found = queue.claim(host, cpu_host(hostname=host), with_token=True)
        if found.row is None or found.lease is None:
            return None
        tokens[found.row.name] = (host, found.lease.token)
        return found.row.name, found.row.claimed_by

    def beat(name: str) -> bool:
        host, token = tokens[name]
        return bool(queue.heartbeat(job(name).job_id, host, token=token))

    tokens: dict[str, tuple[str, str | None]] = {}
    names: Sequence[str] = ["a", "b", "c", "d"]
    queue.sync_from_manifest([job(name, priority=9 - n).to_dict() for n, name in enumerate(names)])
    step(claim("one"), 10)
    step(claim("two"), 10)
    step(queue.sweep_stale())
    step(beat("a"), LEASE_S - 12)
    step(queue.sweep_stale(), 6)
    step(queue.sweep_stale())  # b lapses: 64 s without a heartbeat, whatever the wall clock says
    step([row.status for row in queue.list_jobs()])
    step(beat("a"), 1)
    step(beat("b"), 1)  # it comes back before anybody else was given the job
    step(claim("three"), 1)
    step(queue.cancel(job("d").job_id).ok, LEASE_S + 1)
    step(queue.sweep_stale())
    step([(row.name, row.status, row.lapsed, row.attempts) for row in queue.list_jobs()])
    step([claim("four"), claim("five"), claim("six"), claim("seven")])
    step([beat(name) for name in sorted(tokens)])
    queue.close()
    return seen


@pytest.mark.parametrize("jump_s", JUMPS.values(), ids=[name.replace(" ", "-") for name in JUMPS])
def test_a_jump_of_the_wall_clock_loses_no_lease_and_extends_none(tmp_path: Path, jump_s: float) -> None:
    steady, jumping = story(tmp_path / "steady.db", 0.0), story(tmp_path / "jumping.db", jump_s)
    assert steady[:6] == [("a", "one"), ("b", "two"), 0, True, 0, 1], "the scenario has a lapse"
    assert jumping == steady
    print(f"{len(steady)} steps, {len(steady)} jumps")
