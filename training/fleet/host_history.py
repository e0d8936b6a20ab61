"""The last 24 hours of each host in steps of 5 minutes: its state and how busy it was. In memory, 5 KiB a host.

Times are wall times (UTC), for display alone. Where the clock was set back, what lies ahead of it is forgotten.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from training.fleet.reports import gpu_util_percent, vram_used_gib

STEP_S = 300
STEPS = 288
MAX_HOSTS = 2000
STATES = ".idplr"
"""Of several seen in one step the one that stands further to the right is shown."""
WORDS = {".": "unknown", "i": "idle", "d": "drained", "p": "paused", "l": "lost", "r": "running"}
MEASURES = ("gpu_util_percent", "vram_used_gib", "ram_used_gib", "cpu_percent")
_MEANS = ("gpu_util_percent", "cpu_percent")
"""Of a step their mean is kept, of the others the largest value."""
_VERSION = 1


def state_of(row: Mapping[str, Any]) -> str:
    """The letter for a host as `GET /v1/workers` shows it."""
    if not row.get("live"):
        return "l"
    if row.get("busy"):
        return "r"
    if row.get("paused_reason"):
        return "p"
    return "d" if row.get("drained_reason") else "i"


class _Ring:
    """One host. `last` is the newest step that something is known of, counted from the epoch."""

    __slots__ = ("counts", "last", "states", "values")

    def __init__(self, last: int) -> None:
        self.last = last
        self.states = bytearray(STEPS)
        self.values = {name: array("f", [math.nan]) * STEPS for name in MEASURES}
        self.counts = dict.fromkeys(_MEANS, 0)

    def turn_to(self, step: int) -> int:
        """Make `step` the newest; its place."""
        if step != self.last:
            first = self.last + 1 if 0 < step - self.last < STEPS else step - STEPS + 1
            for one in range(first, step + 1):
                self.states[one % STEPS] = 0
                for values in self.values.values():
                    values[one % STEPS] = math.nan
            self.last = step
            self.counts = dict.fromkeys(_MEANS, 0)
        return step % STEPS


class HostHistory:
    """All hosts. Not thread-safe: it belongs to the event loop."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}
        self.changes = 0
        """Grows with each thing that was noted."""

    def look(self, host: str, state: str, wall_s: float) -> None:
        """The host was seen in this state (a letter of `STATES`)."""
        found = self._ring(host, wall_s)
        if found is not None:
            ring, at = found
            ring.states[at] = max(ring.states[at], STATES.index(state))

    def use(self, host: str, usage: Mapping[str, Any], wall_s: float) -> None:
        """The host told how busy it is (`reports.usage_json`)."""
        found = self._ring(host, wall_s)
        if found is None:
            return
        ring, at = found
        told = {
            "gpu_util_percent": gpu_util_percent(usage), "vram_used_gib": vram_used_gib(usage),
            "ram_used_gib": usage.get("ram_used_gib"), "cpu_percent": usage.get("cpu_percent"),
        }  # fmt: skip
        for name, value in told.items():
            if value is None:
                continue
            before = ring.values[name][at]
            if name in _MEANS:
                ring.counts[name] += 1
                before = 0.0 if math.isnan(before) else before
                ring.values[name][at] = before + (value - before) / ring.counts[name]
            else:
                ring.values[name][at] = value if math.isnan(before) else max(before, value)

    def keep_only(self, hosts: Iterable[str]) -> None:
        """Forget every other host."""
        kept = set(hosts)
        for name in [name for name in self._rings if name not in kept]:
            del self._rings[name]

    def points(self, host: str, wall_s: float, steps: int = STEPS) -> list[dict[str, Any]]:
        """The last `steps` steps up to now, oldest first; None where nothing is known. Each is its step's beginning."""
        ring, now = self._rings.get(host), int(wall_s // STEP_S)
        out = []
        for step in range(now - min(steps, STEPS) + 1, now + 1):
            row: dict[str, Any] = {"at": float(step * STEP_S), "state": WORDS[self._letter(ring, step)]}
            for name in MEASURES:
                value = ring.values[name][step % STEPS] if ring is not None and _has(ring, step) else math.nan
                row[name] = None if math.isnan(value) else round(value, 2)
            out.append(row)
        return out

    def since(self, host: str, wall_s: float) -> float | None:
        """Since when, to a step, the host's newest state has lasted; None when nothing is known of it."""
        ring = self._rings.get(host)
        if ring is None or not _has(ring, int(wall_s // STEP_S)):
            return None
        step = ring.last
        newest = self._letter(ring, step)
        if newest == ".":
            return None
        while _has(ring, step - 1) and self._letter(ring, step - 1) == newest:
            step -= 1
        return float(step * STEP_S)

    def strips(self, wall_s: float) -> dict[str, str]:
        """A letter a step for each host, oldest first, all of the same length."""
        now = int(wall_s // STEP_S)
        steps = range(now - STEPS + 1, now + 1)
        return {
            name: "".join(self._letter(ring, step) for step in steps)
            for name, ring in sorted(self._rings.items())
        }

    def dump(self) -> bytes:
        """Everything, for a file."""
        hosts = {
            name: {
                "last": ring.last,
                "states": bytes(ring.states).hex(),
                "values": {
                    key: base64.b64encode(found.tobytes()).decode() for key, found in ring.values.items()
                },
            }
            for name, ring in self._rings.items()
        }
        return zlib.compress(json.dumps({"version": _VERSION, "hosts": hosts}).encode(), 6)

    def load(self, data: bytes) -> None:
        """What `dump` gave, in the place of what is known. Raises ValueError for anything else."""
        try:
            raw = json.loads(zlib.decompress(data))
            rings = {
                str(name): _ring_of(one) for name, one in raw["hosts"].items() if raw["version"] == _VERSION
            }
        except (zlib.error, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no history of hosts: {error!r}") from error
        self._rings = dict(list(rings.items())[:MAX_HOSTS])

    def _ring(self, host: str, wall_s: float) -> tuple[_Ring, int] | None:
        step = int(wall_s // STEP_S)
        ring = self._rings.get(host)
        if ring is None:
            if len(self._rings) >= MAX_HOSTS:
                return None
            ring = self._rings[host] = _Ring(step)
        self.changes += 1
        return ring, ring.turn_to(step)

    def _letter(self, ring: _Ring | None, step: int) -> str:
        return STATES[ring.states[step % STEPS]] if ring is not None and _has(ring, step) else "."


def _has(ring: _Ring, step: int) -> bool:
    return ring.last - STEPS < step <= ring.last


def _ring_of(raw: Mapping[str, Any]) -> _Ring:
    ring = _Ring(int(raw["last"]))
    states = bytes.fromhex(raw["states"])
    if len(states) != STEPS or max(states) >= len(STATES):
        raise ValueError("it has another number of steps")
    ring.states[:] = states
    for name in MEASURES:
        values = array("f")
        values.frombytes(base64.b64decode(raw["values"][name], validate=True))
        if len(values) != STEPS:
            raise ValueError("it has another number of steps")
        ring.values[name] = values
    return ring
