"""Whether a score of 0.8 is right eight times in ten.

The score is read as the probability of `suspicious`. A model can rank well and be badly calibrated; what can be
mended by one number is told apart from what cannot, by fitting a temperature on the validation side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.trainer.metrics_scored import Bools, Floats
from training.trainer.options import Json

BINS = 10
"""Bins of equal width over scores 0 to 1; each takes its lower end, the last both."""

_CLIP = 1e-6
"""Scores are kept this far from 0 and 1, where the logarithm of the odds has no end."""

_BETA_RANGE = (0.05, 20.0)
_HALVINGS = 60


@dataclass(frozen=True)
class Bin:
    """The windows whose score lies in [low, high). `mean_score` and `share` (of them that are suspicious) are
    NaN-free: an empty bin is not listed."""

    low: float
    high: float
    windows: int
    mean_score: float
    share: float


def brier(suspicious: Bools, scores: Floats) -> float:
    """Mean squared distance of the score, read as a probability, from 0 or 1 (Brier 1950, two classes)."""
    return float(((scores - suspicious.astype(np.float64)) ** 2).mean())


def reliability(suspicious: Bools, scores: Floats) -> list[Bin]:
    """The bins that hold windows, in order."""
    which = np.minimum((scores * BINS + 1e-9).astype(np.intp), BINS - 1)
    bins: list[Bin] = []
    for number in range(BINS):
        rows = which == number
        if rows.any():
            bins.append(
                Bin(
                    number / BINS,
                    (number + 1) / BINS,
                    int(rows.sum()),
                    float(scores[rows].mean()),
                    float(suspicious[rows].mean()),
                )
            )
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of score and share over the bins, weighted by their windows (Naeini, Cooper and Hauskrecht
    2015, with the probability of one class as Guo et al. 2017 do for two)."""
    total = sum(each.windows for each in bins)
    return sum(each.windows * abs(each.mean_score - each.share) for each in bins) / total


def fit_temperature(suspicious: Bools, scores: Floats) -> float:
    """The T that makes `with_temperature` likeliest on these windows (Guo et al. 2017), within 0.05 to 20.

    Meant for the validation side. The slope of the loss in 1/T only grows, so halving the interval finds it.
    """
    z, y = _log_odds(scores), suspicious.astype(np.float64)

    def slope(beta: float) -> float:
        return float(((_sigmoid(beta * z) - y) * z).sum())

    low, high = _BETA_RANGE
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def with_temperature(scores: Floats, temperature: float) -> Floats:
    """Scores with their log odds divided by the temperature: the order stays, the confidence changes."""
    return _sigmoid(_log_odds(scores) / temperature)


def calibration(suspicious: Bools, scores: Floats, temperature: float) -> dict[str, Json]:
    """Measures of calibration, as the scores are and with the temperature that validation gave."""
    bins = reliability(suspicious, scores)
    cooled = with_temperature(scores, temperature)
    table: list[Json] = [
        {
            "from": each.low,
            "to": each.high,
            "windows": each.windows,
            "mean_score": each.mean_score,
            "suspicious_share": each.share,
        }
        for each in bins
    ]
    return {
        "bins": BINS,
        "ece": expected_calibration_error(bins),
        "temperature": temperature,
        "ece_with_temperature": expected_calibration_error(reliability(suspicious, cooled)),
        "brier_with_temperature": brier(suspicious, cooled),
        "reliability": table,
    }


def _log_odds(scores: Floats) -> Floats:
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def _sigmoid(z: Floats) -> Floats:
    # Half a tangent: no overflow on either side.
    probability: Floats = 0.5 * (1 + np.tanh(z / 2))
    return probability
