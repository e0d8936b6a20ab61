"""Standardising what a model reads, by mean and standard deviation of the training side alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from training.trainer.options import Json

CLIP = 5.0
"""Standardised values are cut at +-CLIP: a new host's outlier must not decide alone."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature, float32 (features,)."""

    mean: Array
    sd: Array

    @classmethod
    def of(cls, x: Array) -> Scaler:
        """Statistics of windows float32 (n, features); a column without spread is only centred."""
        return cls(*_statistics(x, axis=0))

    def apply(self, x: Array) -> Array:
        """float32 (n, features), standardised and cut at +-CLIP."""
        return _applied(x, self.mean, self.sd)

    def preprocess(self) -> Mapping[str, Json]:
        """For `preprocess.json`; `from_preprocess` reads it back exactly."""
        return _described("standardise", self.mean, self.sd)

    @classmethod
    def from_preprocess(cls, preprocess: Mapping[str, Json]) -> Scaler:
        """What `preprocess` described."""
        return cls(*_read("standardise", preprocess))


@dataclass(frozen=True)
class SeriesScaler:
    """Mean and standard deviation of each channel over all windows and samples, float32 (channels,).

    One pair per channel and not per sample: the shape of a window must not change, and a sample that hardly
    varies (the rest before a gesture) must not be blown up to noise.
    """

    mean: Array
    sd: Array

    @classmethod
    def of(cls, x: Array) -> SeriesScaler:
        """Statistics of windows float32 (n, channels, samples); a channel without spread is only centred."""
        return cls(*_statistics(x, axis=(0, 2)))

    def apply(self, x: Array) -> Array:
        """float32 (n, channels, samples), standardised and cut at +-CLIP."""
        return _applied(x, self.mean[:, None], self.sd[:, None])

    def preprocess(self) -> Mapping[str, Json]:
        """For `preprocess.json`; `from_preprocess` reads it back exactly."""
        return _described("standardise_channels", self.mean, self.sd)

    @classmethod
    def from_preprocess(cls, preprocess: Mapping[str, Json]) -> SeriesScaler:
        """What `preprocess` described."""
        return cls(*_read("standardise_channels", preprocess))


def _statistics(x: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
    mean = x.mean(axis=axis, dtype=np.float64).astype(np.float32)
    sd = x.std(axis=axis, dtype=np.float64).astype(np.float32)
    return mean, np.where(sd > 0, sd, np.float32(1)).astype(np.float32)


def _applied(x: Array, mean: Array, sd: Array) -> Array:
    # Far outside the training side the division may overflow to infinity, which the cut then bounds.
    with np.errstate(over="ignore"):
        scaled: Array = np.clip((x - mean) / sd, -CLIP, CLIP).astype(np.float32, copy=False)
    return scaled


def _described(key: str, mean: Array, sd: Array) -> Mapping[str, Json]:
    # Nine significant digits give a float32 back exactly.
    means: list[Json] = [float(f"{x:.9g}") for x in mean]
    sds: list[Json] = [float(f"{x:.9g}") for x in sd]
    return {key: {"mean": means, "sd": sds, "clip": CLIP}}


def _read(key: str, preprocess: Mapping[str, Json]) -> tuple[Array, Array]:
    described = cast(Mapping[str, list[float]], preprocess[key])
    mean, sd = (np.array(described[name], dtype=np.float32) for name in ("mean", "sd"))
    return mean, sd
