"""The four public data sets of `benchmarks.tsc`, read out of aeon's wheel without importing it.

JapaneseVowels (series of 7 to 29 samples) is padded with zeros to the longest series, for every program alike. The
default split of each set is used: its training part trains, whole, and its test part tests.

Needs numpy alone, for it runs in the environment of the peers too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SETS = ("BasicMotions", "JapaneseVowels", "ItalyPowerDemand", "GunPoint")
PEERS: Mapping[str, str] = {
    "aeon-MiniRocket": "MiniRocketClassifier",
    "aeon-MultiRocket": "MultiRocketClassifier",
}
"""What our models are compared with, and aeon's name for it."""


class NoData(Exception):
    """A data set is not there or not what was expected; the text says what to type."""


@dataclass(frozen=True)
class Problem:
    """Series float32 (n, channels, samples) and their classes, int64 (n,), numbered in the order of their names."""

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    classes: tuple[str, ...]

    def largest_class_share(self) -> float:
        """Accuracy on the test part of always naming its largest class."""
        return float(np.bincount(self.test_y, minlength=len(self.classes)).max() / len(self.test_y))


def folder() -> Path:
    """Where the installed aeon keeps its data sets. Raises NoData."""
    found = importlib.util.find_spec("aeon")  # looks for it, does not import it
    for place in (found and found.submodule_search_locations) or ():
        if (Path(place) / "datasets" / "data").is_dir():
            return Path(place) / "datasets" / "data"
    raise NoData("the data sets lie in aeon's wheel, which this Python lacks; type: make bench-tsc")


def load(name: str, data: Path | None = None) -> Problem:
    """One of `SETS`. Raises NoData with file and line."""
    base = (data or folder()) / name
    train, test = (read_ts(base / f"{name}_{part}.ts") for part in ("TRAIN", "TEST"))
    classes = tuple(sorted(set(train[1])))
    if unknown := set(test[1]) - set(classes):
        raise NoData(f"{name}: the test part has classes that the training part lacks: {sorted(unknown)}")
    longest = max(series.shape[1] for series in train[0] + test[0])
    number = {label: i for i, label in enumerate(classes)}
    (train_x, train_y), (test_x, test_y) = (
        (padded(series, longest), np.array([number[label] for label in labels], dtype=np.int64))
        for series, labels in (train, test)
    )
    return Problem(name, train_x, train_y, test_x, test_y, classes)


def read_ts(path: Path) -> tuple[list[NDArray[np.float32]], list[str]]:
    """A file in the `.ts` format: after `@data` one example a line, channels and last the class separated by `:`,
    samples by `,`. Each series is float32 (channels, samples). Raises NoData."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NoData(f"{path}: cannot be read ({error.strerror})") from error
    start = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise NoData(f"{path}: found no line '@data'")
    series: list[NDArray[np.float32]] = []
    labels: list[str] = []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip():
            continue
        *channels, label = line.strip().split(":")
        try:
            values = np.array([[float(word) for word in channel.split(",")] for channel in channels])
        except ValueError as error:
            raise NoData(
                f"{path}:{number}: found {error}, expected numbers, as many in each channel"
            ) from None
        if values.ndim != 2 or not np.isfinite(values).all():
            raise NoData(f"{path}:{number}: found a missing value, expected finite numbers")
        series.append(values.astype(np.float32))
        labels.append(label.strip())
    return series, labels


def padded(series: list[NDArray[np.float32]], length: int) -> NDArray[np.float32]:
    """Zeros behind each series up to `length`; float32 (n, channels, length)."""
    out = np.zeros((len(series), series[0].shape[0], length), dtype=np.float32)
    for row, values in zip(out, series, strict=True):
        row[:, : values.shape[1]] = values
    return out
