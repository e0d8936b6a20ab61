"""How much one host may ask of the receiver: requests a minute, uploads at once, bytes a day. Pure.

A host that is broken or in wrong hands shall slow nobody but itself down. The limits lie far above what a worker with
all its slots busy needs, so whoever meets one has a fault. Time is passed in: `now_s`, of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

GIB = 1024**3
DAY_S, HOUR_S = 86400.0, 3600.0
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each host. A worker with 4 slots sends some 250 requests a minute and uploads 4 artifacts at once."""

    requests_per_min: int = 1200
    """On average; as many may come in one go."""
    uploads_at_once: int = 8
    bytes_per_day: int = 64 * GIB
    """Of artifacts, in any 24 hours, whether or not they were completed."""


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The request is refused; the same one may succeed after `retry_s` (None: never)."""

    quota: Literal["requests", "uploads", "bytes"]
    error: str
    retry_s: int | None

    @property
    def status(self) -> int:
        """429 Too Many Requests (RFC 6585), or 413 for what alone is too much."""
        return 413 if self.retry_s is None else 429


class Bucket:
    """A token bucket: `size` tokens at most, `size` more in each minute; each request takes one."""

    __slots__ = ("_at_s", "_left", "_size")

    def __init__(self, size: int, now_s: float) -> None:
        self._size, self._left, self._at_s = size, float(size), now_s

    def take(self, now_s: float) -> float:
        """0 when a token was taken; else after how many seconds there is one."""
        per_s = self._size / MINUTE_S
        self._left = min(float(self._size), self._left + max(0.0, now_s - self._at_s) * per_s)
        self._at_s = max(self._at_s, now_s)
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / per_s


class Day:
    """Bytes of the last 24 hours, kept by the hour: 25 numbers at most."""

    __slots__ = ("_hours",)

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        """Hour of the clock -> bytes."""

    def add(self, size_bytes: int, now_s: float) -> None:
        """These came now."""
        hour = int(now_s // HOUR_S)
        self._hours[hour] = self._hours.get(hour, 0) + size_bytes

    def used(self, now_s: float) -> int:
        """Bytes that still count; what is older is forgotten."""
        first = int((now_s - DAY_S) // HOUR_S)
        self._hours = {hour: size for hour, size in self._hours.items() if hour >= first}
        return sum(self._hours.values())

    def free_after_s(self, wanted: int, limit: int, now_s: float) -> float:
        """How long until `wanted` more bytes fit, when no others come."""
        left = self.used(now_s) + wanted
        for hour in sorted(self._hours):
            left -= self._hours[hour]
            if left <= limit:
                return (hour + 1) * HOUR_S + DAY_S - now_s
        return DAY_S


@dataclass(slots=True)
class _Host:
    bucket: Bucket
    day: Day = field(default_factory=Day)
    uploads: int = 0
    announced_bytes: int = 0
    """Of the uploads under way, as their requests said."""


class Quotas:
    """What each host has used. For one thread; nothing here waits."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self._hosts: dict[str, _Host] = {}

    def load(self, uploads: Iterable[tuple[str, int, float]], now_s: float) -> None:
        """What was uploaded before this process began: (host, bytes, seconds ago)."""
        for host, size_bytes, ago_s in uploads:
            self._of(host, now_s).day.add(size_bytes, now_s - max(0.0, ago_s))

    def request(self, host: str, now_s: float) -> Exceeded | None:
        """Count a request."""
        wait_s = self._of(host, now_s).bucket.take(now_s)
        if wait_s == 0.0:
            return None
        limit = self.limits.requests_per_min
        return Exceeded(
            "requests",
            f"host {host} sends more than {limit} requests a minute (--host-requests-per-min); a worker in order "
            "needs a fifth of that: look at its log, is it started twice?",
            math.ceil(wait_s),
        )

    def begin_upload(self, host: str, announced_bytes: int, now_s: float) -> Exceeded | None:
        """Count an upload that begins; when None is returned, `end_upload` must follow."""
        found, limits = self._of(host, now_s), self.limits
        if announced_bytes > limits.bytes_per_day:
            return Exceeded(
                "bytes",
                f"this upload has {announced_bytes} bytes, and host {host} may send {limits.bytes_per_day} in 24 hours "
                "(--host-bytes-per-day)",
                None,
            )
        if found.uploads >= limits.uploads_at_once:
            return Exceeded(
                "uploads",
                f"host {host} has {found.uploads} uploads under way, {limits.uploads_at_once} are allowed at once "
                "(--host-uploads-at-once)",
                5,
            )
        used = found.day.used(now_s) + found.announced_bytes
        if used + announced_bytes > limits.bytes_per_day:
            wanted = found.announced_bytes + announced_bytes
            return Exceeded(
                "bytes",
                f"host {host} has sent {used} bytes of artifacts in 24 hours; with the {announced_bytes} of this one "
                f"it would be more than {limits.bytes_per_day} (--host-bytes-per-day)",
                math.ceil(found.day.free_after_s(wanted, limits.bytes_per_day, now_s)),
            )
        found.uploads += 1
        found.announced_bytes += announced_bytes
        return None

    def end_upload(self, host: str, announced_bytes: int, received_bytes: int, now_s: float) -> None:
        """It is over, in whatever way."""
        found = self._hosts[host]
        found.uploads -= 1
        found.announced_bytes -= announced_bytes
        found.day.add(received_bytes, now_s)

    def _of(self, host: str, now_s: float) -> _Host:
        found = self._hosts.get(host)
        if found is None:
            found = self._hosts[host] = _Host(Bucket(self.limits.requests_per_min, now_s))
        return found
