"""`why` and claim never disagree: a host gets a job exactly when some waiting job has no blocker for it.

One fleet and a few disturbances; whole histories are in test_fleet_machine.py.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.clock import ManualClock
from tests.property.fleets import HOSTS, capabilities, fleets
from training.fleet import hosts, steering
from training.fleet.queue import JobQueue
from training.fleet.types import Capability, Manifest


@settings(max_examples=150, deadline=None)
@given(data=st.data(), first=fleets(), second=fleets(), reported=st.tuples(*[capabilities()] * len(HOSTS)))
def test_a_claim_is_refused_exactly_when_why_lists_a_blocker(
    data: st.DataObject, first: Manifest, second: Manifest, reported: tuple[Capability, ...]
) -> None:
    clock = ManualClock()
    queue = JobQueue(":memory:", clock=clock, stale_after_s=100.0, live_s=90.0)
    queue.apply_manifest(first, trainer_digest="t" * 64)
    try:
        for _ in range(data.draw(st.integers(1, 8))):
            _disturb(data, queue, clock, second)
            host = data.draw(st.sampled_from(HOSTS))
            _report(queue, host, reported[HOSTS.index(host)])
            explained = [queue.explain(row.job_id) for row in queue.list_jobs()]
            free = [
                found["job_id"]
                for found in explained
                if found is not None
                and all(check["ok"] for check in found["job_checks"])
                and any(entry["host"] == host and entry["eligible"] for entry in found["hosts"])
            ]
            order = [row.job_id for row in queue.list_jobs() if row.job_id in free]
            got = queue.claim(host, reported[HOSTS.index(host)])
            assert (got.row.job_id if got.row else None) == (order[0] if order else None)
    finally:
        queue.close()


def _report(queue: JobQueue, host: str, capability: Capability) -> None:
    """What a claim does first: the host is seen, with what it can do."""
    with queue.atomic():
        queue.saw(host, capability)


def _disturb(data: st.DataObject, queue: JobQueue, clock: ManualClock, other: Manifest) -> None:
    kind = data.draw(
        st.sampled_from(
            [
                "nothing",
                "time",
                "reload",
                "fail",
                "oom",
                "release",
                "sweep",
                "cancel",
                "pause fleet",
                "resume fleet",
                "pause job",
                "resume job",
                "resume host",
            ]
        )
    )
    leases = queue.leases.all()
    if kind == "time":
        clock.advance(data.draw(st.sampled_from([1.0, 61.0, 95.0])))
    elif kind == "reload":
        queue.apply_manifest(other, trainer_digest="t" * 64)
    elif kind == "sweep":
        clock.advance(101)
        queue.sweep_stale()
    elif kind == "cancel":
        queue.cancel(queue.list_jobs()[0].job_id)
    elif kind.startswith(("pause", "resume")):
        _steer(data, queue, kind)
    elif leases and kind == "release":
        queue.release(leases[0].job_id, leases[0].host)
    elif leases and kind in ("fail", "oom"):
        queue.fail(
            leases[0].job_id, leases[0].host, error="x", fail_class="oom" if kind == "oom" else "program"
        )


def _steer(data: st.DataObject, queue: JobQueue, kind: str) -> None:
    if kind == "pause fleet":
        steering.pause_fleet(queue, "x")
    elif kind == "resume fleet":
        steering.resume_fleet(queue)
    elif kind == "resume host":
        hosts.resume(queue, data.draw(st.sampled_from(HOSTS)))
    else:
        one = data.draw(st.sampled_from(queue.list_jobs())).job_id
        steering.pause_job(queue, one, "x") if kind == "pause job" else steering.resume_job(queue, one)
