"""Threads beside a main thread that waits for signals.

The system hands a signal to any thread that does not block it, and only the main thread of Python runs the handler: one
that reached another thread leaves a main thread that waits for the network asleep.
"""

from __future__ import annotations

import signal
import threading

_STOP_SIGNALS = tuple(
    found for name in ("SIGTERM", "SIGINT", "SIGHUP") if (found := getattr(signal, name, None)) is not None
)


def start_beside(thread: threading.Thread) -> None:
    """Start `thread` so that it never takes a signal which asks the process to stop. Its children inherit that."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        thread.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        thread.start()  # it inherits the mask of the thread that starts it
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
