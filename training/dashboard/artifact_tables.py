"""The CSV tables inside artifacts, read for the charts. Pure. They come from workers: what does not fit is left out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_ROWS = 5000
CURVES = {
    "roc": ("plots/roc.csv", "false_positive_rate", "true_positive_rate"),
    "pr": ("plots/pr.csv", "recall", "precision"),
}
"""Name -> file, column of x, column of y."""
CONFUSION, CALIBRATION = "plots/confusion.csv", "plots/calibration.csv"
FILES = (*(file for file, _, _ in CURVES.values()), CONFUSION, CALIBRATION)


def tables(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the charts need of an artifact, from its texts by file name; an entry is left out where there is none."""
    out: dict[str, Any] = {}
    for name, (file, x, y) in CURVES.items():
        if file in texts and (points := curve(texts[file], x, y)):
            out[name] = {"points": points, "at_threshold": at_threshold(texts[file], x, y)}
    if CONFUSION in texts and (cells := confusion(texts[CONFUSION])):
        out["confusion"] = cells
    if CALIBRATION in texts and (lines := calibration(texts[CALIBRATION])):
        out["calibration"] = lines
    return out


def curve(text: str, x: str, y: str) -> list[list[float]]:
    """The points [x, y] of two columns of shares."""
    return [
        [a, b]
        for row in _rows(text)
        if (a := _share(row, x)) is not None and (b := _share(row, y)) is not None
    ]


def at_threshold(text: str, x: str, y: str) -> list[float] | None:
    """The point of the threshold in use."""
    for row in _rows(text):
        if row.get("at_threshold") == "1":
            a, b = _share(row, x), _share(row, y)
            return None if a is None or b is None else [a, b]
    return None


def confusion(text: str) -> list[dict[str, Any]]:
    """`{"label", "outcome", "windows", "share"}`, of both labels and both outcomes or nothing."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _rows(text):
        windows, share = _number(row, "windows"), _share(row, "share_of_label")
        label, outcome = row.get("label") or "", row.get("outcome") or ""
        if windows is not None and share is not None and 0 <= windows < 1e15:
            found[label, outcome] = {
                "label": label,
                "outcome": outcome,
                "windows": int(windows),
                "share": share,
            }
    wanted = [(label, outcome) for label in ("benign", "suspicious") for outcome in ("no alarm", "alarm")]
    return [found[key] for key in wanted] if all(key in found for key in wanted) else []


def grid(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """The cells by label, as the chart wants them."""
    labels = list(dict.fromkeys(cell["label"] for cell in cells))
    return [
        (
            label,
            [(cell["outcome"], cell["windows"], cell["share"]) for cell in cells if cell["label"] == label],
        )
        for label in labels
    ]


def calibration(text: str) -> dict[str, list[list[float]]]:
    """Points [mean score, suspicious share] for each kind of scores."""
    out: dict[str, list[list[float]]] = {}
    for row in _rows(text):
        mean, share, kind = (
            _share(row, "mean_score"),
            _share(row, "suspicious_share"),
            row.get("scores") or "",
        )
        if mean is not None and share is not None and kind in ("as given", "with temperature"):
            out.setdefault(kind, []).append([mean, share])
    return out


def stairs(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Precision over recall as steps: up to a recall holds the precision of the threshold that reaches it; a straight
    line between two thresholds would promise a precision that no threshold has (Davis and Goadrich 2006)."""
    corners: list[tuple[float, float]] = []
    reached = 0.0
    for recall, precision in points:
        corners += [(reached, precision), (recall, precision)]
        reached = recall
    return corners


def _rows(text: str) -> Iterator[dict[str, str]]:
    """Rows by the names of the first line, whole ones only, up to the first that cannot be read."""
    reader = csv.reader(io.StringIO(text))
    try:
        header = next(reader, [])
        for number, row in enumerate(reader):
            if number >= MAX_ROWS:
                return
            if len(row) == len(header):
                yield dict(zip(header, row, strict=True))
    except csv.Error:
        return


def _number(row: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(row.get(key) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _share(row: Mapping[str, str], key: str) -> float | None:
    value = _number(row, key)
    return value if value is not None and 0 <= value <= 1 else None
