"""Windows with their scores: what every measure is taken on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

SCORE_DIGITS = 6
"""Scores are rounded to this before anything is measured, so that `predictions.csv` gives the same
numbers."""


@dataclass(frozen=True)
class Scored:
    """The windows of one side. `suspicious`, `active` bool (n,); `scores` float64 (n,) the probability of
    suspicious, from 0 to 1; `episode` intp (n,) groups them; `family` and `onset_s` are by episode index;
    `end_s` float64 (n,); `stride_s` is the distance of two windows. Windows of one episode are neighbours, in
    order of time."""

    suspicious: Bools
    scores: Floats
    active: Bools
    episode: Indices
    end_s: Floats
    stride_s: float
    family: Mapping[int, str]
    onset_s: Mapping[int, float | None]

    def __len__(self) -> int:
        return len(self.scores)


def only_active(scored: Scored) -> Scored:
    """Without the windows in the quiet baseline, which any detector of mere activity gets right."""
    rows = scored.active
    return replace(
        scored,
        suspicious=scored.suspicious[rows],
        scores=scored.scores[rows],
        active=scored.active[rows],
        episode=scored.episode[rows],
        end_s=scored.end_s[rows],
    )
