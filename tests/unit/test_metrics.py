"""Every measure of one side, put together."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import pytest

from training.trainer import metrics
from training.trainer.metrics_scored import Scored
from training.trainer.options import Json


def windows() -> Scored:
    """One suspicious episode with a quiet window first, one benign."""
    return Scored(
        suspicious=np.array([False, True, True, False, False]),
        scores=np.array([0.1, 0.5, 0.7, 0.9, 0.2]),
        active=np.array([False, True, True, True, True]),
        episode=np.array([0, 0, 0, 1, 1], dtype=np.intp),
        end_s=np.array([4.0, 8, 9, 8, 9]),
        stride_s=1.0,
        family={0: "rewrite", 1: "web"},
        onset_s={0: 4.0, 1: None},
    )


def test_the_quiet_baseline_is_left_out_of_the_active_auc() -> None:
    measured = metrics.measure(windows(), 0.5, 1.0, seed=1)
    assert measured["roc_auc"] == 4 / 6
    assert measured["roc_auc_active"] == 2 / 4


def test_mere_activity_is_what_a_detector_of_noise_reaches() -> None:
    # Two suspicious windows, both active; of three benign ones two are active, which ties.
    assert metrics.measure(windows(), 0.5, 1.0, seed=1)["roc_auc_of_mere_activity"] == (1 + 0.5 + 0.5) / 3


def test_what_a_defender_asks_for_is_all_there() -> None:
    measured = metrics.measure(windows(), 0.5, 1.0, seed=1)
    for name in ("roc_auc", "roc_auc_active", "pr_auc", "fpr_at_tpr90", "tpr_at_fpr1"):
        assert {name, f"{name}_ci95"} <= set(measured)
    assert {"base_rate", "fpr_at_tpr95", "fpr_at_tpr99", "tpr_at_fpr5", "tpr_at_fpr0p1", "brier"} <= set(
        measured
    )
    calibration = cast(Mapping[str, Json], measured["calibration"])
    assert {"bins", "ece", "reliability", "temperature", "ece_with_temperature"} <= set(calibration)
    at_threshold = cast(Mapping[str, Json], measured["at_threshold"])
    assert {"false_alarms_per_host_hour", "detection_delay", "recall_by_family", "confusion"} <= set(
        at_threshold
    )


def test_the_headline_is_flat_and_says_what_measure_says() -> None:
    measured = metrics.measure(windows(), 0.5, 1.0, seed=1)
    headline = metrics.headline(measured)
    assert headline["detection_delay_median_s"] == 4.0
    assert headline["never_detected_share"] == 0.0
    assert headline["false_alarms_per_host_hour"] == 1200.0
    assert headline["roc_auc"] == measured["roc_auc"]
    assert not any(isinstance(value, dict) for value in headline.values())


@pytest.mark.parametrize(
    ("benign_windows_by_episode", "allowed"),
    [([1] * 100, 0.05), ([12] * 15, 12 / 180), ([12, 12, 12], 0.10), ([90, 1], 0.10), ([], 0.05)],
)
def test_the_threshold_allows_one_odd_episode_within_limits(
    benign_windows_by_episode: list[int], allowed: float
) -> None:
    episode = np.repeat(np.arange(len(benign_windows_by_episode)), benign_windows_by_episode)
    n = len(episode)
    side = Scored(
        np.zeros(n, dtype=bool),
        np.zeros(n),
        np.ones(n, dtype=bool),
        episode.astype(np.intp),
        np.zeros(n),
        1.0,
        {},
        {},
    )
    assert metrics.threshold_fpr(side) == pytest.approx(allowed)
