"""How well scores put suspicious windows above benign ones, and what each threshold costs.

Throughout, `suspicious` is bool (n,), `scores` float64 (n,), larger = more suspicious, and a window raises an
alarm when its score >= the threshold. A measure that is not defined (one label only) is None.
"""

import numpy as np

from training.trainer.metrics_scored import SCORE_DIGITS, Bools, Floats, Scored, only_active

BOOTSTRAP_ROUNDS = 500
_CHUNK_CELLS = 4_000_000
"""Rounds x windows that the bootstrap holds at once: 32 MB for each of a few arrays."""

_SLACK = 1e-9
"""A rate that equals its limit but for the rounding of a division is within it."""


def roc_auc(suspicious: Bools, scores: Floats) -> float | None:
    """Probability that a suspicious window scores above a benign one; ties count half (Mann-Whitney; Hanley and
    McNeil 1982)."""
    n_pos = int(suspicious.sum())
    n_neg = len(suspicious) - n_pos
    if not n_pos or not n_neg:
        return None
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2
    rank_sum = float(mean_rank[which][suspicious].sum())
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def operating_points(suspicious: Bools, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """(threshold, true alarms, false alarms) for each distinct score, highest threshold first."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], suspicious[order].astype(np.float64)
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true = np.cumsum(hits)[last_of_tie]
    return ordered[last_of_tie], true, (last_of_tie + 1) - true


def average_precision(suspicious: Bools, scores: Floats) -> float | None:
    """Area under the precision-recall steps: sum of (recall step) x (precision there), without interpolation
    (Davis and Goadrich 2006 say why). A random score gives about the base rate."""
    n_pos = int(suspicious.sum())
    if not n_pos:
        return None
    _, true, false = operating_points(suspicious, scores)
    steps = np.diff(np.concatenate(([0.0], true))) / n_pos
    return float((steps * true / (true + false)).sum())


def fpr_at_tpr(suspicious: Bools, scores: Floats, tpr: float) -> float | None:
    """Smallest false positive rate at which at least `tpr` of the suspicious windows raise an alarm."""
    n_pos, n = int(suspicious.sum()), len(suspicious)
    if not n_pos or n_pos == n:
        return None
    _, true, false = operating_points(suspicious, scores)
    return float(false[true >= tpr * n_pos - _SLACK][0] / (n - n_pos))


def tpr_at_fpr(suspicious: Bools, scores: Floats, fpr: float) -> float | None:
    """Largest true positive rate with at most `fpr` of the benign windows raising an alarm. With fewer than
    1 / fpr benign windows that means: without any false alarm."""
    n_pos, n = int(suspicious.sum()), len(suspicious)
    if not n_pos or n_pos == n:
        return None
    _, true, false = operating_points(suspicious, scores)
    reached = true[false <= fpr * (n - n_pos) + _SLACK]
    return float(reached[-1] / n_pos) if len(reached) else 0.0


def threshold_at_fpr(suspicious: Bools, scores: Floats, fpr: float) -> float:
    """The score at which as many suspicious windows raise an alarm as `fpr` of the benign ones allows, and
    not one false alarm more than that takes; just above the highest score when no detection is possible.

    Meant for the validation side.
    """
    thresholds, true, false = operating_points(suspicious, scores)
    allowed = np.flatnonzero(false <= fpr * float((~suspicious).sum()) + _SLACK)
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


Interval = tuple[float, float] | None


def bootstrap(scored: Scored, seed: int, rounds: int = BOOTSTRAP_ROUNDS) -> dict[str, Interval]:
    """95 % percentile intervals (Efron and Tibshirani 1993, chapter 13) of `roc_auc`, `roc_auc_active`, `pr_auc`,
    `fpr_at_tpr90` and `tpr_at_fpr1`.

    Whole episodes are drawn: windows of one episode are not independent, and an interval over single windows
    would be far too narrow. Draws with one label only are left out; None when all are. A drawn episode counts
    as often as it was drawn, so each round is one weighting of the same sorted windows.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    n_episodes = len(np.unique(scored.episode))
    drawn = rng.integers(0, n_episodes, size=(rounds, n_episodes))
    times = np.zeros((rounds, n_episodes))
    np.add.at(times, (np.arange(rounds)[:, None], drawn), 1.0)
    # Active windows are weighted like all others: by how often their episode was drawn.
    index = np.unique(scored.episode, return_inverse=True)[1]
    every = _resampled(scored.suspicious, scored.scores, index, times)
    active = only_active(scored)
    of_active = _resampled(active.suspicious, active.scores, index[scored.active], times)[:, :1]
    return {
        "roc_auc": _interval(every[:, 0]),
        "roc_auc_active": _interval(of_active[:, 0]),
        "pr_auc": _interval(every[:, 1]),
        "fpr_at_tpr90": _interval(every[:, 2]),
        "tpr_at_fpr1": _interval(every[:, 3]),
    }


def _interval(values: Floats) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def _resampled(suspicious: Bools, scores: Floats, episode: np.ndarray, times: Floats) -> Floats:
    """(rounds, 4): ROC-AUC, PR-AUC, FPR at 90 % TPR and TPR at 1 % FPR of each weighting; NaN with one label.

    `episode` intp (n,) indexes the columns of `times` float64 (rounds, episodes).
    """
    found = np.full((len(times), 4), np.nan)
    if not len(scores):
        return found
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    columns, hits = episode[order], suspicious[order].astype(np.float64)
    chunk = max(1, _CHUNK_CELLS // len(scores))
    for start in range(0, len(times), chunk):
        weights = times[start : start + chunk][:, columns]
        true = np.cumsum(weights * hits, axis=1)[:, last_of_tie]
        false = np.cumsum(weights * (1 - hits), axis=1)[:, last_of_tie]
        found[start : start + chunk] = _weighted_measures(true, false)
    return found


def _weighted_measures(true: Floats, false: Floats) -> Floats:
    """`true`, `false` float64 (rounds, thresholds): alarms at each threshold, the highest first -> (rounds, 4)."""
    n_pos, n_neg = true[:, -1:], false[:, -1:]
    defined = (n_pos[:, 0] > 0) & (n_neg[:, 0] > 0)
    true, false, n_pos, n_neg = true[defined], false[defined], n_pos[defined], n_neg[defined]
    new_true = np.diff(true, axis=1, prepend=0.0)
    new_false = np.diff(false, axis=1, prepend=0.0)
    auc = (new_false * (true - new_true / 2)).sum(axis=1) / (n_pos * n_neg)[:, 0]
    alarms = np.maximum(true + false, 1.0)  # 0 alarms come with a step of 0
    precision_area = (new_true * true / alarms).sum(axis=1) / n_pos[:, 0]
    rows = np.arange(len(true))
    at_tpr90 = np.argmax(true >= 0.90 * n_pos - _SLACK, axis=1)
    n_within = (false <= 0.01 * n_neg + _SLACK).sum(axis=1)
    tpr = np.where(n_within > 0, true[rows, np.maximum(n_within - 1, 0)] / n_pos[:, 0], 0.0)
    values = np.full((len(defined), 4), np.nan)
    values[defined] = np.stack((auc, precision_area, false[rows, at_tpr90] / n_neg[:, 0], tpr), axis=1)
    return values
