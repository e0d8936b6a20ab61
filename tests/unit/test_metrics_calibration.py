"""Calibration against hand-made bins, a simulation with a known temperature, and a slow search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer import metrics_calibration as metrics
from training.trainer.metrics_calibration import Bin

Y = np.array([True, False, True, True, False, False])
S = np.array([0.9, 0.8, 0.6, 0.4, 0.6, 0.1])


def test_brier_by_hand() -> None:
    assert metrics.brier(Y, S) == pytest.approx((0.01 + 0.64 + 0.16 + 0.36 + 0.36 + 0.01) / 6)


def test_bins_take_their_lower_end_and_the_last_one_both() -> None:
    bins = metrics.reliability(np.array([False, True, True, True]), np.array([0.0, 0.3, 0.95, 1.0]))
    assert bins == [Bin(0.0, 0.1, 1, 0.0, 0.0), Bin(0.3, 0.4, 1, 0.3, 1.0), Bin(0.9, 1.0, 2, 0.975, 1.0)]


def test_expected_calibration_error_by_hand() -> None:
    # Bins: 0.1 (share 0), 0.4 (1), 0.6 twice (1/2), 0.8 (0), 0.9 (1).
    expected = (0.1 + 0.6 + 2 * 0.1 + 0.8 + 0.1) / 6
    assert metrics.expected_calibration_error(metrics.reliability(Y, S)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=1, max_size=60))
def test_every_window_is_in_one_bin_whose_range_holds_its_score(rows: list[tuple[bool, int]]) -> None:
    y, s = np.array([label for label, _ in rows]), np.array([score / 1000 for _, score in rows])
    bins = metrics.reliability(y, s)
    assert sum(each.windows for each in bins) == len(rows)
    for each in bins:
        inside = (s >= each.low - 1e-9) & ((s < each.high - 1e-9) | (each.high == 1.0))
        assert each.windows == int(inside.sum())
        assert each.share == pytest.approx(y[inside].mean())


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_known_overconfidence(true: float) -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 1.5, 20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-log_odds))
    told = 1 / (1 + np.exp(-log_odds * true))
    found = metrics.fit_temperature(y, told)
    assert found == pytest.approx(true, rel=0.05)
    mended = metrics.calibration(y, told, found)
    assert mended["ece_with_temperature"] == pytest.approx(0, abs=0.015)


def test_the_temperature_is_the_likeliest_of_all() -> None:
    def loss(temperature: float) -> float:
        p = np.clip(metrics.with_temperature(S, temperature), 1e-12, 1 - 1e-12)
        return -float(np.where(Y, np.log(p), np.log(1 - p)).mean())

    found = metrics.fit_temperature(Y, S)
    assert all(loss(found) <= loss(t) + 1e-9 for t in np.geomspace(0.05, 20, 500))


def test_scores_that_are_always_right_are_made_as_sure_as_allowed() -> None:
    assert metrics.fit_temperature(np.array([True, False]), np.array([0.9, 0.2])) == pytest.approx(0.05)


def test_scores_that_are_always_wrong_are_made_as_unsure_as_allowed() -> None:
    assert metrics.fit_temperature(np.array([False, True]), np.array([0.9, 0.2])) == pytest.approx(20)


def test_a_temperature_keeps_the_order_and_never_leaves_0_to_1() -> None:
    s = np.linspace(0, 1, 101)
    cooled = metrics.with_temperature(s, 0.05)
    assert (np.diff(cooled) >= 0).all()
    assert 0 <= cooled.min() < cooled.max() <= 1
