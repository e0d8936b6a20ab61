"""Windows as series on a regular grid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.trainer.channels import Signal
from training.trainer.data import Episode
from training.trainer.errors import BadData
from training.trainer.split_keys import EpisodeKey
from training.trainer.windows import cut_windows, grid_hz, window_series

Floats = NDArray[np.float64]


def episode(t_s: Floats, series: Floats, hz: int = 10) -> Episode:
    names = ("sys.a", "sys.b", "sys.c")[: series.shape[1]]
    return Episode(
        key=EpisodeKey("e", "lab-a", "web", "0", suspicious=False),
        path=Path("lab-a/000-web.episode"),
        signals=tuple(Signal(name, "units", "gauge") for name in names),
        t_s=t_s,
        series=series,
        intervals=(),
        hz=hz,
        simulated=True,
    )


def ramp(seconds: float = 15.0, hz: int = 10, jitter: float = 0.0) -> Episode:
    """Two channels that say the time, and minus the time; with jitter the sampler is late by up to so much."""
    t_s = np.arange(1, int(seconds * hz)) / hz
    t_s = t_s + np.random.default_rng(0).uniform(0, jitter, len(t_s))
    return episode(t_s, np.stack([t_s, -t_s], axis=1), hz)


def series_of(one: Episode, window_s: float = 4.0, hz: int | None = None) -> NDArray[np.float32]:
    windows = cut_windows([one], window_s, 1.0)
    return window_series([one], windows, window_s, hz or grid_hz([one]))


@pytest.mark.parametrize("jitter", [0.0, 0.09])
def test_every_channel_is_read_at_the_middle_of_each_grid_step(jitter: float) -> None:
    """Late samples change nothing: the grid is regular in time."""
    found = series_of(ramp(jitter=jitter))
    assert found.shape == (12, 2, 40)
    assert found.dtype == np.float32
    expected = np.arange(12)[:, None] + (np.arange(40) + 0.5) / 10
    inside = (expected > 0.2) & (expected < 14.8)
    assert found[:, 0][inside] == pytest.approx(expected[inside], abs=1e-5)
    assert found[:, 1][inside] == pytest.approx(-expected[inside], abs=1e-5)


def test_before_the_first_and_after_the_last_sample_the_value_is_held() -> None:
    one = ramp()
    found = series_of(replace(one, t_s=one.t_s[3:], series=one.series[3:]))
    assert found[0, 0, :3].tolist() == pytest.approx([0.4, 0.4, 0.4])
    assert found[-1, 0, -1] == pytest.approx(14.9)


def test_the_number_of_points_is_the_length_times_the_rate() -> None:
    assert series_of(ramp(), window_s=2.5).shape[2] == 25
    assert series_of(ramp(), hz=5).shape[2] == 20


def test_windows_follow_their_episode_whatever_their_order() -> None:
    first, second = ramp(), ramp()
    second = replace(second, series=second.series + 100)
    windows = cut_windows([first, second], 4, 1)
    rows = np.array([13, 0, 20, 3])
    found = window_series([first, second], windows.take(rows), 4, 10)
    whole = window_series([first, second], windows, 4, 10)
    assert (found == whole[rows]).all()
    assert (whole[12:] > 50).any()


def test_the_grid_takes_the_highest_rate_that_was_recorded() -> None:
    assert grid_hz([ramp(hz=10), ramp(hz=20), ramp(hz=5)]) == 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_value_that_float32_cannot_hold_reaches_no_model_and_names_file_and_channel(bad: float) -> None:
    windows = cut_windows([ramp()], 4, 1)
    one = ramp()
    one.series[70, 1] = bad
    with pytest.raises(
        BadData, match=r"lab-a/000-web\.episode: channel sys\.b gives a value that is infinite"
    ):
        cut_windows([one], 4, 1)
    with pytest.raises(BadData, match=r"channel sys\.b"):
        window_series([one], windows, 4, 10)
