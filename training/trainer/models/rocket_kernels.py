"""The transform behind `rocket`: many fixed convolutions of a series, each summed up as one share.

After Dempster, Schmidt and Webb, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
Classification", KDD 2021, arXiv 2012.08791. What is taken from there:

- 84 kernels of length 9: three weights of 2, six of -1, so that a constant added to the series changes nothing;
- dilations on an exponential grid, the largest such that a kernel spans the whole series, at most 32 per kernel;
- half of the pairs of kernel and dilation pad the series with zeros, the others see its inside only;
- one feature per pair and bias: the share of positions where the convolution exceeds the bias (PPV);
- a bias is a quantile of the pair's convolution of one random training series, the quantiles from a
  low-discrepancy sequence;
- with several channels, each pair sums a random few of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Ints = NDArray[np.int32]

LENGTH = 9
HALF = LENGTH // 2
TRIPLES: tuple[tuple[int, ...], ...] = tuple(itertools.combinations(range(LENGTH), 3))
"""The 84 kernels, each by the positions of its three large weights."""

MAX_DILATIONS = 32
MAX_CHANNELS = 9
"""Most channels that one pair of kernel and dilation sums."""

_GOLDEN = (np.sqrt(5.0) + 1) / 2
_CELLS = 65_536
"""Numbers in one block of series: all that a convolution touches then stays in the processor's cache."""


@dataclass(frozen=True)
class Pair:
    """One kernel at one dilation: what it reads, and where its features stand (`first` to `last` exclusive)."""

    kernel: int
    dilation: int
    padded: bool
    channels: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Kernels:
    """All convolutions of one model, for series of `samples`.

    Per pair, dilation by dilation and in it kernel by kernel: `channel_lists` int32 (pairs, most channels of a
    pair), filled up with -1. `dilations` and `biases_per_kernel` int32 (dilations,); `biases` float32 (features,).
    """

    samples: int
    n_channels: int
    dilations: Ints
    biases_per_kernel: Ints
    channel_lists: Ints
    biases: Array

    def pairs(self) -> Iterator[Pair]:
        """Every pair in the order of the features."""
        first = 0
        for row, (number, kernel) in enumerate(
            itertools.product(range(len(self.dilations)), range(len(TRIPLES)))
        ):
            last = first + int(self.biases_per_kernel[number])
            yield Pair(
                kernel=kernel,
                dilation=int(self.dilations[number]),
                # A series no longer than the kernel has no inside.
                padded=self.samples < LENGTH or (number + kernel) % 2 == 0,
                channels=tuple(int(channel) for channel in self.channel_lists[row] if channel >= 0),
                first=first,
                last=last,
            )
            first = last

    def transform(self, x: Array, tick: Callable[[], None] = lambda: None) -> Array:
        """Features float32 (features, n) of series float32 (n, channels, samples): shares from 0 to 1.

        A series' features do not depend on its neighbours. `tick` is called about every hundredth of a second.
        """
        margin = HALF * int(self.dilations.max())
        block = max(1, _CELLS // (self.samples + 2 * margin))
        features = np.empty((len(self.biases), len(x)), dtype=np.float32)
        pairs = list(self.pairs())
        for start in range(0, len(x), block):
            padded = _padded(x[start : start + block], margin)
            for pair in pairs:
                tick()
                self._shares(padded, margin, pair, features[:, start : start + block])
        return features

    def _shares(self, padded: Array, margin: int, pair: Pair, features: Array) -> None:
        out = _convolved(padded, margin, pair)
        above = np.empty(out.shape, dtype=np.bool_)
        scale = np.float32(1 / len(out))
        for feature in range(pair.first, pair.last):
            np.greater(out, self.biases[feature], out=above)
            np.multiply(_counts(above), scale, out=features[feature])


def _padded(x: Array, margin: int) -> Array:
    """float32 (channels, margin + samples + margin, n): series side by side, so that every operation runs over
    neighbours in memory."""
    n, channels, samples = x.shape
    padded = np.zeros((channels, samples + 2 * margin, n), dtype=np.float32)
    padded[:, margin : margin + samples] = x.transpose(1, 2, 0)
    return padded


def _convolved(padded: Array, margin: int, pair: Pair) -> Array:
    """The convolution of each series: float32 (positions, n)."""
    summed = padded[pair.channels[0]]
    for channel in pair.channels[1:]:
        summed = summed + padded[channel]
    reach = HALF * pair.dilation
    inset = margin if pair.padded else margin + reach
    positions = len(summed) - 2 * inset
    begins = [inset - reach + tap * pair.dilation for tap in range(LENGTH)]
    taps = [summed[begin : begin + positions] for begin in begins]
    i, j, k = TRIPLES[pair.kernel]
    out: Array = taps[i] + taps[j]
    out += taps[k]
    out *= np.float32(3)
    for tap in taps:
        out -= tap
    return out


def _counts(above: NDArray[np.bool_]) -> NDArray[np.integer]:
    """How many of each column are true. Bytes are added as long as they cannot overflow: that is many times
    faster than counting in wide integers."""
    ones = above.view(np.uint8)
    if len(ones) <= 255:
        narrow: NDArray[np.integer] = np.add.reduce(ones, axis=0, dtype=np.uint8)
        return narrow
    parts = [
        np.add.reduce(ones[at : at + 255], axis=0, dtype=np.uint8).astype(np.int64)
        for at in range(0, len(ones), 255)
    ]
    wide: NDArray[np.integer] = np.add.reduce(parts, axis=0)
    return wide


def dilations_of(samples: int, biases_per_kernel: int) -> tuple[Ints, Ints]:
    """(dilations, biases of each kernel at each dilation), which add up to `biases_per_kernel`."""
    n_dilations = min(biases_per_kernel, MAX_DILATIONS)
    largest = max(0.0, float(np.log2(max(1, samples - 1) / (LENGTH - 1))))
    grid = np.floor(2.0 ** np.linspace(0, largest, n_dilations)).astype(np.int32)
    dilations, counts = np.unique(grid, return_counts=True)
    shares = counts * biases_per_kernel // n_dilations
    # What the division left over goes to the smallest dilations, one each.
    shares[np.arange(biases_per_kernel - int(shares.sum())) % len(shares)] += 1
    return dilations.astype(np.int32), shares.astype(np.int32)


def fit_kernels(x: Array, num_features: int, rng: np.random.Generator) -> Kernels:
    """Kernels for series like `x` float32 (n, channels, samples); n may be 1.

    There are `num_features` rounded down to a multiple of 84, and at least 84.
    """
    n, n_channels, samples = x.shape
    dilations, per_kernel = dilations_of(samples, max(1, num_features // len(TRIPLES)))
    n_pairs = len(dilations) * len(TRIPLES)
    biases = np.zeros(int(per_kernel.sum()) * len(TRIPLES), dtype=np.float32)
    kernels = Kernels(
        samples, n_channels, dilations, per_kernel, _draw_channels(n_channels, n_pairs, rng), biases
    )
    quantiles = (np.arange(1, len(biases) + 1) * _GOLDEN) % 1.0
    examples = rng.integers(0, n, n_pairs)
    margin = HALF * int(dilations.max())
    for pair, example in zip(kernels.pairs(), examples, strict=True):
        out = _convolved(_padded(x[example : example + 1], margin), margin, pair)
        biases[pair.first : pair.last] = _quantiles(out[:, 0], quantiles[pair.first : pair.last])
    return kernels


def _draw_channels(n_channels: int, n_pairs: int, rng: np.random.Generator) -> Ints:
    """Which channels each pair sums: how many is drawn so that each power of two is as likely."""
    most = min(n_channels, MAX_CHANNELS)
    sizes = np.floor(2.0 ** rng.uniform(0, np.log2(most + 1), n_pairs)).astype(np.int32)
    lists = np.full((n_pairs, most), -1, dtype=np.int32)
    for row, size in zip(lists, np.minimum(sizes, most), strict=True):
        row[:size] = np.sort(rng.choice(n_channels, size, replace=False))
    return lists


def _quantiles(values: Array, at: NDArray[np.float64]) -> Array:
    """Quantiles by linear interpolation between neighbours."""
    ordered = np.sort(values).astype(np.float64)
    return np.interp(at * (len(ordered) - 1), np.arange(len(ordered)), ordered).astype(np.float32)


def tensors_of(kernels: Kernels) -> Mapping[str, NDArray[np.generic]]:
    """The kernels as named arrays."""
    return {
        "kernels.dilations": kernels.dilations,
        "kernels.biases_per_kernel": kernels.biases_per_kernel,
        "kernels.channel_lists": kernels.channel_lists,
        "kernels.biases": kernels.biases,
    }


def kernels_of(tensors: Mapping[str, NDArray[np.generic]], n_channels: int, samples: int) -> Kernels:
    """What `tensors_of` gave."""
    return Kernels(
        samples,
        n_channels,
        tensors["kernels.dilations"].astype(np.int32),
        tensors["kernels.biases_per_kernel"].astype(np.int32),
        tensors["kernels.channel_lists"].astype(np.int32),
        tensors["kernels.biases"].astype(np.float32),
    )
