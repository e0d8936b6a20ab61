"""Which channels a mode may see, and the series that is made of each.

A recording says which of two ways it wants to be read. `relative`, for telemetry of hosts: every channel
becomes one series that says how much *more or less* than in the episode's first seconds happens now.
Absolute levels (free memory, number of processes, disk speed) are a fingerprint of the host and of the hour;
with some dozens of episodes a model would learn those instead of the behaviour. So a counter becomes its rate
per second and a gauge its value, both on a logarithmic scale and minus their mean over the baseline.

`plain`, for series whose level means the same in every episode (a sensor's, say): a counter becomes its rate
per second, a gauge stays what it is, and no baseline is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASELINE_S = 3.0
"""The first seconds of an episode, in which no workload runs yet."""

VISIBLE: Mapping[str, tuple[str, ...]] = {
    "realistic": ("sys.", "block.", "net."),
    "oracle": ("sys.", "block.", "net.", "tree.", "guest."),
}
"""Channel prefixes a mode may read. A prefix that is not listed is read in no mode."""

NOISE_SCALE: Mapping[str, float] = {"bytes": 4096.0, "KiB": 1024.0, "us": 1000.0}
"""Per unit, the amount (for counters: per second) below which a change is mostly noise: a page, a MiB, a ms
of stall. A logarithm without it would make the step from nothing to one page as large as that from one page
to 16 MiB."""


@dataclass(frozen=True)
class Signal:
    """One channel in use."""

    name: str
    unit: str
    kind: Literal["counter", "gauge"]


def visible(name: str, mode: str) -> bool:
    """Whether a mode may read the channel of that name; an unknown mode may read none."""
    return name.startswith(VISIBLE.get(mode, ()))


def counter_rates(t_s: Floats, values: Ints | Floats) -> Floats:
    """Rates per second between neighbouring samples.

    `t_s` float64 (n,), strictly ascending; `values` (n, channels) -> float64 (n - 1, channels), each
    row belonging to the later sample. The true distance in time is used, for the sampler is late under load.
    A counter that decreases was reset (or wrapped): that step counts as 0, since nothing is known about it.
    """
    steps = np.diff(values.astype(np.float64), axis=0)
    rates: Floats = np.maximum(steps, 0.0) / np.diff(t_s)[:, None]
    return rates


def signed_log(values: Floats, scales: Floats) -> Floats:
    """sign(x) log(1 + |x| / scale), column by column: keeps the order, tames bytes as well as counts, 0 stays
    0.

    `values` float64 (n, channels), `scales` float64 (channels,).
    """
    logs: Floats = np.sign(values) * np.log1p(np.abs(values) / scales)
    return logs


def in_units(values: Ints, signals: Sequence[Signal], per_unit: Sequence[int]) -> Floats:
    """Stored integers as amounts of each channel's unit, a counter's since the first sample.

    `values` int64 (n, channels); `per_unit` how many steps make one unit, for each channel -> float64 (n,
    channels). A counter loses its start as an integer: one that has run for long has more digits than a float64.
    """
    counter = np.array([signal.kind == "counter" for signal in signals], dtype=bool)
    start = np.where(counter, values[0], 0)
    amounts: Floats = (values - start).astype(np.float64) / np.array(per_unit, dtype=np.float64)
    return amounts


def plain_series(t_s: Floats, values: Floats, signals: Sequence[Signal]) -> Floats:
    """The series of each channel in its own unit, a counter's in units per second.

    `t_s` float64 (n,) seconds since the episode's start; `values` float64 (n, channels) -> float64 (n - 1,
    channels) for the samples 1..n-1, as `relative_series` gives it.
    """
    counter = np.array([signal.kind == "counter" for signal in signals], dtype=bool)
    series: Floats = np.where(counter[None, :], counter_rates(t_s, values), values[1:])
    return series


def relative_series(t_s: Floats, values: Ints | Floats, signals: Sequence[Signal]) -> Floats:
    """The series of each channel relative to the baseline.

    `t_s` float64 (n,) seconds since the episode's start; `values` (n, channels) -> float64 (n - 1,
    channels) for the samples 1..n-1. At least one of those lies in the baseline (the caller checks).
    """
    scales = np.array([NOISE_SCALE.get(signal.unit, 1.0) for signal in signals])
    counter = np.array([signal.kind == "counter" for signal in signals], dtype=bool)
    in_baseline = t_s[1:] < BASELINE_S
    gauges = values[1:].astype(np.float64)
    gauge_change = signed_log(gauges - gauges[in_baseline].mean(axis=0), scales)
    log_rates = signed_log(counter_rates(t_s, values), scales)
    log_rate_change = log_rates - log_rates[in_baseline].mean(axis=0)
    series: Floats = np.where(counter[None, :], log_rate_change, gauge_change)
    return series
