"""Summary statistics of a window: fourteen numbers per channel, whatever the number of samples.

Statistics over thirds of the window keep a little of *when* something happened, which mean and quantiles
lose.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.trainer.channels import Floats

STATISTICS: tuple[str, ...] = (
    "mean",
    "sd",
    "min",
    "max",
    "q25",
    "median",
    "q75",
    "mean_abs_diff",
    "diff_sd",
    "acf1",
    "slope",
    "third_1",
    "third_2",
    "third_3",
)

MIN_SAMPLES = 6
"""Fewer samples than this make no window: each third needs two."""

_FLAT = 1e-12


def feature_names(channels: Sequence[str]) -> tuple[str, ...]:
    """`channel|statistic` in the order of `summarise`: all statistics of the first channel, then the next."""
    return tuple(f"{channel}|{statistic}" for channel in channels for statistic in STATISTICS)


def summarise(t_s: Floats, window: Floats) -> NDArray[np.float32]:
    """`t_s` float64 (samples,), `window` float64 (samples, channels) -> float32 (channels * statistics,): one
    window of `summarise_windows`."""
    row: NDArray[np.float32] = summarise_windows(t_s[None], window[None])[0]
    return row


def summarise_windows(t_s: Floats, windows: Floats) -> NDArray[np.float32]:
    """Windows of the same number of samples: `t_s` float64 (windows, samples), `windows` float64 (windows, samples,
    channels) -> float32 (windows, channels * statistics).

    `slope` is the least-squares change per second, `acf1` the autocorrelation at lag 1 (0 for a flat series).
    Needs at least MIN_SAMPLES samples. A dozen windows at once cost a third of a dozen one by one.
    """
    # Samples side by side in memory: numpy then adds them up pairwise, which keeps the mean of equal values equal,
    # and the result does not depend on how the caller's array is laid out.
    values = np.ascontiguousarray(windows.transpose(0, 2, 1))
    n = values.shape[2]
    mean = values.mean(axis=2)
    centred = values - mean[:, :, None]
    sum_squares = (centred**2).sum(axis=2)
    steps = np.diff(values, axis=2)
    ordered = np.sort(values, axis=2)
    lagged = (centred[:, :, 1:] * centred[:, :, :-1]).sum(axis=2)
    flat = sum_squares < _FLAT
    time = t_s - t_s.mean(axis=1)[:, None]
    first, second = n // 3, 2 * n // 3
    columns = (
        mean,
        np.sqrt(sum_squares / n),
        ordered[:, :, 0],
        ordered[:, :, -1],
        _quantile(ordered, 0.25),
        _quantile(ordered, 0.5),
        _quantile(ordered, 0.75),
        np.abs(steps).mean(axis=2),
        steps.std(axis=2),
        np.where(flat, 0.0, lagged / np.where(flat, 1.0, sum_squares)),
        (time[:, None, :] * centred).sum(axis=2) / (time**2).sum(axis=1)[:, None],
        values[:, :, :first].mean(axis=2),
        values[:, :, first:second].mean(axis=2),
        values[:, :, second:].mean(axis=2),
    )
    return np.stack(columns, axis=2).astype(np.float32).reshape(len(windows), -1)


def _quantile(ordered: Floats, share: float) -> Floats:
    """As numpy's default (linear interpolation between the two nearest), to the last bit, of samples that are
    sorted along the last axis already."""
    at = share * (ordered.shape[2] - 1)
    low = int(at)
    below, above = ordered[:, :, low], ordered[:, :, min(low + 1, ordered.shape[2] - 1)]
    part = at - low
    step = above - below
    found: Floats = below + step * part if part < 0.5 else above - step * (1 - part)
    return found


def varying_columns(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices of the columns that are not constant. Call it on the training side only: the test side must not
    decide which features exist."""
    return np.flatnonzero(features.max(axis=0) > features.min(axis=0))
