"""From a folder of episodes to labelled windows.

The mode decides here, before any number is computed, which channels exist: nothing later can reach a channel
that a mode may not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cis490.episodes.arrays import from_payload
from cis490.episodes.dataset import DatasetError, dataset_id, episode_paths
from cis490.episodes.format import EpisodeError, EpisodeMeta, Interval, episode_id, parse
from training.trainer.channels import BASELINE_S, Floats, Signal, relative_series, visible
from training.trainer.errors import BadData, MissingData
from training.trainer.features import MIN_SAMPLES, feature_names, summarise
from training.trainer.splits import EpisodeKey

US = 1e-6
"""Seconds in a microsecond."""


@dataclass(frozen=True)
class Episode:
    """One recording as the trainer sees it.

    `t_s` float64 (samples,) seconds since the start, ascending; `series` float64 (samples, signals), see
    `channels.relative_series`. `onset_s` is where suspicious behaviour begins, None in a benign episode.
    """

    key: EpisodeKey
    path: Path
    signals: tuple[Signal, ...]
    t_s: Floats
    series: Floats
    intervals: tuple[Interval, ...]
    hz: int
    simulated: bool

    @property
    def onset_s(self) -> float | None:
        """Start of the first suspicious interval, in seconds."""
        return next((i.t0_us * US for i in self.intervals if i.label == "suspicious"), None)


@dataclass(frozen=True)
class Windows:
    """Windows of several episodes, in the order of the episodes and of time.

    `features` float32 (n, features); `suspicious` bool (n,): at least half of the window is labelled so;
    `active` bool (n,): at least half of it lies outside the episode's quiet baseline; `episode` intp (n,):
    index into the episodes given; `start_s`, `end_s` float64 (n,).
    """

    features: NDArray[np.float32]
    suspicious: NDArray[np.bool_]
    active: NDArray[np.bool_]
    episode: NDArray[np.intp]
    start_s: Floats
    end_s: Floats

    def of(self, episodes: Sequence[int]) -> "Windows":
        """The windows of some episodes; `episode` goes on indexing the full list."""
        rows = np.flatnonzero(np.isin(self.episode, np.array(episodes, dtype=np.intp)))
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


def load_episodes(
    folder: Path,
    mode: str,
    signals: Sequence[Signal] | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """All episodes of a data set, sorted by path, with the channels that `mode` may read.

    `signals` asks for exactly these channels (a trained model's); without it the first episode decides and
    all others must agree. `check_stop` is called before each episode and may raise. Raises MissingData when
    the folder holds no episode, BadData with the file's name for one that cannot be used.
    """
    if not folder.is_dir():
        raise MissingData(f"{folder}: no such folder; pass the data set's folder with --data")
    try:
        paths = episode_paths(folder)
    except DatasetError as error:
        raise MissingData(str(error)) from error
    wanted = None if signals is None else tuple(signals)
    episodes: list[Episode] = []
    for path in paths:
        check_stop()
        episode = _load(path, mode, wanted, exact=signals is None)
        wanted = episode.signals
        episodes.append(episode)
    digest_of(episodes)
    return episodes


def digest_of(episodes: Sequence[Episode]) -> str:
    """The data set's id. Raises BadData when an episode is there twice."""
    try:
        return dataset_id(episode.key.episode_id for episode in episodes)
    except DatasetError as error:
        raise BadData(str(error)) from error


def _load(path: Path, mode: str, wanted: tuple[Signal, ...] | None, *, exact: bool) -> Episode:
    try:
        data = path.read_bytes()
        meta, payload = parse(data, str(path))
        t_us, values = from_payload(meta, payload)
    except EpisodeError as error:
        raise BadData(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    except OSError as error:
        raise MissingData(f"{path}: cannot be read: {error.strerror}") from error
    seen = {
        c.name: (i, Signal(c.name, c.unit, c.kind))
        for i, c in enumerate(meta.channels)
        if visible(c.name, mode)
    }
    if wanted is None:
        wanted = tuple(signal for _, (_, signal) in sorted(seen.items()))
    found = tuple(signal for _, signal in seen.values())
    if not wanted:
        raise BadData(f"{path}: has no channel that mode {mode!r} may read")
    if not set(wanted) <= set(found) or (exact and len(found) != len(wanted)):
        raise BadData(_other_channels(path, found, wanted))
    columns = [seen[signal.name][0] for signal in wanted]
    t_s = t_us.astype(np.float64) * US
    if not bool(np.any(t_s[1:] < BASELINE_S)):
        raise BadData(f"{path}: has no second sample within the baseline of {BASELINE_S:g} s")
    return Episode(
        key=_key(meta, episode_id(data)),
        path=path,
        signals=wanted,
        t_s=t_s[1:],
        series=relative_series(t_s, values[:, columns], wanted),
        intervals=meta.intervals,
        hz=meta.hz,
        simulated=meta.simulated,
    )


def _key(meta: EpisodeMeta, identity: str) -> EpisodeKey:
    return EpisodeKey(
        episode_id=identity,
        host=meta.host,
        family=meta.family,
        variant=f"{meta.profile}/{meta.variant}",
        suspicious=meta.label == "suspicious",
    )


def _other_channels(path: Path, found: Sequence[Signal], wanted: Sequence[Signal]) -> str:
    names = {f"{signal.name} ({signal.unit}, {signal.kind})" for signal in found}
    expected = {f"{signal.name} ({signal.unit}, {signal.kind})" for signal in wanted}
    missing = ", ".join(sorted(expected - names)[:5]) or "none"
    extra = ", ".join(sorted(names - expected)[:5]) or "none"
    return (
        f"{path}: its channels differ from what is expected (missing: {missing}; not expected: {extra}); "
        "episodes of one data set must come from one recorder version"
    )


def cut_windows(
    episodes: Sequence[Episode],
    window_s: float,
    stride_s: float,
    check_stop: Callable[[], None] = lambda: None,
) -> Windows:
    """Windows [k * stride_s, k * stride_s + window_s) of each episode, as far as it reaches.

    A window in which the recorder lost so many samples that no statistics are possible is left out. Raises
    BadData for an episode that yields no window at all.
    """
    rows: list[NDArray[np.float32]] = []
    spans: list[tuple[int, float, float, bool, bool]] = []
    for index, episode in enumerate(episodes):
        check_stop()
        before = len(rows)
        for start_s in _starts(episode, window_s, stride_s):
            end_s = start_s + window_s
            first, last = np.searchsorted(episode.t_s, (start_s, end_s))
            if last - first < MIN_SAMPLES:
                continue
            rows.append(summarise(episode.t_s[first:last], episode.series[first:last]))
            suspicious = 2 * _overlap_s(episode, start_s, end_s, label="suspicious") >= window_s - US
            active = 2 * _overlap_s(episode, start_s, end_s, phase="baseline") <= window_s + US
            spans.append((index, start_s, end_s, suspicious, active))
        if len(rows) == before:
            raise BadData(
                f"{episode.path}: {len(episode.t_s)} samples up to {episode.t_s[-1]:.1f} s give no window of "
                f"{window_s:g} s; leave the episode out or choose a smaller window_s"
            )
    return Windows(
        features=np.stack(rows),
        suspicious=np.array([span[3] for span in spans], dtype=bool),
        active=np.array([span[4] for span in spans], dtype=bool),
        episode=np.array([span[0] for span in spans], dtype=np.intp),
        start_s=np.array([span[1] for span in spans], dtype=np.float64),
        end_s=np.array([span[2] for span in spans], dtype=np.float64),
    )


def window_feature_names(episodes: Sequence[Episode]) -> tuple[str, ...]:
    """Names of the columns that `cut_windows` makes of these episodes."""
    return feature_names([signal.name for signal in episodes[0].signals])


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
