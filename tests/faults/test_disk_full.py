"""The disk of the receiver, or of a worker, fills up in each phase; then there is space again, and nobody restarts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.factories.fault_fleet import Fleet
from tests.factories.proxy import Exchange, Fault
from tests.factories.small_disk import MIB, RECEIVER_BYTES, SmallDisk, small_disk
from tests.faults.conftest import StartFleet
from training.fleet.client import FleetError

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="tmpfs and /proc"),
]

WORKER_BYTES = 8 * MIB
FULL_FOR_S = 3.0
PHASES = ("before the claim", "before the upload", "before the completion", "during a reload")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    with contextlib.ExitStack() as stack:

        def make(size_bytes: int) -> SmallDisk:
            try:
                return stack.enter_context(small_disk(tmp_path / "disk", size_bytes))
            except PermissionError as error:
                pytest.skip(str(error))

        yield make


def reach(fleet: Fleet, phase: str) -> None:
    """Bring the job to the moment before this phase, and hold it there until the disk is full."""
    if phase == "before the claim":
        fleet.proxy.judge = lambda one: Fault("refuse") if one.phase == "claim" else None
        fleet.add("job", size_bytes=200_000)
        return
    held = {"before the upload": "upload", "before the completion": "complete"}.get(phase, "")

    def judge(one: Exchange) -> Fault | None:
        return Fault("refuse") if one.phase == held else None

    fleet.proxy.judge = judge
    fleet.add("job", size_bytes=200_000, steps=20)
    if held:
        fleet.wait(lambda: any(one.fault for one in fleet.proxy.exchanges), f"the moment {phase}")
    else:
        fleet.until_training("job")


@pytest.mark.parametrize("leave_mib", [0, 40], ids=["to the last byte", "into the reserve"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_receiver_without_space_loses_nothing_and_goes_on_without_a_restart(
    start_fleet: StartFleet, make_disk: Callable[[int], SmallDisk], phase: str, leave_mib: int
) -> None:
    disk = make_disk(RECEIVER_BYTES)
    fleet = start_fleet(receiver_folder=disk.folder)
    pid = fleet.receiver.pid
    fleet.add("victim", steps=400)
    fleet.operate("cancel", "victim")
    fleet.operate("requeue", "victim")
    fleet.order("victim")
    fleet.until("victim", "completed")
    reach(fleet, phase)
    disk.fill(leave_mib * MIB)
    fleet.proxy.judge = lambda one: None
    fleet.add("extra")  # the operator can act all the while
    fleet.operate("cancel", "extra")
    time.sleep(FULL_FOR_S)  # workers run into the full disk
    refusals = {one.status for one in fleet.proxy.exchanges if one.status >= 500}
    disk.free()
    fleet.operate("requeue", "extra")
    fleet.until("job", "completed")
    fleet.until("extra", "completed")
    assert fleet.receiver.pid == pid
    assert refusals <= {503, 507}, refusals
    print(f"{phase}: refused with {sorted(refusals)} while {leave_mib} MiB were left")
    fleet.finish()


@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_without_space_loses_nothing(
    start_fleet: StartFleet, make_disk: Callable[[int], SmallDisk], phase: str
) -> None:
    disk = make_disk(WORKER_BYTES)
    fleet = start_fleet(state_root=disk.folder)
    for worker in fleet.workers.values():
        worker.may_end_with = (73,)  # "the state folder cannot be used": a service manager starts it again
    reach(fleet, phase)
    disk.fill()
    fleet.proxy.judge = lambda one: None
    end = time.monotonic() + FULL_FOR_S
    while time.monotonic() < end:
        fleet.tend()
        time.sleep(0.3)
    disk.free()
    with contextlib.suppress(FleetError):
        if fleet.row("job")["status"] == "failed":
            fleet.operate("requeue", "job")
    fleet.until("job", "completed")
    fleet.finish()
