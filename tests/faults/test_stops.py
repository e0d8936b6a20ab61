"""SIGSTOP of each process for a part of a lease, a whole one and three, while two workers want the job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.factories.fault_fleet import Pace
from tests.faults.conftest import StartFleet

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

PACE = Pace(lease_s=2.0, heartbeat_s=0.2, sweep_s=0.2)
TRAINING_STEPS = 60
"""About 3 s: longer than a lease."""
LEASES = (0.5, 1.0, 3.0)


@pytest.mark.parametrize("who", ["receiver", "daemon", "guard", "trainer"])
@pytest.mark.parametrize("leases", LEASES)
def test_a_process_that_stops_for_a_while_does_no_harm(
    start_fleet: StartFleet, who: str, leases: float
) -> None:
    fleet = start_fleet(pace=PACE, hosts=("lab-a", "lab-b"))
    fleet.add("job", steps=TRAINING_STEPS, child=1)
    pids = fleet.processes_of(fleet.until_training("job"))
    if who not in pids:
        pytest.skip("the guard is no process of its own here")
    if who == "guard" and leases >= 1:
        fleet.unguarded.add("job")  # the promise holds while the guard runs
    os.kill(pids[who], signal.SIGSTOP)
    time.sleep(leases * PACE.lease_s)  # the length of the stop is what is tried
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[who], signal.SIGCONT)
    fleet.until("job", "completed")
    fleet.finish()


@pytest.mark.parametrize("leases", LEASES)
def test_a_whole_host_that_sleeps_does_no_harm(start_fleet: StartFleet, leases: float) -> None:
    """As a laptop whose lid is closed: daemon, guard and trainer at once."""
    fleet = start_fleet(pace=PACE, hosts=("lab-a", "lab-b"))
    fleet.add("job", steps=TRAINING_STEPS)
    pids = fleet.processes_of(fleet.until_training("job"))
    del pids["receiver"]
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    time.sleep(leases * PACE.lease_s)  # the length of the stop is what is tried
    # The guard first: it looks at the clock before its trainer gets to run. A real wake-up has no order; there the
    # promise is one second (`docs/faults.md`).
    for name in ("guard", "daemon", "trainer"):
        with contextlib.suppress(
            ProcessLookupError, KeyError
        ):  # woken daemons end trainers that lost their lease
            os.kill(pids[name], signal.SIGCONT)
            time.sleep(0.3)
    fleet.until("job", "completed")
    fleet.finish()


def test_a_worker_whose_clock_began_at_another_time_is_served_as_any_other(start_fleet: StartFleet) -> None:
    """Clocks for durations start with a machine's boot: no value of one may be compared with another machine's."""
    prefix = ["unshare", "-T", "--boottime", "864000", "--monotonic", "864000"]
    if os.geteuid() != 0 or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and time namespaces")
    fleet = start_fleet(pace=PACE, worker_prefix=prefix)
    fleet.add("job", steps=TRAINING_STEPS)
    fleet.until("job", "completed")
    found = fleet.finish()
    assert found.stamps[0].at_s > time.clock_gettime(time.CLOCK_BOOTTIME) + 800_000, (
        "the other clock was used"
    )
    (job,) = found.jobs
    assert job["attempts"] == 1
