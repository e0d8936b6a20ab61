"""From episode files to labelled windows and their features."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis490.episodes.format import Channel
from tests.factories.episodes import (
    CHANNELS,
    Recipe,
    columns_of,
    episode_bytes,
    recipes,
    write_dataset,
    write_episode,
)
from training.trainer.channels import Signal, counter_rates, relative_series, signed_log, visible
from training.trainer.data import digest_of, load_episodes
from training.trainer.errors import BadData, MissingData, Preempted
from training.trainer.features import STATISTICS, feature_names, summarise, varying_columns
from training.trainer.windows import cut_windows, window_feature_names

SUSPICIOUS = Recipe("lab-a", "rewrite", variant=1, suspicious=True)
REALISTIC_NAMES = ("block.write_bytes", "sys.cpu.user", "sys.mem.free")


def one_episode(folder: Path, **overwrite: list[int]) -> Path:
    """A data set of one suspicious episode; `overwrite` sets raw columns (`__` stands for a dot)."""
    columns = {
        name.replace("__", "."): np.array(values, dtype=np.int64) for name, values in overwrite.items()
    }
    write_episode(folder, "lab-a/0", episode_bytes(SUSPICIOUS, overwrite=columns))
    return folder


def features_of(folder: Path, mode: str) -> bytes:
    return cut_windows(load_episodes(folder, mode), 4, 1).features.tobytes()


# --- modes ---


@pytest.mark.parametrize(
    ("name", "realistic", "oracle"),
    [
        ("sys.cpu.user", True, True),
        ("block.write_bytes", True, True),
        ("net.tx.bytes", True, True),
        ("tree.io.wchar", False, True),
        ("guest.phase", False, True),
        ("system.cpu", False, False),
        ("other.x", False, False),
    ],
)
def test_a_mode_reads_only_the_prefixes_it_lists(name: str, realistic: bool, oracle: bool) -> None:
    assert (visible(name, "realistic"), visible(name, "oracle")) == (realistic, oracle)


def test_realistic_loads_no_channel_from_inside_the_workload(tmp_path: Path) -> None:
    episodes = load_episodes(write_dataset(tmp_path), "realistic")
    assert {tuple(signal.name for signal in episode.signals) for episode in episodes} == {REALISTIC_NAMES}
    assert {episode.series.shape[1] for episode in episodes} == {len(REALISTIC_NAMES)}


def test_whatever_stands_in_hidden_channels_changes_oracle_but_never_realistic(tmp_path: Path) -> None:
    plain = one_episode(tmp_path / "plain")
    poisoned = one_episode(
        tmp_path / "poisoned", tree__io__wchar=list(range(150)), tree__processes=[n % 7 for n in range(150)]
    )
    assert features_of(plain, "realistic") == features_of(poisoned, "realistic")
    assert features_of(plain, "oracle") != features_of(poisoned, "oracle")


def test_the_order_of_channels_in_a_file_does_not_matter(tmp_path: Path) -> None:
    plain = one_episode(tmp_path / "plain")
    write_episode(tmp_path / "turned", "lab-a/0", episode_bytes(SUSPICIOUS, channels=CHANNELS[::-1]))
    assert features_of(plain, "oracle") == features_of(tmp_path / "turned", "oracle")


# --- channels ---


def test_rates_are_per_second_of_true_time() -> None:
    rates = counter_rates(np.array([0.0, 0.1, 0.6]), np.array([[10], [20], [120]]))
    assert rates[:, 0] == pytest.approx([100.0, 200.0])


def test_a_counter_that_was_reset_counts_nothing_in_that_step() -> None:
    rates = counter_rates(np.array([0.0, 1.0, 2.0]), np.array([[1000], [3], [10]]))
    assert rates[:, 0] == pytest.approx([0.0, 7.0])


def test_signed_log_keeps_sign_and_order_and_zero() -> None:
    values = signed_log(np.array([[-4096.0, 0.0, 4096.0]]).T, np.array([4096.0]))
    assert values[:, 0] == pytest.approx([-np.log(2), 0.0, np.log(2)])


@given(st.integers(-(10**6), 10**6), st.sampled_from(["counter", "gauge"]))
def test_the_absolute_level_of_a_channel_leaves_no_trace(level: int, kind: str) -> None:
    """Free memory or a counter's age since boot would name the host."""
    signal = Signal("sys.x", "KiB", "counter" if kind == "counter" else "gauge")
    t_s = np.arange(50, dtype=np.float64) * 0.1
    values = np.cumsum(np.arange(50) % 7)[:, None].astype(np.int64)
    plain = relative_series(t_s, values, [signal])
    assert relative_series(t_s, values + level, [signal]) == pytest.approx(plain)


def test_an_unchanging_baseline_leaves_zeros() -> None:
    series = relative_series(
        np.arange(50, dtype=np.float64) * 0.1, np.full((50, 1), 7), [Signal("sys.x", "processes", "gauge")]
    )
    assert not series.any()


# --- windows ---


def test_a_fifteen_second_episode_gives_twelve_windows_of_four_seconds(tmp_path: Path) -> None:
    windows = cut_windows(load_episodes(one_episode(tmp_path), "realistic"), 4, 1)
    assert windows.start_s.tolist() == list(range(12))
    assert windows.features.shape == (12, 3 * len(STATISTICS))
    assert windows.features.dtype == np.float32
    assert np.isfinite(windows.features).all()


def test_a_window_is_suspicious_from_half_of_it_on(tmp_path: Path) -> None:
    """Onset at 4 s: the window [2, 6) lies half in it."""
    windows = cut_windows(load_episodes(one_episode(tmp_path), "realistic"), 4, 1)
    assert windows.suspicious.tolist() == [False, False] + [True] * 10


def test_windows_mostly_in_the_baseline_are_not_active(tmp_path: Path) -> None:
    windows = cut_windows(load_episodes(one_episode(tmp_path), "realistic"), 4, 1)
    assert windows.active.tolist() == [False, False] + [True] * 10


def test_windows_of_some_episodes_keep_their_episode_number(tmp_path: Path) -> None:
    windows = cut_windows(load_episodes(write_dataset(tmp_path), "realistic"), 4, 1)
    windows = windows.take(np.flatnonzero(np.isin(windows.episode, [3, 5])))
    assert set(windows.episode.tolist()) == {3, 5}
    assert len(windows) == 24


def test_a_window_whose_samples_were_lost_is_left_out(tmp_path: Path) -> None:
    recipe = Recipe("lab-a", "web", 0, suspicious=False, seconds=30)
    episodes = load_episodes(write_dataset(tmp_path, [recipe]), "realistic")
    episode = episodes[0]
    lost = (episode.t_s > 10) & (episode.t_s < 13.6)
    kept = {"t_s": episode.t_s[~lost], "series": episode.series[~lost]}
    gappy = type(episode)(**{**episode.__dict__, **kept})
    assert set(range(27)) - set(cut_windows([gappy], 4, 1).start_s.tolist()) == {10}


# --- faults ---


def test_a_missing_folder_and_an_empty_one_are_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="no such folder"):
        load_episodes(tmp_path / "nowhere", "realistic")
    with pytest.raises(MissingData, match=r"found no .*episode"):
        load_episodes(tmp_path, "realistic")


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    broken = tmp_path / "lab-b" / "broken.episode"
    broken.write_bytes(episode_bytes(SUSPICIOUS)[:-8])
    with pytest.raises(BadData, match=r"broken\.episode.*cut short"):
        load_episodes(tmp_path, "realistic")


def test_an_episode_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ("lab-a/0", "lab-a/1"):
        write_episode(tmp_path, name, episode_bytes(SUSPICIOUS))
    with pytest.raises(BadData, match="twice"):
        load_episodes(tmp_path, "realistic")


def test_episodes_with_different_channels_do_not_mix(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", episode_bytes(SUSPICIOUS))
    other = [Channel("sys.cpu.user", "ticks", "gauge"), *CHANNELS[1:]]
    write_episode(tmp_path, "lab-b/0", episode_bytes(SUSPICIOUS, channels=other))
    with pytest.raises(BadData, match=r"lab-b.*missing: sys\.cpu\.user \(ticks, counter\)"):
        load_episodes(tmp_path, "realistic")


def test_a_channel_that_only_a_later_episode_has_is_refused_too(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", episode_bytes(SUSPICIOUS, channels=CHANNELS[:2]))
    write_episode(tmp_path, "lab-b/0", episode_bytes(SUSPICIOUS))
    with pytest.raises(BadData, match=r"not expected: block\.write_bytes"):
        load_episodes(tmp_path, "realistic")


def test_wanted_channels_are_picked_out_of_more(tmp_path: Path) -> None:
    wanted = [Signal("sys.cpu.user", "ticks", "counter")]
    (episode,) = load_episodes(one_episode(tmp_path), "realistic", wanted)
    assert episode.signals == tuple(wanted)


def test_a_mode_without_any_channel_is_refused(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", episode_bytes(SUSPICIOUS, channels=CHANNELS[3:]))
    with pytest.raises(BadData, match="no channel that mode 'realistic' may read"):
        load_episodes(tmp_path, "realistic")


def test_an_episode_shorter_than_a_window_is_named(tmp_path: Path) -> None:
    episodes = load_episodes(one_episode(tmp_path), "realistic")
    with pytest.raises(BadData, match=r"lab-a/0\.episode: 149 samples up to 14\.9 s give no window of 20 s"):
        cut_windows(episodes, 20, 1)


def test_a_stop_is_noticed_between_episodes(tmp_path: Path) -> None:
    def stop() -> None:
        raise Preempted("stopped")

    with pytest.raises(Preempted):
        load_episodes(one_episode(tmp_path), "realistic", check_stop=stop)


# --- features ---


def test_the_statistics_of_a_ramp_are_those_worked_out_by_hand() -> None:
    t_s = np.arange(6.0)
    found = dict(zip(STATISTICS, summarise(t_s, 2 * t_s[:, None]).tolist(), strict=True))
    assert found["mean"] == 5
    assert found["sd"] == pytest.approx(np.sqrt(35 / 3))
    assert (found["min"], found["q25"], found["median"], found["q75"], found["max"]) == (0, 2.5, 5, 7.5, 10)
    assert (found["mean_abs_diff"], found["diff_sd"], found["slope"]) == (2, 0, pytest.approx(2))
    assert found["acf1"] == pytest.approx(0.5)  # (15 + 3 - 1 + 3 + 15) / 70
    assert (found["third_1"], found["third_2"], found["third_3"]) == (1, 5, 9)


def test_a_flat_series_has_no_autocorrelation_and_no_nan() -> None:
    assert np.isfinite(summarise(np.arange(8.0), np.full((8, 2), 3.0))).all()


def test_feature_names_go_channel_by_channel(tmp_path: Path) -> None:
    names = window_feature_names(load_episodes(one_episode(tmp_path), "realistic"))
    assert names == feature_names(REALISTIC_NAMES)
    assert names[len(STATISTICS)] == "sys.cpu.user|mean"


def test_constant_columns_are_found() -> None:
    features = np.array([[1, 2, 3], [1, 2, 4]], dtype=np.float32)
    assert varying_columns(features).tolist() == [2]


def test_the_data_set_has_one_id_whatever_the_files_are_called(tmp_path: Path) -> None:
    chosen = recipes(per_host=2)
    write_dataset(tmp_path / "one", chosen)
    for n, recipe in enumerate(chosen):
        write_episode(tmp_path / "two", f"{recipe.host}/other-{n}", episode_bytes(recipe, seed=n))
    one, two = (load_episodes(tmp_path / name, "oracle") for name in ("one", "two"))
    assert digest_of(one) == digest_of(two)


def test_the_synthetic_episodes_have_a_signal() -> None:
    """The tests of models stand on it: suspicious episodes write more after the onset."""
    _, columns = columns_of(SUSPICIOUS, seed=0)
    steps = np.diff(columns["block.write_bytes"])
    assert steps[50:].mean() > 2 * steps[:30].mean()
