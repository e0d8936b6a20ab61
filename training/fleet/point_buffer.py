"""Progress points on their way to the receiver: kept until a heartbeat that brought them was confirmed. Bounded."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from training.fleet.reports import MAX_POINTS, thinned
from training.fleet.wire import Progress

MAX_KEPT = 1024
MAX_BATCH_BYTES = 40 * 1024
"""A heartbeat of more than 64 KiB would be refused, by older receivers too."""


class PointBuffer:
    """Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: list[dict[str, Any]] = []
        self._in_batch = 0
        self._has_had_any = False

    def add(self, points: Sequence[Progress], at_s: float) -> bool:
        """Take what was read at `at_s`; whether these are the first ever. Of too many some in between are dropped."""
        new = [{**asdict(point), "at_s": round(at_s, 3)} for point in points]
        with self._lock:
            is_first, self._has_had_any = not self._has_had_any, True
            self._points += new
            if len(self._points) > MAX_KEPT:
                kept = self._points[: self._in_batch]  # these are on their way
                self._points = kept + thinned(self._points[self._in_batch :], MAX_KEPT // 2)
            return is_first

    def batch(self) -> list[dict[str, Any]]:
        """What the next heartbeat brings, oldest first, as JSON objects. All of it comes soon: more than fit are
        thinned now."""
        with self._lock:
            if len(self._points) > MAX_POINTS:
                self._points = thinned(self._points, MAX_POINTS)
            while len(json.dumps(self._points)) > MAX_BATCH_BYTES and len(self._points) > 1:
                self._points = thinned(self._points, len(self._points) // 2)
            self._in_batch = len(self._points)
            return list(self._points)

    def __len__(self) -> int:
        with self._lock:
            return len(self._points)

    def confirm(self, count: int) -> None:
        """The first `count` have arrived."""
        with self._lock:
            del self._points[:count]
            self._in_batch = 0
