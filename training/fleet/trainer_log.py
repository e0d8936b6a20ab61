"""What a trainer prints, written down by its guard for the worker to read: bounded in size and in rate.

A trainer that prints more than `RATE_BYTES` in a second loses what is over, but never the last words; a line says
how much was left out. So neither a loop that prints nor a disk that fails can hold up the trainer or fill the disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from cis490.clock import Clock
from training.fleet.segments import SegmentWriter

SEGMENT_BYTES = 1024 * 1024
SEGMENTS = 4
RATE_BYTES = 1024 * 1024
LAST_BYTES = 8 * 1024
"""Of what is left out, the end is kept."""

Later = Callable[[Callable[[], None]], None]


def in_a_second(call: Callable[[], None]) -> None:
    """Call it from a thread of its own, that keeps nobody from ending."""
    timer = threading.Timer(1.0, call)
    timer.daemon = True
    timer.start()


class TrainerLog:
    """Takes bytes from several threads. `folder` None: nothing is written. `later` calls a second later."""

    def __init__(self, folder: str | None, clock: Clock, later: Later = in_a_second) -> None:
        self._clock = clock
        self._call_later = later
        self._lock = threading.Lock()
        self._writer: SegmentWriter | None = None
        if folder is not None:
            with contextlib.suppress(OSError):
                self._writer = SegmentWriter(folder, segment_bytes=SEGMENT_BYTES, segments=SEGMENTS)
        self._second = clock.now_s()
        self._used = 0
        self._left_out = 0
        self._last = bytearray()
        self._why = ""
        """What is left out could not be written; "" where it came too fast."""
        self._is_timed = False

    def add(self, data: bytes) -> None:
        """Write, unless too much came within this second. Never raises, never waits for more than the disk."""
        if self._writer is None:
            return
        with self._lock:
            now = self._clock.now_s()
            if not 0 <= now - self._second < 1.0:
                self._second, self._used = now, 0
                self._catch_up()
            if self._left_out or self._used + len(data) > RATE_BYTES or not self._is_written(data):
                self._leave_out(data)

    def close(self) -> None:
        """Write the last words, if they were left out so far."""
        with self._lock:
            self._catch_up()

    def _leave_out(self, data: bytes) -> None:
        self._left_out += len(data)
        self._last += data
        del self._last[:-LAST_BYTES]
        if not self._is_timed:  # perhaps it prints nothing more, and hangs: its last words are wanted then
            self._is_timed = True
            self._call_later(self._look)

    def _look(self) -> None:
        with self._lock:
            self._is_timed = False
            self._second, self._used = self._clock.now_s(), 0
            self._catch_up()
            if self._left_out:
                self._leave_out(b"")

    def _catch_up(self) -> None:
        if self._left_out:
            gone = self._left_out - len(self._last)
            why = f"they could not be written: {self._why}" if self._why else "the trainer printed too fast"
            note = f"\n[guard] {gone} bytes left out: {why}\n".encode() if gone else b""
            if self._is_written(note + self._last):
                self._left_out, self._why = 0, ""
                self._last.clear()

    def _is_written(self, data: bytes) -> bool:
        try:
            if self._writer is not None:
                self._writer.append(data)
        except OSError as error:  # a full disk takes the sight of the training, not the training
            self._why = error.strerror or str(error)
            return False
        self._used += len(data)
        return True
