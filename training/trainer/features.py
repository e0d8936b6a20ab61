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
    """`t_s` float64 (samples,), `window` float64 (samples, channels) -> float32 (channels * statistics,).

    `slope` is the least-squares change per second, `acf1` the autocorrelation at lag 1 (0 for a flat series).
    Needs at least MIN_SAMPLES samples.
    """
    mean = window.mean(axis=0)
    centred = window - mean
    sum_squares = (centred**2).sum(axis=0)
    steps = np.diff(window, axis=0)
    q25, median, q75 = np.quantile(window, (0.25, 0.5, 0.75), axis=0)
    lagged = (centred[1:] * centred[:-1]).sum(axis=0)
    flat = sum_squares < _FLAT
    time = t_s - t_s.mean()
    first, second = len(window) // 3, 2 * len(window) // 3
    columns = (
        mean,
        np.sqrt(sum_squares / len(window)),
        window.min(axis=0),
        window.max(axis=0),
        q25,
        median,
        q75,
        np.abs(steps).mean(axis=0),
        steps.std(axis=0),
        np.where(flat, 0.0, lagged / np.where(flat, 1.0, sum_squares)),
        (time[:, None] * centred).sum(axis=0) / (time**2).sum(),
        window[:first].mean(axis=0),
        window[first:second].mean(axis=0),
        window[second:].mean(axis=0),
    )
    return np.stack(columns, axis=1).astype(np.float32).ravel()


def varying_columns(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices of the columns that are not constant. Call it on the training side only: the test side must not
    decide which features exist."""
    return np.flatnonzero(features.max(axis=0) > features.min(axis=0))
