"""Two kinds of time, kept apart: durations that decide things, and wall time that is only shown.

A Raspberry Pi has no battery clock: its wall time jumps when the network first answers. So a lease, a grace period
or a timeout is measured with `now_s`, and wall time decides nothing but when certificates and join tokens end.
"""

import sys
import time
from typing import Protocol


class Clock(Protocol):
    """What code that measures or stamps time takes as an argument."""

    def now_s(self) -> float:
        """Seconds since an arbitrary start; never goes back and goes on during suspend where the system can tell.

        Comparable only within one boot of one machine: store differences, not values.
        """
        ...

    def wall_s(self) -> float:
        """UTC seconds since the epoch; may jump either way. For display, audit rows, and dates of certificates."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        """CLOCK_BOOTTIME on Linux: `time.monotonic` stands still there while a laptop sleeps."""
        boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
        if sys.platform == "win32" or boot_time is None:
            return time.monotonic()
        return time.clock_gettime(boot_time)

    def wall_s(self) -> float:
        return time.time()


class ManualClock:
    """A clock that moves only when told to, for tests and simulations."""

    def __init__(self, now_s: float = 1000.0, wall_s: float = 1.7e9) -> None:
        self._now_s = now_s
        self._wall_s = wall_s

    def now_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` >= 0 pass on both clocks."""
        if not seconds >= 0:
            raise ValueError(
                f"time cannot pass by {seconds!r} seconds; to set the wall clock back use step_wall"
            )
        self._now_s += seconds
        self._wall_s += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as time synchronisation does; durations do not notice."""
        self._wall_s += seconds
