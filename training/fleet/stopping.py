"""A worker's wish to stop: the first SIGTERM (or Ctrl-C) asks, the second one does not wait."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = ("SIGTERM", "SIGINT", "SIGBREAK")
"""SIGBREAK is what Windows sends to a console program that is to end."""


class Stop:
    """Set once, never taken back. `wait` is a pause that ends early when the wish comes."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._requested, self._now_s, self._looked_s = False, now_s, now_s()
        self.on_request: Callable[[], None] = _nothing
        """Called at the first request, in a signal handler: it must take no lock."""
        # A SimpleQueue's put may interrupt its own get; the lock of an Event would deadlock there.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for. Whatever takes long looks here, so that a look is a sign of life as well."""
        self._looked_s = self._now_s()
        return self._requested

    @requested.setter
    def requested(self, value: bool) -> None:
        self._requested = value

    def unseen_s(self) -> float:
        """How long nobody has looked."""
        return self._now_s() - self._looked_s

    def request(self) -> None:
        """Ask to stop. May be called from a signal handler and from any thread."""
        self._requested = True
        self._wake.put(None)
        self.on_request()

    def wait(self, seconds: float) -> bool:
        """Pause; True as soon as a stop is requested, False after `seconds`."""
        if not self.requested and seconds > 0:
            try:
                self._wake.get(timeout=seconds)
            except queue.Empty:
                pass
        return self.requested

    def listen(self) -> None:
        """Take the stop signals from now on; main thread only."""
        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._requested:
            self.request()
            return
        os._exit(128 + number)  # the guard sees its pipe close and kills the trainer


def _nothing() -> None:
    pass
