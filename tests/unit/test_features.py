"""Summary statistics of many windows at once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.trainer.features import STATISTICS, summarise, summarise_windows

Floats = NDArray[np.float64]


def some(n_windows: int = 5, n_samples: int = 13, n_channels: int = 3) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    t_s = np.sort(rng.uniform(0, 4, (n_windows, n_samples)), axis=1)
    return t_s, rng.normal(size=(n_windows, n_samples, n_channels))


def test_windows_together_give_the_bits_of_windows_one_by_one() -> None:
    t_s, windows = some()
    together = summarise_windows(t_s, windows)
    assert together.dtype == np.float32
    for row, (time, window) in enumerate(zip(t_s, windows, strict=True)):
        assert (together[row] == summarise(time, window)).all()


def test_the_layout_in_memory_changes_no_bit() -> None:
    """A model's digest must not depend on how an array was made."""
    t_s, windows = some(n_samples=40)
    windows[:, :, 0] = 0.1  # forty times 0.1 is not 4 when it is added up one by one
    turned = np.asfortranarray(windows)
    assert not turned.flags.c_contiguous
    assert (summarise_windows(t_s, turned) == summarise_windows(t_s, windows)).all()


@pytest.mark.parametrize("n_samples", [6, 7, 40, 41])
def test_each_statistic_is_what_its_name_says(n_samples: int) -> None:
    t_s, windows = some(n_samples=n_samples)
    found = summarise_windows(t_s, windows).reshape(5, 3, len(STATISTICS))
    by_name = {name: found[:, :, column] for column, name in enumerate(STATISTICS)}
    steps = np.diff(windows, axis=1)
    expected = {
        "mean": windows.mean(axis=1),
        "sd": windows.std(axis=1),
        "min": windows.min(axis=1),
        "max": windows.max(axis=1),
        "q25": np.quantile(windows, 0.25, axis=1),
        "median": np.median(windows, axis=1),
        "q75": np.quantile(windows, 0.75, axis=1),
        "mean_abs_diff": np.abs(steps).mean(axis=1),
        "diff_sd": steps.std(axis=1),
        "third_1": windows[:, : n_samples // 3].mean(axis=1),
    }
    for name, values in expected.items():
        assert by_name[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
    for row in range(5):
        for channel in range(3):
            slope = np.polyfit(t_s[row], windows[row, :, channel], 1)[0]
            assert by_name["slope"][row, channel] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_equal_samples_have_no_spread_at_all() -> None:
    """0.1 cannot be written in binary, and forty of it must not add up to something that looks like a change."""
    t_s, _ = some(1, 40)
    found = summarise_windows(t_s, np.full((1, 40, 2), 0.1))[0].reshape(2, len(STATISTICS))
    assert not found[:, [STATISTICS.index(name) for name in ("mean_abs_diff", "diff_sd", "acf1")]].any()
    assert found[:, STATISTICS.index("sd")] == pytest.approx(0, abs=1e-9)
