"""From episodes to labelled windows: summary statistics for every model, and series on a regular grid for those
that read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.trainer.channels import Floats
from training.trainer.data import US, Episode
from training.trainer.errors import BadData
from training.trainer.features import MIN_SAMPLES, feature_names, summarise_windows

Array = NDArray[np.float32]

_TOGETHER = 64
"""Windows in one go: enough to be quick, few enough to stay in the cache."""

_LARGEST = 1e37
"""A tenth of what float32 holds, and far beyond any amount."""


@dataclass(frozen=True)
class Windows:
    """Windows of several episodes, in the order of the episodes and of time.

    `features` float32 (n, features); `suspicious` bool (n,): at least half of the window is labelled so;
    `active` bool (n,): at least half of it lies outside the episode's quiet baseline; `episode` intp (n,):
    index into the episodes given; `start_s`, `end_s` float64 (n,).
    """

    features: Array
    suspicious: NDArray[np.bool_]
    active: NDArray[np.bool_]
    episode: NDArray[np.intp]
    start_s: Floats
    end_s: Floats

    def take(self, rows: NDArray[np.intp]) -> "Windows":
        """These windows alone; `episode` goes on indexing the full list."""
        return Windows(
            self.features[rows],
            self.suspicious[rows],
            self.active[rows],
            self.episode[rows],
            self.start_s[rows],
            self.end_s[rows],
        )

    def __len__(self) -> int:
        return len(self.suspicious)


def cut_windows(
    episodes: Sequence[Episode],
    window_s: float,
    stride_s: float,
    check_stop: Callable[[], None] = lambda: None,
) -> Windows:
    """Windows [k * stride_s, k * stride_s + window_s) of each episode, as far as it reaches.

    A window in which the recorder lost so many samples that no statistics are possible is left out. Raises
    BadData for an episode that yields no window at all, or a number that is none.
    """
    features: list[Array] = []
    spans: list[tuple[int, float, float, bool, bool]] = []
    for index, episode in enumerate(episodes):
        check_stop()
        _check_finite(episode)
        starts_s = np.array(_starts(episode, window_s, stride_s))
        first, last = np.searchsorted(episode.t_s, (starts_s, starts_s + window_s))
        kept = last - first >= MIN_SAMPLES
        if not kept.any():
            raise BadData(
                f"{episode.path}: {len(episode.t_s)} samples up to {episode.t_s[-1]:.1f} s give no window of "
                f"{window_s:g} s; a window of {window_s:g} s needs at least {MIN_SAMPLES} of them: leave the "
                "episode out, or choose a window_s that fits its length and rate"
            )
        features.append(_features(episode, first[kept], last[kept]))
        for start_s in starts_s[kept].tolist():
            end_s = start_s + window_s
            suspicious = 2 * _overlap_s(episode, start_s, end_s, label="suspicious") >= window_s - US
            active = 2 * _overlap_s(episode, start_s, end_s, phase="baseline") <= window_s + US
            spans.append((index, start_s, end_s, suspicious, active))
    return Windows(
        features=np.concatenate(features),
        suspicious=np.array([span[3] for span in spans], dtype=bool),
        active=np.array([span[4] for span in spans], dtype=bool),
        episode=np.array([span[0] for span in spans], dtype=np.intp),
        start_s=np.array([span[1] for span in spans], dtype=np.float64),
        end_s=np.array([span[2] for span in spans], dtype=np.float64),
    )


def _features(episode: Episode, first: NDArray[np.intp], last: NDArray[np.intp]) -> Array:
    """Statistics of the samples first..last of each window; windows of as many samples are taken together."""
    n_samples = last - first
    found = np.empty((len(first), len(window_feature_names([episode]))), dtype=np.float32)
    for n in np.unique(n_samples).tolist():
        rows = np.flatnonzero(n_samples == n)
        for some in np.array_split(rows, -(-len(rows) // _TOGETHER)):
            at = first[some, None] + np.arange(n)
            found[some] = summarise_windows(episode.t_s[at], episode.series[at])
    return found


def window_feature_names(episodes: Sequence[Episode]) -> tuple[str, ...]:
    """Names of the columns that `cut_windows` makes of these episodes."""
    return feature_names([signal.name for signal in episodes[0].signals])


def grid_hz(episodes: Sequence[Episode]) -> int:
    """Points per second of the grid for these episodes: the highest rate that was recorded."""
    return max(episode.hz for episode in episodes)


def window_series(
    episodes: Sequence[Episode],
    windows: Windows,
    window_s: float,
    hz: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Array:
    """The windows as float32 (windows, channels, samples) with round(window_s * hz) samples each.

    Each channel is interpolated linearly between its samples at start + (k + 0.5) / hz seconds, for a sampler is
    late under load and a network counts samples, not seconds. Before the first and after the last sample of the
    episode its value is held. Raises BadData for a number that float32 cannot hold.
    """
    n_samples = max(1, round(window_s * hz))
    offsets_s = (np.arange(n_samples) + 0.5) / hz
    found = np.empty((len(windows), len(episodes[0].signals), n_samples), dtype=np.float32)
    for index in np.unique(windows.episode).tolist():
        check_stop()
        episode, rows = episodes[index], np.flatnonzero(windows.episode == index)
        _check_finite(episode)
        at_s = (windows.start_s[rows, None] + offsets_s).ravel()
        values = _interpolated(episode.t_s, episode.series, at_s)
        made = values.astype(np.float32).reshape(len(rows), n_samples, -1)
        found[rows] = made.transpose(0, 2, 1)
    return found


def _interpolated(t_s: Floats, series: Floats, at_s: Floats) -> Floats:
    """Every column of `series` (samples, channels) at the times `at_s` (n,) -> (n, channels); ends held."""
    if len(t_s) == 1:
        return np.repeat(series, len(at_s), axis=0)
    right = np.clip(np.searchsorted(t_s, at_s), 1, len(t_s) - 1)
    left = right - 1
    share = np.clip((at_s - t_s[left]) / (t_s[right] - t_s[left]), 0.0, 1.0)[:, None]
    values: Floats = series[left] * (1 - share) + series[right] * share
    return values


def _check_finite(episode: Episode) -> None:
    """Raises BadData naming the channel that holds a value which float32 cannot. Every statistic of finite values
    is finite but for differences of the very largest, hence the room to spare."""
    largest = np.abs(episode.series).max(axis=0, initial=0.0)
    bad = np.flatnonzero(~(largest < _LARGEST))
    if len(bad):
        raise BadData(
            f"{episode.path}: channel {episode.signals[int(bad[0])].name} gives a value that is infinite, not a "
            f"number, or beyond {_LARGEST:g} (two samples at the same time?); leave the episode out or record it "
            "again"
        )


def _starts(episode: Episode, window_s: float, stride_s: float) -> list[float]:
    # The last sample stands for the period after it; half a period more allows for a sampler that was early.
    reach_s = float(episode.t_s[-1]) + 1.5 / episode.hz
    count = int((reach_s - window_s) / stride_s) + 1 if reach_s >= window_s else 0
    return [k * stride_s for k in range(count)]


def _overlap_s(episode: Episode, start_s: float, end_s: float, *, label: str = "", phase: str = "") -> float:
    """Seconds of [start_s, end_s) that lie in intervals of a label or a phase."""
    return sum(
        max(0.0, min(end_s, i.t1_us * US) - max(start_s, i.t0_us * US))
        for i in episode.intervals
        if (label and i.label == label) or (phase and i.phase == phase)
    )
