"""Ranking and thresholds against values worked out by hand, and against the definition by brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer import metrics_ranking as metrics
from training.trainer.metrics_scored import Scored

# Scores from high to low: + - + + - -   (tie: the two 0.6)
Y = np.array([True, False, True, True, False, False])
S = np.array([0.9, 0.8, 0.6, 0.4, 0.6, 0.1])

labelled_scores = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=40
)


def episodes_of(seed: int, n_episodes: int = 20, each: int = 5, decimals: int = 6) -> Scored:
    """Windows of episodes whose scores overlap; few decimals make ties."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(n_episodes), each)
    suspicious = episode % 2 == 0
    scores = np.clip(rng.normal(0.4 + 0.2 * suspicious, 0.3), 0, 1).round(decimals)
    active = rng.random(len(episode)) < 0.8
    families = dict.fromkeys(range(n_episodes), "x")
    onsets = dict.fromkeys(range(n_episodes))
    return Scored(suspicious, scores, active, episode, np.zeros(len(episode)), 1.0, families, onsets)


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


def test_confusion_and_accuracy_by_hand() -> None:
    assert metrics.confusion(Y, S, 0.6) == {"tn": 1, "fp": 2, "fn": 1, "tp": 2}
    assert metrics.accuracy(Y, S, 0.6) == pytest.approx(3 / 6)


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_bootstrap_equals_drawing_episodes_one_by_one(decimals: int) -> None:
    """The slow way: copy the windows of each drawn episode together and measure them."""
    windows, rounds = episodes_of(3, decimals=decimals), 60
    rng = np.random.Generator(np.random.PCG64(11))
    slow: dict[str, list[float]] = {name: [] for name in INTERVALS}
    for drawn in rng.integers(0, 20, size=(rounds, 20)):
        rows = np.concatenate([np.flatnonzero(windows.episode == e) for e in drawn])
        y, s = windows.suspicious[rows], windows.scores[rows]
        active = windows.active[rows]
        values = {
            "roc_auc": metrics.roc_auc(y, s),
            "roc_auc_active": metrics.roc_auc(y[active], s[active]),
            "pr_auc": metrics.average_precision(y, s),
            "fpr_at_tpr90": metrics.fpr_at_tpr(y, s, 0.9),
            "tpr_at_fpr1": metrics.tpr_at_fpr(y, s, 0.01),
        }
        for name, value in values.items():
            if value is not None:
                slow[name].append(value)
    found = metrics.bootstrap(windows, seed=11, rounds=rounds)
    assert set(found) == set(INTERVALS)
    for name, values_of in slow.items():
        assert found[name] == pytest.approx(tuple(np.quantile(values_of, (0.025, 0.975)))), name


def test_the_bootstrap_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows are resampled a few rounds at a time, to bound the memory."""
    whole = metrics.bootstrap(episodes_of(4), seed=1)
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 700)
    assert metrics.bootstrap(episodes_of(4), seed=1) == whole


def test_the_interval_is_repeatable_and_holds_the_value() -> None:
    windows = episodes_of(0)
    interval = metrics.bootstrap(windows, seed=7)["roc_auc"]
    assert interval == metrics.bootstrap(windows, seed=7)["roc_auc"]
    value = metrics.roc_auc(windows.suspicious, windows.scores)
    assert interval is not None
    assert value is not None
    assert interval[0] < value < interval[1]


def test_windows_that_repeat_within_an_episode_make_no_interval_narrower() -> None:
    """Ten copies of each window are no further evidence: episodes are drawn, not windows."""
    one = episodes_of(5, each=1)
    rows = np.repeat(np.arange(len(one)), 10)
    ten = replace(
        one,
        suspicious=one.suspicious[rows],
        scores=one.scores[rows],
        active=one.active[rows],
        episode=one.episode[rows],
        end_s=one.end_s[rows],
    )
    assert metrics.bootstrap(ten, seed=2)["roc_auc"] == pytest.approx(
        metrics.bootstrap(one, seed=2)["roc_auc"]
    )


def test_one_label_alone_has_no_interval() -> None:
    windows = episodes_of(1)
    benign = replace(windows, suspicious=np.zeros(len(windows), dtype=bool))
    assert set(metrics.bootstrap(benign, seed=1).values()) == {None}


def test_without_any_active_window_the_other_intervals_are_there() -> None:
    windows = episodes_of(1)
    windows.active[:] = False
    found = metrics.bootstrap(windows, seed=1)
    assert found["roc_auc_active"] is None
    assert found["roc_auc"] is not None


INTERVALS = ("roc_auc", "roc_auc_active", "pr_auc", "fpr_at_tpr90", "tpr_at_fpr1")
