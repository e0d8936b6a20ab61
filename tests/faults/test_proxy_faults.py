"""Every network fault in every phase of the protocol, made by a proxy between real workers and a real receiver."""

from __future__ import annotations

import shutil
import sys
from typing import get_args

import pytest

from tests.factories.fault_fleet import Fleet, Pace
from tests.factories.proxy import Exchange, Fault, Kind
from tests.faults.conftest import StartFleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

PHASES = ("claim", "long-poll", "heartbeat", "upload", "complete", "dataset")
PACE = Pace(lease_s=2.0, heartbeat_s=0.2)
BUNDLE_BYTES = 200_000
STRIKES = 2
FAULTS: dict[Kind, Fault] = {
    "refuse": Fault("refuse"),
    "lose-request": Fault("lose-request"),
    "lose-answer": Fault("lose-answer"),
    "delay": Fault("delay", seconds=0.5 * PACE.lease_s),
    "pause": Fault("pause", at=BUNDLE_BYTES // 2, seconds=1.5 * PACE.lease_s),
    "cut-request": Fault("cut-request", at=BUNDLE_BYTES // 3),
    "cut-answer": Fault("cut-answer", at=10),
    "duplicate": Fault("duplicate"),
}


def breaks(fleet: Fleet, phase: str, fault: Fault) -> None:
    """From now on the first requests of this phase meet the fault."""
    left = [fault] * STRIKES

    def judge(exchange: Exchange) -> Fault | None:
        wanted = "claim" if phase == "long-poll" else phase
        return left.pop() if left and exchange.phase == wanted else None

    fleet.proxy.judge = judge


def strikes(fleet: Fleet) -> int:
    return len(fleet.proxy.struck())


def try_phase(fleet: Fleet, phase: str, fault: Fault) -> None:
    """One or two jobs whose requests of this phase meet the fault; they end all the same."""
    before = strikes(fleet)
    if phase == "dataset":
        for host in fleet.hosts:
            shutil.rmtree(fleet.state(host) / "datasets", ignore_errors=True)
            (fleet.state(host) / "datasets").mkdir()
    breaks(fleet, phase, fault)
    first, second = f"{phase}-1", f"{phase}-2"
    orders = {"size_bytes": BUNDLE_BYTES, "steps": 12}
    if phase == "long-poll":  # the waiting claims were sent before; the ones after this job meet the fault
        fleet.add(first, **orders)
        fleet.wait(lambda: strikes(fleet) > before, f"a {fault.kind} of a waiting claim")
        fleet.add(second, **orders)
    else:
        fleet.add(first, second, **orders)
    fleet.until(first, "completed")
    fleet.until(second, "completed")
    assert strikes(fleet) > before, f"no request of the phase {phase} was met by {fault.kind}"


def test_a_lost_answer_to_a_completion_does_no_harm(start_fleet: StartFleet) -> None:
    fleet = start_fleet(pace=PACE)
    try_phase(fleet, "complete", FAULTS["lose-answer"])
    fleet.finish()


@pytest.mark.faults
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_each_phase_does_no_harm(start_fleet: StartFleet, kind: Kind) -> None:
    fleet = start_fleet(pace=PACE, hosts=("lab-a", "lab-b"))
    for phase in PHASES:
        if not (
            kind == "cut-request" and phase != "upload"
        ):  # the others are too short to be cut in their body
            try_phase(fleet, phase, FAULTS[kind])
    fleet.finish()


def test_every_kind_of_fault_is_tried() -> None:
    assert set(FAULTS) == set(get_args(Kind))


@pytest.mark.faults
def test_a_receiver_that_is_away_for_many_leases_ends_no_training(start_fleet: StartFleet) -> None:
    """The worker keeps its finished result through the outage, and the lease lapses meanwhile."""
    fleet = start_fleet(pace=PACE)
    fleet.add("long", steps=20)
    fleet.until_training("long")
    fleet.proxy.judge = lambda one: Fault("refuse")
    fleet.until("long", "pending")
    fleet.wait(lambda: strikes(fleet) > 15, "a long outage")
    fleet.proxy.judge = lambda one: None
    fleet.until("long", "completed")
    found = fleet.finish()
    (job,) = found.jobs
    assert [row["outcome"] for row in job["attempts_log"]] == ["completed"], (
        "the training was not thrown away"
    )
