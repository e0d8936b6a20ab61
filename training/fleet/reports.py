"""What workers tell beside their leases, and its bounds: the use of their machine, points of progress, log text.

Everything here is optional and additive: a receiver that does not know a key ignores it, and a worker that does not
send one is as welcome. Pure; shared by both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_POINTS = 256
"""Of one heartbeat."""
MAX_POINT_METRICS = 32
MAX_NAME_CHARS = 64
MAX_STEP = 2**53
MAX_USED_GPUS = 64
MAX_USED_GIB = 10_000_000.0
MAX_LOG_BYTES = 256 * 1024
"""Of one append, as UTF-8."""
MAX_LOG_BODY_BYTES = 6 * MAX_LOG_BYTES + 1024
"""JSON may write one byte of text as `\\u001b`."""


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One GPU at one moment; null is unknown."""

    util_percent: float | None = None
    vram_used_gib: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a host's machine is doing at one moment; null is unknown. `job_...` is the trainer's whole tree."""

    cpu_percent: float | None = None
    """Of all cores together, 0 to 100."""
    ram_used_gib: float | None = None
    gpus: list[GpuUsage] | None = None
    disk_free_gib: float | None = None
    """Where the worker keeps its state."""
    job_rss_gib: float | None = None
    job_vram_gib: float | None = None


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """One line of the trainer's progress file that names a step."""

    step: int | None = None
    total: int | None = None
    unit: str | None = None
    loss: float | None = None
    metric: dict[str, float] = field(default_factory=dict)
    event: str = "progress"
    at_s: float | None = None
    """When the worker read it, on its own clock (any origin); `sent_s` of the heartbeat is on the same one."""


@dataclass(frozen=True, slots=True)
class LogAppend:
    """`POST /v1/job/{id}/log`."""

    offset: int
    """How many bytes (UTF-8) of this attempt's log were sent before."""
    text: str


def usage_fault(found: Usage) -> str | None:
    """What no machine can do, as a sentence; None when the values are believable."""
    for name, value, low, high in _bounds(found):
        if value is not None and not low <= value <= high:
            return f"usage.{name} must lie between {low:g} and {high:g}"
    if len(found.gpus or ()) > MAX_USED_GPUS:
        return f"usage lists more than {MAX_USED_GPUS} gpus"
    return None


def _bounds(found: Usage) -> Iterator[tuple[str, float | None, float, float]]:
    yield "cpu_percent", found.cpu_percent, 0, 100
    for name in ("ram_used_gib", "disk_free_gib", "job_rss_gib", "job_vram_gib"):
        yield name, getattr(found, name), 0, MAX_USED_GIB
    for index, gpu in enumerate((found.gpus or ())[:MAX_USED_GPUS]):
        yield f"gpus[{index}].util_percent", gpu.util_percent, 0, 100
        yield f"gpus[{index}].vram_used_gib", gpu.vram_used_gib, 0, MAX_USED_GIB
        yield f"gpus[{index}].temperature_c", gpu.temperature_c, -100, 1000


def points_fault(points: Sequence[ProgressPoint]) -> str | None:
    """What is no progress, as a sentence; None when all of it is."""
    if len(points) > MAX_POINTS:
        return f"points has {len(points)} entries; a heartbeat brings at most {MAX_POINTS}"
    for index, one in enumerate(points):
        if any(value is not None and not 0 <= value <= MAX_STEP for value in (one.step, one.total)):
            return f"points[{index}]: step and total must lie between 0 and {MAX_STEP}"
        if len(one.metric) > MAX_POINT_METRICS or len(one.unit or "") > MAX_NAME_CHARS:
            return f"points[{index}]: at most {MAX_POINT_METRICS} metrics, and {MAX_NAME_CHARS} characters of unit"
        if len(one.event) > MAX_NAME_CHARS or any(len(name) > MAX_NAME_CHARS for name in one.metric):
            return f"points[{index}]: a name has more than {MAX_NAME_CHARS} characters"
    return None


def usage_json(found: Usage) -> dict[str, Any]:
    """As it travels and is shown: what is unknown is left out."""
    out: dict[str, Any] = {
        key: _rounded(getattr(found, key))
        for key in ("cpu_percent", "ram_used_gib", "disk_free_gib", "job_rss_gib", "job_vram_gib")
        if getattr(found, key) is not None
    }
    if found.gpus is not None:
        out["gpus"] = [
            {
                key: _rounded(getattr(gpu, key))
                for key in ("util_percent", "vram_used_gib", "temperature_c")
                if getattr(gpu, key) is not None
            }
            for gpu in found.gpus
        ]
    return out


def _rounded(value: float) -> float:
    return round(value, 3)


def gpu_util_percent(found: Mapping[str, Any]) -> float | None:
    """Of the busiest GPU in `usage_json`; None without one that tells."""
    known = [gpu["util_percent"] for gpu in found.get("gpus") or () if "util_percent" in gpu]
    return max(known) if known else None


def vram_used_gib(found: Mapping[str, Any]) -> float | None:
    """Of all GPUs in `usage_json` together; None when none tells."""
    known = [gpu["vram_used_gib"] for gpu in found.get("gpus") or () if "vram_used_gib" in gpu]
    return math.fsum(known) if known else None


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of `items`, spread evenly, the first and the last among them. Pure."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[-most:]) if most else []
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]
