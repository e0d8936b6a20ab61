"""What a guard writes down of a trainer's output: bounded in rate, and never without the last words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from training.fleet.segments import SegmentWriter, read
from training.fleet.trainer_log import LAST_BYTES, RATE_BYTES, TrainerLog


class Later:
    """Stands for the timer."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def come(self) -> None:
        due, self.calls = self.calls, []
        for call in due:
            call()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock, later: Later) -> TrainerLog:
    return TrainerLog(str(tmp_path / "log"), clock, later)


def written(tmp_path: Path) -> bytes:
    return read(tmp_path / "log", 0, 2**30).data


def flood(log: TrainerLog, size_bytes: int) -> None:
    for _ in range(size_bytes // 8192):
        log.add(b"x" * 8191 + b"\n")


def test_what_is_printed_is_written(log: TrainerLog, tmp_path: Path) -> None:
    log.add(b"one\n")
    log.add(b"two without an end")
    log.close()
    assert written(tmp_path) == b"one\ntwo without an end"


def test_without_a_folder_nothing_is_written_and_nothing_kept(clock: ManualClock) -> None:
    log = TrainerLog(None, clock)
    flood(log, 2 * RATE_BYTES)
    log.close()


def test_a_flood_is_cut_to_its_rate_and_told_of(log: TrainerLog, clock: ManualClock, tmp_path: Path) -> None:
    flood(log, 3 * RATE_BYTES)
    assert len(written(tmp_path)) <= RATE_BYTES
    clock.advance(1.0)
    log.add(b"a second later\n")
    log.close()
    gone = 3 * RATE_BYTES - RATE_BYTES - LAST_BYTES
    assert f"\n[guard] {gone} bytes left out: the trainer printed too fast\n".encode() in written(tmp_path)
    assert written(tmp_path).endswith(b"x\na second later\n")


def test_the_last_words_before_a_silence_are_there_while_it_lasts(
    log: TrainerLog, clock: ManualClock, later: Later, tmp_path: Path
) -> None:
    """A trainer that prints much and then hangs: what it said last is what one looks for."""
    flood(log, 2 * RATE_BYTES)
    log.add(b"waiting for the GPU\n")
    clock.advance(1.0)
    later.come()
    assert written(tmp_path).endswith(b"waiting for the GPU\n")
    later.come()
    assert not later.calls, "nothing is left to be done"


def test_while_a_flood_lasts_one_timer_is_enough(log: TrainerLog, later: Later) -> None:
    flood(log, 4 * RATE_BYTES)
    assert len(later.calls) == 1


def test_a_full_disk_is_told_of_as_what_it_was_with_all_that_is_missing(
    log: TrainerLog, clock: ManualClock, later: Later, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.add(b"before\n")
    original = SegmentWriter.append

    def full(self: SegmentWriter, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentWriter, "append", full)
    for _ in range(5):
        flood(log, 10 * LAST_BYTES)
        clock.advance(1.0)
        later.come()
    monkeypatch.setattr(SegmentWriter, "append", original)
    clock.advance(1.0)
    log.add(b"after\n")
    log.close()
    gone = 5 * 10 * LAST_BYTES - LAST_BYTES
    said = f"\n[guard] {gone} bytes left out: they could not be written: No space left on device\n".encode()
    assert written(tmp_path).startswith(b"before\n" + said)
    assert written(tmp_path).count(b"[guard]") == 1
    assert written(tmp_path).endswith(b"x\nafter\n")


def test_a_folder_that_cannot_be_made_costs_the_log_alone(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "log").write_text("a file where a folder is wanted")
    log = TrainerLog(str(tmp_path / "log"), clock, Later())
    log.add(b"x")
    log.close()
