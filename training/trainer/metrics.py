"""How good the scores are: numpy only, and every definition written out.

Throughout, `suspicious` is bool (n,), `scores` float64 (n,), larger = more suspicious, and a window
raises an alarm when its score >= the threshold. A measure that is not defined (one label only) is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.trainer.options import Json

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

SCORE_DIGITS = 6
"""Scores are rounded to this before anything is measured, so that `predictions.csv` gives the same
numbers."""

VALIDATION_FPR = 0.05
BOOTSTRAP_ROUNDS = 500


@dataclass(frozen=True)
class Scored:
    """The windows of one side. `episode` intp (n,) groups them; `family` and `onset_s` are by episode index;
    `stride_s` is the distance of two windows. Windows of one episode are in order of time."""

    suspicious: Bools
    scores: Floats
    active: Bools
    episode: Indices
    end_s: Floats
    stride_s: float
    family: Mapping[int, str]
    onset_s: Mapping[int, float | None]


def roc_auc(suspicious: Bools, scores: Floats) -> float | None:
    """Probability that a suspicious window scores above a benign one; ties count half (Mann-Whitney)."""
    n_pos = int(suspicious.sum())
    n_neg = len(suspicious) - n_pos
    if not n_pos or not n_neg:
        return None
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2
    rank_sum = float(mean_rank[which][suspicious].sum())
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def _operating_points(suspicious: Bools, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """(threshold, true alarms, false alarms) for each distinct score, highest threshold first."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], suspicious[order].astype(np.float64)
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true = np.cumsum(hits)[last_of_tie]
    return ordered[last_of_tie], true, (last_of_tie + 1) - true


def average_precision(suspicious: Bools, scores: Floats) -> float | None:
    """Area under the precision-recall steps: sum of (recall step) x (precision there). A random score gives
    about the base rate."""
    n_pos = int(suspicious.sum())
    if not n_pos:
        return None
    _, true, false = _operating_points(suspicious, scores)
    steps = np.diff(np.concatenate(([0.0], true))) / n_pos
    return float((steps * true / (true + false)).sum())


def fpr_at_tpr(suspicious: Bools, scores: Floats, tpr: float) -> float | None:
    """Smallest false positive rate at which at least `tpr` of the suspicious windows raise an alarm."""
    n_pos, n = int(suspicious.sum()), len(suspicious)
    if not n_pos or n_pos == n:
        return None
    _, true, false = _operating_points(suspicious, scores)
    return float(false[true >= tpr * n_pos - 1e-9][0] / (n - n_pos))


def tpr_at_fpr(suspicious: Bools, scores: Floats, fpr: float) -> float | None:
    """Largest true positive rate with at most `fpr` of the benign windows raising an alarm."""
    n_pos, n = int(suspicious.sum()), len(suspicious)
    if not n_pos or n_pos == n:
        return None
    _, true, false = _operating_points(suspicious, scores)
    reached = true[false <= fpr * (n - n_pos) + 1e-9]
    return float(reached[-1] / n_pos) if len(reached) else 0.0


def threshold_at_fpr(suspicious: Bools, scores: Floats, fpr: float) -> float:
    """The score at which as many suspicious windows raise an alarm as `fpr` of the benign ones allows, and
    not one false alarm more than that takes; just above the highest score when no detection is possible.

    Meant for the validation side.
    """
    thresholds, true, false = _operating_points(suspicious, scores)
    allowed = np.flatnonzero(false <= fpr * float((~suspicious).sum()) + 1e-9)
    most = float(true[allowed].max()) if len(allowed) else 0.0
    if most:
        return float(thresholds[int(np.argmax(true == most))])
    just_above: float = round(float(thresholds[0]) + 10.0**-SCORE_DIGITS, SCORE_DIGITS)
    return just_above


def confusion(suspicious: Bools, scores: Floats, threshold: float) -> dict[str, int]:
    """Counts of windows: tn, fp, fn, tp."""
    alarm = scores >= threshold
    return {
        "tn": int((~suspicious & ~alarm).sum()),
        "fp": int((~suspicious & alarm).sum()),
        "fn": int((suspicious & ~alarm).sum()),
        "tp": int((suspicious & alarm).sum()),
    }


def accuracy(suspicious: Bools, scores: Floats, threshold: float) -> float:
    """Share of windows on the right side of the threshold."""
    return float(((scores >= threshold) == suspicious).mean())


def brier(suspicious: Bools, scores: Floats) -> float:
    """Mean squared distance of the score, read as a probability, from 0 or 1 (Brier 1950, two classes)."""
    return float(((scores - suspicious.astype(np.float64)) ** 2).mean())


def alarm_rate_by_family(scored: Scored, threshold: float, *, suspicious: bool) -> dict[str, float]:
    """Per family, the share of its suspicious windows (recall) or of its benign windows (false positive rate)
    that raise an alarm."""
    chosen = scored.suspicious == suspicious
    families = np.array([scored.family[int(e)] for e in scored.episode])
    rates: dict[str, float] = {}
    for family in sorted(set(families[chosen].tolist())):
        rows = chosen & (families == family)
        rates[family] = float((scored.scores[rows] >= threshold).mean())
    return rates


def false_alarms_per_host_hour(scored: Scored, threshold: float) -> float | None:
    """Runs of consecutive alarming windows that are benign, per hour of benign time. A run is one alarm to
    the person who is called; benign time is the number of benign windows times the stride."""
    benign = ~scored.suspicious
    if not benign.any():
        return None
    false = benign & (scored.scores >= threshold)
    goes_on = np.zeros_like(false)
    goes_on[1:] = false[:-1] & (scored.episode[1:] == scored.episode[:-1])
    hours = float(benign.sum()) * scored.stride_s / 3600
    return float((false & ~goes_on).sum()) / hours


def detection_delay(scored: Scored, threshold: float) -> dict[str, Json]:
    """From the onset of suspicious behaviour to the end of the first alarming window that reaches into it.

    `median_s` is over the detected episodes (None without one), `never_share` the share of suspicious
    episodes without an alarm after onset.
    """
    delays: list[float] = []
    n_never = 0
    for index in sorted({int(e) for e in scored.episode}):
        onset_s = scored.onset_s[index]
        if onset_s is None:
            continue
        rows = (scored.episode == index) & (scored.scores >= threshold) & (scored.end_s > onset_s)
        if rows.any():
            delays.append(float(scored.end_s[rows].min()) - onset_s)
        else:
            n_never += 1
    total = len(delays) + n_never
    return {
        "episodes": total,
        "median_s": float(np.median(delays)) if delays else None,
        "never_share": n_never / total if total else None,
    }


def bootstrap_auc(scored: Scored, seed: int, rounds: int = BOOTSTRAP_ROUNDS) -> tuple[float, float] | None:
    """95 % percentile interval of the ROC-AUC, drawing whole episodes: windows of one episode are not
    independent. Draws with one label only are left out; None when all are."""
    rng = np.random.Generator(np.random.PCG64(seed))
    by_episode = [np.flatnonzero(scored.episode == e) for e in np.unique(scored.episode)]
    values: list[float] = []
    for _ in range(rounds):
        drawn = rng.integers(0, len(by_episode), size=len(by_episode))
        rows = np.concatenate([by_episode[int(e)] for e in drawn])
        value = roc_auc(scored.suspicious[rows], scored.scores[rows])
        if value is not None:
            values.append(value)
    if not values:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


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


def measure(scored: Scored, threshold: float, seed: int) -> dict[str, Json]:
    """Every measure of one side at the threshold that validation fixed. Not rounded.

    `roc_auc_of_mere_activity` is what a detector reaches that only tells the quiet baseline from the rest: a
    model is worth something above that, and where its `roc_auc_active` is above one half.
    """
    y, s = scored.suspicious, scored.scores
    active = only_active(scored)
    interval, active_interval = bootstrap_auc(scored, seed), bootstrap_auc(active, seed)
    recall: dict[str, Json] = {**alarm_rate_by_family(scored, threshold, suspicious=True)}
    false_rate: dict[str, Json] = {**alarm_rate_by_family(scored, threshold, suspicious=False)}
    cells: dict[str, Json] = {**confusion(y, s, threshold)}
    return {
        "windows": len(y),
        "episodes": len(np.unique(scored.episode)),
        "base_rate": float(y.mean()),
        "roc_auc": roc_auc(y, s),
        "roc_auc_ci95": [*interval] if interval else None,
        "roc_auc_active": roc_auc(active.suspicious, active.scores),
        "roc_auc_active_ci95": [*active_interval] if active_interval else None,
        "roc_auc_of_mere_activity": roc_auc(y, scored.active.astype(np.float64)),
        "pr_auc": average_precision(y, s),
        "brier": brier(y, s),
        "accuracy_at_half": accuracy(y, s, 0.5),
        "fpr_at_tpr90": fpr_at_tpr(y, s, 0.90),
        "fpr_at_tpr95": fpr_at_tpr(y, s, 0.95),
        "tpr_at_fpr1": tpr_at_fpr(y, s, 0.01),
        "tpr_at_fpr5": tpr_at_fpr(y, s, 0.05),
        "at_threshold": {
            "threshold": threshold,
            "accuracy": accuracy(y, s, threshold),
            "confusion": cells,
            "recall_by_family": recall,
            "false_positive_rate_by_family": false_rate,
            "false_alarms_per_host_hour": false_alarms_per_host_hour(scored, threshold),
            "detection_delay": detection_delay(scored, threshold),
        },
    }


def headline(measured: Mapping[str, Json]) -> dict[str, Json]:
    """The few numbers a table of jobs shows."""
    names: Sequence[str] = (
        "roc_auc",
        "roc_auc_ci95",
        "roc_auc_of_mere_activity",
        "roc_auc_active",
        "roc_auc_active_ci95",
        "pr_auc",
        "base_rate",
        "fpr_at_tpr90",
    )
    return {name: measured[name] for name in names}
