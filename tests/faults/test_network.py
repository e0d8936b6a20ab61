"""The worker in a network of its own whose cable fails: dropped, refused, one-way, lossy and slow. Root only."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import netns
from tests.factories.fault_fleet import Fleet, Pace
from tests.faults.conftest import StartFleet

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux"),
]

PACE = Pace(lease_s=2.0, heartbeat_s=0.2)
BUNDLE_BYTES = 300_000
RULES = {
    "drop all": ("input drop", "output drop"),
    "reject with reset": ("output meta l4proto tcp reject with tcp reset",),
    "drop what the worker sends": ("output drop",),
    "drop what the receiver answers": ("input drop",),
    "lose a fifth of all packets": (
        "input numgen random mod 100 < 20 drop",
        "output numgen random mod 100 < 20 drop",
    ),
}
PHASES = ("claim", "training", "upload")


@pytest.fixture
def cable() -> Iterator[netns.Cable]:
    reason = netns.why_not()
    if reason is not None:
        pytest.skip(reason)
    with netns.Cable() as made:
        yield made


@pytest.fixture
def fleet(start_fleet: StartFleet, cable: netns.Cable) -> Iterator[Fleet]:
    """The proxy stands in the receiver's network, the receiver listens on a Unix socket, the worker is far away."""
    with tempfile.TemporaryDirectory(prefix="cis490-") as short:
        yield start_fleet(
            pace=PACE,
            listener=cable.listener(),
            socket_path=Path(short) / "r.sock",
            worker_prefix=cable.prefix(),
        )


def wait_for_phase(fleet: Fleet, phase: str) -> None:
    """Until the only worker is waiting for a job, training it, or in the middle of an upload."""
    if phase == "training":
        fleet.until_training("job")
    elif phase == "upload":
        fleet.wait(lambda: any(one.phase == "upload" for one in fleet.proxy.exchanges), "an upload")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("rules", RULES.values(), ids=[name.replace(" ", "-") for name in RULES])
def test_a_broken_cable_loses_nothing(
    fleet: Fleet, cable: netns.Cable, rules: tuple[str, ...], phase: str
) -> None:
    if phase == "upload":
        cable.limit("2mbit")  # else it is over before the cable breaks
    if phase != "claim":
        fleet.add("job", steps=20, size_bytes=BUNDLE_BYTES)
    wait_for_phase(fleet, phase)
    cable.rules(*rules)
    if phase == "claim":
        fleet.add("job", steps=20, size_bytes=BUNDLE_BYTES)
    time.sleep(1.2 * PACE.lease_s)  # an outage has a length
    cable.rules()
    if phase == "upload":
        cable.unlimit()
    fleet.until("job", "completed")
    fleet.finish()


def test_an_upload_over_a_slow_line_outlives_many_leases(fleet: Fleet, cable: netns.Cable) -> None:
    cable.limit("400kbit")
    fleet.add("job", size_bytes=BUNDLE_BYTES)
    fleet.until("job", "completed")
    found = fleet.finish()
    (job,) = found.jobs
    assert [row["outcome"] for row in job["attempts_log"]] == ["completed"]
