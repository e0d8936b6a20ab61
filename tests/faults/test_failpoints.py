"""kill -9 at every failpoint of the source, once, and once again in whoever takes over.

The points are read off the source, so that none is forgotten; one that no scenario passes fails its test. There are two
tickets: the process that was started after the first kill is armed as well, and dies at the same place in its recovery,
or at the next passage if its recovery does not lead there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.episodes.dataset import pack
from tests.factories.episodes import write_dataset
from tests.factories.fault_acts import play
from tests.factories.small_disk import RECEIVER_BYTES, SmallDisk, small_disk
from tests.faults.conftest import StartFleet
from tools import failpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill -9 and /proc")

POINTS = failpoints.found()
REAL_TRAINER = "training.trainer.run"
SLOW = ("ballast", "reaper", "receiver", "trainer")


def area_of(point: str) -> str:
    return point.partition(".")[0]


def sample() -> list[str]:
    """The quick suite's: the last point of each area that takes a few seconds only."""
    return [point for area, point in {area_of(point): point for point in POINTS}.items() if area not in SLOW]


def strike(start_fleet: StartFleet, folder: Path, point: str, tickets: int) -> None:
    """Run acts until the point has killed as often as there are tickets; then everything must come to its end."""
    with contextlib.ExitStack() as stack:
        options: dict[str, object] = {}
        if area_of(point) == "ballast":
            disk = stack.enter_context(disk_of(folder))
            options = {"receiver_folder": disk.folder, "disk": disk}
        _strike(start_fleet, folder, point, tickets, options)


@contextlib.contextmanager
def disk_of(folder: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(folder / "disk", RECEIVER_BYTES) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


def _strike(
    start_fleet: StartFleet, folder: Path, point: str, tickets: int, options: dict[str, object]
) -> None:
    if area_of(point) == "trainer":
        episodes = write_dataset(folder / "episodes")
        packed = folder / "data.tar.zst"
        options = {"trainer": REAL_TRAINER, "dataset": (pack(episodes, packed), packed)}
    fleet = start_fleet(failpoint=point, tickets=tickets, **options)
    played = play(fleet, point)
    left = fleet.tickets_left
    fleet.disarm()
    fleet.finish()
    print(f"{point}: {tickets - left} kills in {', '.join(played)}")
    assert left == 0, f"{point} was passed {tickets - left} of {tickets} times in {played}"


@pytest.mark.parametrize("point", sample())
def test_nothing_is_lost_by_a_kill_in_an_area(start_fleet: StartFleet, tmp_path: Path, point: str) -> None:
    strike(start_fleet, tmp_path, point, 1)


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_by_two_kills_at(start_fleet: StartFleet, tmp_path: Path, point: str) -> None:
    strike(start_fleet, tmp_path, point, 2)
