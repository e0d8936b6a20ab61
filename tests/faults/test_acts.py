"""The acts that the failpoint tests play, each once without a kill: what they try must hold by itself first."""

from __future__ import annotations

import sys

import pytest

from tests.factories.fault_acts import ACTS, Act
from tests.faults.conftest import StartFleet

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="kill -9 and /proc"),
]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_an_act_ends_well_by_itself(start_fleet: StartFleet, act: Act) -> None:
    fleet = start_fleet()
    act(fleet, "job")
    fleet.finish()
