"""How good the scores of one side are: every measure, put together. Each stands with its definition in
`metrics_ranking`, `metrics_alarms` and `metrics_calibration`. numpy only."""

from collections.abc import Mapping
from typing import cast

import numpy as np

from training.trainer.metrics_alarms import (
    alarm_rate_by_family,
    detection_delay,
    false_alarms_per_host_hour,
)
from training.trainer.metrics_calibration import brier, calibration
from training.trainer.metrics_ranking import (
    accuracy,
    average_precision,
    bootstrap,
    confusion,
    fpr_at_tpr,
    roc_auc,
    tpr_at_fpr,
)
from training.trainer.metrics_scored import Scored, only_active
from training.trainer.options import Json

VALIDATION_FPR = 0.05
"""Share of benign validation windows that may raise an alarm: fixes the threshold."""

MOST_VALIDATION_FPR = 0.10


def threshold_fpr(scored: Scored) -> float:
    """Share of benign windows of the validation side that may raise an alarm: VALIDATION_FPR, or one benign
    episode if that is more, at most MOST_VALIDATION_FPR.

    Windows of one episode rise together. Where one episode is more than 5 % of the benign windows, a single odd
    one would push the threshold above every other score and switch the detector off.
    """
    episodes = scored.episode[~scored.suspicious]
    if not len(episodes):
        return VALIDATION_FPR
    largest = float(np.unique(episodes, return_counts=True)[1].max()) / len(episodes)
    return min(max(VALIDATION_FPR, largest), MOST_VALIDATION_FPR)


def measure(scored: Scored, threshold: float, temperature: float, seed: int) -> dict[str, Json]:
    """Every measure of one side at the threshold and with the temperature that validation fixed. Not rounded.

    `roc_auc_of_mere_activity` is what a detector reaches that only tells the quiet baseline from the rest: a
    model is worth something above that, and where its `roc_auc_active` is above one half.
    """
    y, s = scored.suspicious, scored.scores
    active = only_active(scored)
    recall: dict[str, Json] = {**alarm_rate_by_family(scored, threshold, suspicious=True)}
    false_rate: dict[str, Json] = {**alarm_rate_by_family(scored, threshold, suspicious=False)}
    cells: dict[str, Json] = {**confusion(y, s, threshold)}
    measured: dict[str, Json] = {
        "windows": len(y),
        "episodes": len(np.unique(scored.episode)),
        "base_rate": float(y.mean()),
        "roc_auc": roc_auc(y, s),
        "roc_auc_active": roc_auc(active.suspicious, active.scores),
        "roc_auc_of_mere_activity": roc_auc(y, scored.active.astype(np.float64)),
        "pr_auc": average_precision(y, s),
        "brier": brier(y, s),
        "accuracy_at_half": accuracy(y, s, 0.5),
        "fpr_at_tpr90": fpr_at_tpr(y, s, 0.90),
        "fpr_at_tpr95": fpr_at_tpr(y, s, 0.95),
        "fpr_at_tpr99": fpr_at_tpr(y, s, 0.99),
        "tpr_at_fpr5": tpr_at_fpr(y, s, 0.05),
        "tpr_at_fpr1": tpr_at_fpr(y, s, 0.01),
        "tpr_at_fpr0p1": tpr_at_fpr(y, s, 0.001),
        "calibration": calibration(y, s, temperature),
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
    for name, interval in bootstrap(scored, seed).items():
        measured[f"{name}_ci95"] = [*interval] if interval else None
    return measured


_HEADLINE = (
    "roc_auc",
    "roc_auc_ci95",
    "roc_auc_of_mere_activity",
    "roc_auc_active",
    "roc_auc_active_ci95",
    "pr_auc",
    "base_rate",
    "fpr_at_tpr90",
    "tpr_at_fpr1",
)


def headline(measured: Mapping[str, Json]) -> dict[str, Json]:
    """The few numbers a table of jobs shows, by flat names."""
    at_threshold = cast(Mapping[str, Json], measured["at_threshold"])
    delay = cast(Mapping[str, Json], at_threshold["detection_delay"])
    return {
        **{name: measured[name] for name in _HEADLINE},
        "false_alarms_per_host_hour": at_threshold["false_alarms_per_host_hour"],
        "detection_delay_median_s": delay["median_s"],
        "never_detected_share": delay["never_share"],
    }
