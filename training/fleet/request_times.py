"""How long requests took, counted by endpoint: a histogram that costs well under a microsecond for each.

A library's histogram takes a lock and looks up labels for every request; that is a few percent of a claim. Here the
event loop's thread is the only one that counts, and whoever reads copies. At worst it misses the request of that
instant.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the histogram's buckets; the last one has none."""
METHODS = ("GET", "HEAD", "POST", "PUT")
OTHER = "other"

Key = tuple[str, str, int]


class Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """As Prometheus wants it: (upper bound, how many are no larger), and the sum of all."""
        seen, found = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), list(self.counts), strict=True):
            seen += count
            found.append((bound, float(seen)))
        return found, self.total


class RequestTimes:
    """`routes`: the path pattern of each handler. What none of them answered is counted as `other`."""

    def __init__(self, routes: Mapping[object, str]) -> None:
        self._routes = routes
        self._found: dict[Key, Histogram] = {}

    def note(self, handler: object, method: str, status: int, took_s: float) -> None:
        """An answer began `took_s` after its request's headers were there."""
        key = (self._routes.get(handler, OTHER), method if method in METHODS else OTHER, status)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Histogram(BOUNDS_S)
        found.note(took_s)

    def all(self) -> list[tuple[Key, Histogram]]:
        """Route, method and status with their times; from any thread."""
        return list(self._found.items())
