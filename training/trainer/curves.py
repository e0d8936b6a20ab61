"""The numbers behind the pictures of an artifact, as CSV tables. Pure.

A picture is drawn from its table and from nothing else, so whoever doubts or wants to redraw one has all of it.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from training.trainer.metrics_alarms import delays_s, family_counts
from training.trainer.metrics_calibration import reliability, with_temperature
from training.trainer.metrics_ranking import confusion, operating_points
from training.trainer.metrics_scored import SCORE_DIGITS, Floats, Indices, Scored
from training.trainer.split_keys import EpisodeKey

Value = float | int | str | None

MOST_POINTS = 2000
"""A curve of more corners is thinned evenly to about so many."""


@dataclass(frozen=True)
class Table:
    """`rows` hold numbers already rounded as they are written; None is an empty field."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def csv(self) -> bytes:
        """The table as a file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if value is None else value for value in row] for row in self.rows])
        return text.getvalue().encode()

    def column(self, name: str) -> list[Value]:
        """The values of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def numbers(self, name: str) -> list[float]:
        """The values of a column that holds numbers only."""
        return [float(cast(float, value)) for value in self.column(name)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> Table:
    return Table(tuple(columns), tuple(tuple(_rounded(value) for value in row) for row in rows))


def _rounded(value: Value) -> Value:
    return round(value, SCORE_DIGITS) + 0.0 if isinstance(value, float) else value


def roc_and_pr(scored: Scored, threshold: float) -> tuple[Table, Table]:
    """(ROC, precision and recall), the highest threshold first. `at_threshold` is 1 in the row that raises the same
    alarms as the threshold.

    The ROC curve is straight between its corners, so those are all of it. Precision is not: each threshold that
    detects more is listed, and the steps between them have `pr_auc` as their area.
    """
    thresholds, true, false = operating_points(scored.suspicious, scored.scores)
    n_pos, n_neg = float(true[-1]), float(false[-1])
    at = int((thresholds >= threshold).sum()) - 1
    roc: list[tuple[Value, ...]] = [(None, 0.0, 0.0, int(at < 0))]
    for row in _with(at, _corners(true, false)):
        rates = (float(false[row] / n_neg), float(true[row] / n_pos))
        roc.append((float(thresholds[row]), *rates, int(row == at)))
    pr: list[tuple[Value, ...]] = []
    for row in _with(at, _steps(true)):
        precision = float(true[row] / (true[row] + false[row]))
        pr.append((float(thresholds[row]), float(true[row] / n_pos), precision, int(row == at)))
    return (
        _table(("threshold", "false_positive_rate", "true_positive_rate", "at_threshold"), roc),
        _table(("threshold", "recall", "precision", "at_threshold"), pr),
    )


def _with(at: int, rows: list[int]) -> list[int]:
    """The rows, and the one of the threshold if there is one."""
    return rows if at < 0 or at in rows else sorted([*rows, at])


def _steps(true: Floats) -> list[int]:
    """Rows that detect more than the one before, the first and the last."""
    more = np.diff(true, prepend=0.0) > 0
    more[0] = more[-1] = True
    return _thinned(np.flatnonzero(more))


def _corners(true: Floats, false: Floats) -> list[int]:
    """Rows at which the curve turns, the first and the last."""
    steps_true, steps_false = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
    if len(true) == 1:
        return [0]
    turns = steps_true[:-1] * steps_false[1:] != steps_false[:-1] * steps_true[1:]
    turns[0] = True
    return _thinned(np.append(np.flatnonzero(turns), len(true) - 1))


def _thinned(rows: Indices) -> list[int]:
    if len(rows) > MOST_POINTS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_POINTS).astype(np.intp)]
    return [int(row) for row in rows]


def confusion_table(scored: Scored, threshold: float) -> Table:
    """Windows by label and alarm, and the share of their label."""
    cells = confusion(scored.suspicious, scored.scores, threshold)
    rows: list[tuple[Value, ...]] = []
    for label, quiet, alarm in (("benign", "tn", "fp"), ("suspicious", "fn", "tp")):
        total = max(1, cells[quiet] + cells[alarm])
        rows += [
            (label, "no alarm", cells[quiet], cells[quiet] / total),
            (label, "alarm", cells[alarm], cells[alarm] / total),
        ]
    return _table(("label", "outcome", "windows", "share_of_label"), rows)


def calibration_table(scored: Scored, temperature: float) -> Table:
    """The reliability bins of the scores as they are and with the temperature that validation gave."""
    rows: list[tuple[Value, ...]] = []
    cooled = with_temperature(scored.scores, temperature)
    for name, scores in (("as given", scored.scores), ("with temperature", cooled)):
        rows += [
            (name, each.low, each.high, each.windows, each.mean_score, each.share)
            for each in reliability(scored.suspicious, scores)
        ]
    return _table(("scores", "from", "to", "windows", "mean_score", "suspicious_share"), rows)


def delay_table(scored: Scored, threshold: float, keys: Sequence[EpisodeKey]) -> Table:
    """One row for each suspicious episode, the quickest detection first; `detected_share` is the share of all
    suspicious episodes that are detected by then. Those never detected come last, with empty fields."""
    delays = delays_s(scored, threshold)
    found = sorted(
        (delay, keys[index].episode_id, index) for index, delay in delays.items() if delay is not None
    )
    never = sorted((keys[index].episode_id, index) for index, delay in delays.items() if delay is None)
    rows: list[tuple[Value, ...]] = [
        (delay, (number + 1) / len(delays), keys[index].family, name)
        for number, (delay, name, index) in enumerate(found)
    ]
    rows += [(None, None, keys[index].family, name) for name, index in never]
    return _table(("delay_s", "detected_share", "family", "episode_id"), rows)


def family_table(scored: Scored, threshold: float) -> Table:
    """Windows and alarms by label and family."""
    rows: list[tuple[Value, ...]] = []
    for label, suspicious in (("suspicious", True), ("benign", False)):
        for family, windows, alarms in family_counts(scored, threshold, suspicious=suspicious):
            rows.append((label, family, windows, alarms, alarms / windows))
    return _table(("label", "family", "windows", "alarms", "alarm_share"), rows)


def tables(
    scored: Scored, threshold: float, temperature: float, keys: Sequence[EpisodeKey]
) -> Mapping[str, Table]:
    """Every table by the name of its picture."""
    roc, pr = roc_and_pr(scored, threshold)
    return {
        "roc": roc,
        "pr": pr,
        "confusion": confusion_table(scored, threshold),
        "calibration": calibration_table(scored, temperature),
        "delay": delay_table(scored, threshold, keys),
        "families": family_table(scored, threshold),
    }
