"""Two artifacts of one job side by side: which files differ, and by how much scores and measures do.

Pure Python: the operator's machine need not have numpy. The scores decide, since they are what the model says; a
measure follows from them over a threshold and may jump by a whole window when one score moves by a millionth.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cis490.digest import sha256_file

CLOSE = 1e-3
"""Largest difference of a score with which two artifacts still count as close."""
PREDICTIONS, METRICS = "predictions.csv", "metrics.json"

Verdict = Literal["bit-identical", "close", "different"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found; `reason` is the verdict's half sentence. A difference is None where there is nothing to
    compare, and infinite where one side is no number."""

    verdict: Verdict
    reason: str
    differing_files: tuple[str, ...] = ()
    windows: int | None = None
    score_difference: float | None = None
    metric_difference: float | None = None
    metric: str = ""
    """Which measure differs most, as a path: `test.roc_auc`."""


IDENTICAL = Comparison("bit-identical", "the same artifact")


class _Unlike(Exception):
    """The two lists of predictions are not of the same windows, and how that shows."""


def compare(accepted: Path, repeated: Path) -> Comparison:
    """The unpacked artifacts in two folders. OSError when they cannot be read."""
    files = [_digests(folder) for folder in (accepted, repeated)]
    names = sorted({*files[0], *files[1]})
    differing = tuple(name for name in names if files[0].get(name) != files[1].get(name))
    texts = [[_text(folder / name) for folder in (accepted, repeated)] for name in (PREDICTIONS, METRICS)]
    metric, metric_difference = metric_differences(*map(_json, texts[1]))
    try:
        windows, largest = score_differences(*texts[0])
    except _Unlike as why:
        return Comparison("different", str(why), differing, None, None, metric_difference, metric)
    verdict: Verdict = "close" if largest <= CLOSE else "different"
    reason = (
        "the same score for every window"
        if largest == 0
        else f"scores of the same windows differ by up to {largest:.3g} ({'<=' if largest <= CLOSE else '>'} {CLOSE:g})"
    )
    return Comparison(verdict, reason, differing, windows, largest, metric_difference, metric)


def score_differences(accepted: str, repeated: str) -> tuple[int, float]:
    """How many windows two `predictions.csv` have, and the largest difference of a score of the same window.

    Raises _Unlike when they are not of the same windows in the same order.
    """
    try:
        sides = [list(csv.reader(text.splitlines())) for text in (accepted, repeated)]
    except csv.Error as fault:
        raise _Unlike(f"{PREDICTIONS} is no table on at least one side: {fault}") from fault
    if not all(sides):
        raise _Unlike(f"{PREDICTIONS} is missing or empty on at least one side")
    (header, *rows), (other_header, *other_rows) = sides
    scores = [at for at, name in enumerate(header) if name == "score" or name.startswith("score_")]
    if header != other_header or not scores:
        raise _Unlike(f"{PREDICTIONS} has other columns")
    if len(rows) != len(other_rows):
        raise _Unlike(f"{len(rows)} windows were scored, and {len(other_rows)} the second time")
    largest = 0.0
    for line, (row, other) in enumerate(zip(rows, other_rows, strict=True), 2):
        if len(row) != len(header) or len(other) != len(header):
            raise _Unlike(f"{PREDICTIONS} line {line} is no row of that table")
        if any(row[at] != other[at] for at in range(len(header)) if at not in scores):
            raise _Unlike(f"other windows were scored, from line {line} of {PREDICTIONS} on")
        largest = max(largest, *(_apart(row[at], other[at]) for at in scores))
    return len(rows), largest


def metric_differences(accepted: object, repeated: object) -> tuple[str, float | None]:
    """The measure that differs most between two `metrics.json`, and by how much; ("", None) without measures."""
    sides = dict(_leaves(accepted, "")), dict(_leaves(repeated, ""))
    apart = {name: _apart(sides[0].get(name), sides[1].get(name)) for name in sorted({*sides[0], *sides[1]})}
    if not apart:
        return "", None
    name = max(apart, key=lambda one: apart[one])
    return (name, apart[name]) if apart[name] > 0 else ("", 0.0)


def _apart(one: object, other: object) -> float:
    """Difference of two numbers (or their texts); 0 for anything that is equal, infinity for the rest."""
    if one == other:
        return 0.0
    try:
        found = abs(float(one) - float(other))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return round(found, 12) if math.isfinite(found) else math.inf  # 0.751 - 0.75 is a little more than 0.001


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _leaves(item, f"{path}[{at}]")
    elif path:
        yield path, value


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()
    }


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
