"""What a trainer prints, written down by its guard for the worker to read: bounded in size and in rate.

A trainer that prints more than `RATE_BYTES` in a second loses what is over, but never the last words; a line says
how much was left out. So neither a loop that prints nor a disk that fails can hold up the trainer or fill the disk.
"""

from __future__ import annotations

import contextlib
import threading

from cis490.clock import Clock
from training.fleet.segments import SegmentWriter

SEGMENT_BYTES = 1024 * 1024
SEGMENTS = 4
RATE_BYTES = 1024 * 1024
LAST_BYTES = 8 * 1024
"""Of what is left out, the end is kept."""


class TrainerLog:
    """Takes bytes from several threads. `folder` None: nothing is written."""

    def __init__(self, folder: str | None, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._writer: SegmentWriter | None = None
        if folder is not None:
            with contextlib.suppress(OSError):
                self._writer = SegmentWriter(folder, segment_bytes=SEGMENT_BYTES, segments=SEGMENTS)
        self._second = clock.now_s()
        self._used = 0
        self._left_out = 0
        self._last = bytearray()

    def add(self, data: bytes) -> None:
        """Write, unless too much came within this second. Never raises, never waits for more than the disk."""
        if self._writer is None:
            return
        with self._lock:
            now = self._clock.now_s()
            if not 0 <= now - self._second < 1.0:
                self._second, self._used = now, 0
                self._catch_up()
            if self._left_out or self._used + len(data) > RATE_BYTES:
                self._leave_out(data)
                return
            self._used += len(data)
            self._write(data)

    def close(self) -> None:
        """Write the last words, if they were left out so far."""
        with self._lock:
            self._catch_up()

    def _leave_out(self, data: bytes) -> None:
        self._left_out += len(data)
        self._last += data
        del self._last[:-LAST_BYTES]

    def _catch_up(self) -> None:
        if self._left_out:
            last, gone = bytes(self._last), self._left_out - len(self._last)
            self._left_out = 0
            self._last.clear()
            note = (
                f"\n[guard] {gone} bytes left out: the trainer printed too fast\n".encode() if gone else b""
            )
            self._write(note + last)

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            try:
                self._writer.append(data)
            except OSError:  # a full disk takes the sight of the training, not the training
                self._leave_out(data)
