"""The clocks: durations never go back, wall time may."""

import sys
import time

import pytest

from cis490.clock import Clock, ManualClock, SystemClock


def test_system_durations_never_go_back() -> None:
    clock = SystemClock()
    readings = [clock.now_s() for _ in range(1000)]
    assert readings == sorted(readings)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has CLOCK_BOOTTIME")
def test_system_durations_count_suspend_on_linux() -> None:
    assert SystemClock().now_s() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)


def test_durations_fall_back_to_monotonic_where_there_is_no_boottime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert SystemClock().now_s() == pytest.approx(time.monotonic(), abs=5)


def test_system_wall_time_is_utc_seconds_since_the_epoch() -> None:
    assert SystemClock().wall_s() == pytest.approx(time.time(), abs=5)


def test_manual_clock_stands_still_until_advanced() -> None:
    clock: Clock = ManualClock()
    assert (clock.now_s(), clock.wall_s()) == (clock.now_s(), clock.wall_s()) == (1000.0, 1.7e9)


def test_advance_moves_both_clocks() -> None:
    clock = ManualClock(now_s=5.0, wall_s=100.0)
    clock.advance(2.5)
    assert (clock.now_s(), clock.wall_s()) == (7.5, 102.5)


def test_stepping_the_wall_clock_leaves_durations_alone() -> None:
    clock = ManualClock(now_s=5.0, wall_s=100.0)
    clock.step_wall(-60)
    assert (clock.now_s(), clock.wall_s()) == (5.0, 40.0)


@pytest.mark.parametrize("seconds", [-0.001, float("nan")])
def test_time_cannot_be_advanced_backwards(seconds: float) -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="step_wall"):
        clock.advance(seconds)
    assert clock.now_s() == 1000.0
