"""Measures against values worked out by hand, and against the definition by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer import metrics
from training.trainer.metrics import Scored

# Scores from high to low: + - + + - -   (tie: the two 0.6)
Y = np.array([True, False, True, True, False, False])
S = np.array([0.9, 0.8, 0.6, 0.4, 0.6, 0.1])

labelled_scores = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=40
)


def scored(
    suspicious: list[bool], scores: list[float], episode: list[int], end_s: list[float], onset_s: float | None
) -> Scored:
    """Windows of 4 s, one second apart; episode 0 has family `rewrite`, episode 1 `web`."""
    return Scored(
        suspicious=np.array(suspicious),
        scores=np.array(scores),
        active=np.ones(len(scores), dtype=bool),
        episode=np.array(episode, dtype=np.intp),
        end_s=np.array(end_s),
        stride_s=1.0,
        family={0: "rewrite", 1: "web"},
        onset_s={0: onset_s, 1: None},
    )


def test_roc_auc_counts_pairs_and_halves_ties() -> None:
    # Pairs won: 0.9 beats three; 0.6 beats 0.1 and ties 0.6 (1.5); 0.4 beats 0.1 -> 5.5 of 9.
    assert metrics.roc_auc(Y, S) == pytest.approx(5.5 / 9)


@given(labelled_scores)
def test_roc_auc_equals_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, float]]) -> None:
    positive = [score for label, score in rows if label]
    negative = [score for label, score in rows if not label]
    found = metrics.roc_auc(np.array([label for label, _ in rows]), np.array([score for _, score in rows]))
    if not positive or not negative:
        assert found is None
    else:
        won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
        assert found == pytest.approx(won / (len(positive) * len(negative)))


def test_average_precision_adds_precision_at_each_step_of_recall() -> None:
    # Thresholds 0.9: P 1/1, R 1/3; 0.8: R 1/3; 0.6: P 2/4, R 2/3; 0.4: P 3/5, R 1.
    assert metrics.average_precision(Y, S) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


@given(labelled_scores)
def test_average_precision_of_a_constant_score_is_the_base_rate(rows: list[tuple[bool, float]]) -> None:
    y = np.array([label for label, _ in rows])
    found = metrics.average_precision(y, np.full(len(y), 0.5))
    assert found is None if not y.any() else found == pytest.approx(y.mean())


def test_operating_points_are_read_at_whole_thresholds() -> None:
    assert metrics.fpr_at_tpr(Y, S, 0.3) == 0.0
    assert metrics.fpr_at_tpr(Y, S, 0.5) == pytest.approx(2 / 3)
    assert metrics.fpr_at_tpr(Y, S, 1.0) == pytest.approx(2 / 3)
    assert metrics.tpr_at_fpr(Y, S, 0.0) == pytest.approx(1 / 3)
    assert metrics.tpr_at_fpr(Y, S, 0.67) == 1.0
    assert metrics.tpr_at_fpr(~Y, S, 0.0) == 0.0


@given(labelled_scores, st.sampled_from([0.01, 0.05, 0.5]))
def test_rates_at_a_limit_equal_the_best_over_all_thresholds(
    rows: list[tuple[bool, float]], limit: float
) -> None:
    y, s = np.array([label for label, _ in rows]), np.array([score for _, score in rows])
    if y.all() or not y.any():
        assert metrics.tpr_at_fpr(y, s, limit) is None
        return
    rates = [((s[y] >= t).mean(), (s[~y] >= t).mean()) for t in [*np.unique(s), 2.0]]
    assert metrics.tpr_at_fpr(y, s, limit) == pytest.approx(max(t for t, f in rates if f <= limit))
    assert metrics.fpr_at_tpr(y, s, limit) == pytest.approx(min(f for t, f in rates if t >= limit))


def test_the_threshold_takes_no_false_alarm_that_gains_no_detection() -> None:
    assert metrics.threshold_at_fpr(Y, S, fpr=0.34) == 0.9
    assert metrics.threshold_at_fpr(Y, S, fpr=1.0) == 0.4


def test_without_any_allowed_detection_the_threshold_lies_above_every_score() -> None:
    threshold = metrics.threshold_at_fpr(~Y, S, fpr=0.05)
    assert threshold > S.max()


def test_confusion_accuracy_and_brier_by_hand() -> None:
    assert metrics.confusion(Y, S, 0.6) == {"tn": 1, "fp": 2, "fn": 1, "tp": 2}
    assert metrics.accuracy(Y, S, 0.6) == pytest.approx(3 / 6)
    assert metrics.brier(Y, S) == pytest.approx((0.01 + 0.64 + 0.16 + 0.36 + 0.36 + 0.01) / 6)


def test_recall_and_false_positives_are_counted_per_family() -> None:
    windows = scored([False, True, True, False], [0.7, 0.9, 0.2, 0.1], [0, 0, 0, 1], [4, 5, 6, 4], onset_s=4)
    assert metrics.alarm_rate_by_family(windows, 0.5, suspicious=True) == {"rewrite": 0.5}
    assert metrics.alarm_rate_by_family(windows, 0.5, suspicious=False) == {"rewrite": 1.0, "web": 0.0}


def test_neighbouring_false_alarms_are_one_alarm_but_never_across_episodes() -> None:
    benign = [False] * 6
    windows = scored(
        benign, [0.9, 0.9, 0.1, 0.9, 0.9, 0.1], [0, 0, 0, 0, 1, 1], [4, 5, 6, 7, 4, 5], onset_s=None
    )
    # Runs: {0, 1}, {3} and, in the other episode, {4}; six benign windows of one second.
    assert metrics.false_alarms_per_host_hour(windows, 0.5) == pytest.approx(3 / (6 / 3600))


def test_a_detection_is_no_false_alarm() -> None:
    windows = scored([False, True], [0.1, 0.9], [0, 0], [4, 5], onset_s=3)
    assert metrics.false_alarms_per_host_hour(windows, 0.5) == 0.0


def test_the_delay_runs_from_onset_to_the_end_of_the_first_alarming_window() -> None:
    windows = scored([False, False, True, True], [0.9, 0.1, 0.1, 0.9], [0] * 4, [4, 5, 6, 7], onset_s=4.5)
    # The alarm at 4 s came before the onset: no detection.
    assert metrics.detection_delay(windows, 0.5) == {"episodes": 1, "median_s": 2.5, "never_share": 0.0}


def test_an_episode_without_alarm_counts_as_never_detected() -> None:
    windows = scored([True, False], [0.1, 0.9], [0, 1], [5, 5], onset_s=4)
    assert metrics.detection_delay(windows, 0.5) == {"episodes": 1, "median_s": None, "never_share": 1.0}


def test_the_interval_is_repeatable_and_holds_the_value() -> None:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 5)
    suspicious = episode % 2 == 0
    scores = np.clip(rng.normal(0.4 + 0.2 * suspicious, 0.3), 0, 1)
    windows = Scored(
        suspicious,
        scores,
        np.ones(100, dtype=bool),
        episode,
        np.zeros(100),
        1.0,
        {},
        dict.fromkeys(range(20)),
    )
    interval = metrics.bootstrap_auc(windows, seed=7)
    assert interval == metrics.bootstrap_auc(windows, seed=7)
    value = metrics.roc_auc(suspicious, scores)
    assert interval is not None
    assert value is not None
    assert interval[0] < value < interval[1]


def test_one_label_alone_has_no_interval() -> None:
    assert metrics.bootstrap_auc(scored([False, False], [0.1, 0.2], [0, 1], [4, 4], None), seed=1) is None


def test_measure_leaves_the_quiet_baseline_out_of_the_active_auc() -> None:
    windows = scored([False, True, False], [0.1, 0.5, 0.9], [0, 0, 1], [4, 8, 8], onset_s=4)
    windows.active[0] = False
    measured = metrics.measure(windows, 0.5, seed=1)
    assert measured["roc_auc"] == 0.5
    assert measured["roc_auc_active"] == 0.0
    assert set(metrics.headline(measured)) <= set(measured)
