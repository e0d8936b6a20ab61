"""Power cuts at every write and sync of the database, under the real queue.

Not a real disk: `power_disk.py` says what it can and cannot show, docs/design/power-loss.md what was found.
More images: CIS490_POWER_IMAGES=20000, or `pytest -m slow tests/faults/test_power_database.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator

import pytest

from cis490.clock import ManualClock
from cis490.database import sqlite
from tests.faults.power_disk import Disk, Machine
from tests.faults.power_scenario import PATH, Day, Recording, faults_of
from training.fleet.queue import JobQueue, QueueUnavailable

QUICK_IMAGES = int(os.environ.get("CIS490_POWER_IMAGES", "2000"))
LONG_IMAGES = 40_000
BATCHES = 40
IMAGES_OF_A_DAY = 500
IMAGES_OF_A_MOMENT = (0.0, 0.4, 0.7)
"""How probably each unsynced write is there: nothing is; or any part."""


def look(machine: Machine, image: dict[str, bytes], recording: Recording, acked: int) -> list[str]:
    """Open what a cut left, with the real migrations and the real queue; what is wrong with it."""
    machine.boot(Disk(image))
    later = (f"later-{number}" for number in itertools.count())
    try:
        queue = JobQueue(PATH, clock=ManualClock(), new_token=lambda: next(later))
    except (sqlite.DatabaseError, sqlite3.Error) as error:
        return [f"corrupt: {error}"]
    try:
        return list(faults_of(queue, recording, acked))
    except (QueueUnavailable, sqlite3.Error) as error:
        return [f"corrupt: {error}"]
    finally:
        queue.close()


def images_of(recording: Recording, chance: random.Random) -> Iterator[tuple[int, dict[str, bytes]]]:
    """(what was acknowledged by then, what one cut may have left): no two the same, in random order."""
    seen = set()
    for acked, moment in chance.sample(recording.moments, len(recording.moments)):
        for keep in IMAGES_OF_A_MOMENT:
            image = {path: bytes(found.draw(chance, keep=keep)) for path, found in moment.items()}
            mark = acked, hashlib.sha256(b"".join(data for _, data in sorted(image.items()))).digest()
            if mark not in seen:
                seen.add(mark)
                yield acked, image


def cut(machine: Machine, wanted: int) -> tuple[Counter[str], list[str]]:
    """Scenarios until so many different images were looked at; what was counted, and the faults."""
    counted: Counter[str] = Counter()
    faults: list[str] = []
    for seed in itertools.count():
        if counted["images"] >= wanted:
            break
        recording = Day(machine, seed).run(BATCHES)
        counted += Counter(scenarios=1, instants=len(recording.moments), acknowledged=recording.answers)
        for acked, image in itertools.islice(images_of(recording, random.Random(seed)), IMAGES_OF_A_DAY):
            counted["images"] += 1
            found = look(machine, image, recording, acked)
            counted.update(fault.split(":")[0] for fault in found)
            faults += [f"seed {seed}, image {counted['images']}: {fault}" for fault in found]
    return counted, faults


def check(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    machine = Machine()
    monkeypatch.setattr(sqlite, "connect", machine.connect)
    counted, faults = cut(machine, wanted)
    print(", ".join(f"{number} {what}" for what, number in counted.items()))
    assert not faults, "\n".join(faults[:5])


def test_after_a_power_cut_everything_acknowledged_is_there_and_nothing_by_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(monkeypatch, QUICK_IMAGES)


@pytest.mark.slow
def test_after_very_many_power_cuts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, LONG_IMAGES)


def test_without_a_sync_at_each_commit_the_same_cuts_lose_what_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the tests above would prove nothing. NORMAL is what many programs run SQLite's WAL with."""
    machine = Machine(synchronous="NORMAL")
    monkeypatch.setattr(sqlite, "connect", machine.connect)
    counted, _ = cut(machine, 400)
    print(f"synchronous=NORMAL: {dict(counted)}")
    assert counted["lost"] > 100
    assert not counted["corrupt"]
