"""From a folder of episodes to series in memory; `windows` cuts them.

The mode decides here, before any number is computed, which channels exist: nothing later can reach a channel
that a mode may not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cis490.episodes.arrays import from_payload
from cis490.episodes.dataset import DatasetError, dataset_id, episode_paths
from cis490.episodes.format import EpisodeError, EpisodeMeta, Interval, Scaling, episode_id, parse
from training.trainer.channels import (
    BASELINE_S,
    Floats,
    Signal,
    in_units,
    plain_series,
    relative_series,
    visible,
)
from training.trainer.errors import BadData, MissingData
from training.trainer.split_keys import EpisodeKey

US = 1e-6
"""Seconds in a microsecond."""


@dataclass(frozen=True)
class Episode:
    """One recording as the trainer sees it.

    `t_s` float64 (samples,) seconds since the start, ascending; `series` float64 (samples, signals), made as
    `scaling` says by `channels.relative_series` or `plain_series`. `onset_s` is where suspicious
    behaviour begins, None in a benign episode.
    """

    key: EpisodeKey
    path: Path
    signals: tuple[Signal, ...]
    t_s: Floats
    series: Floats
    intervals: tuple[Interval, ...]
    hz: int
    simulated: bool
    scaling: Scaling = "relative"

    @property
    def onset_s(self) -> float | None:
        """Start of the first suspicious interval, in seconds."""
        return next((i.t0_us * US for i in self.intervals if i.label == "suspicious"), None)


def load_episodes(
    folder: Path,
    mode: str,
    signals: Sequence[Signal] | None = None,
    check_stop: Callable[[], None] = lambda: None,
    *,
    scaling: Scaling | None = None,
) -> list[Episode]:
    """All episodes of a data set, sorted by path, with the channels that `mode` may read.

    `signals` asks for exactly these channels (a trained model's); without it the first episode decides and
    all others must agree. The same holds for `scaling`. `check_stop` is called before each
    episode and may raise. Raises MissingData when the folder holds no episode, BadData with the file's name for
    one that cannot be used.
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
        _check_scaling(episode, scaling, episodes)
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
    amounts = in_units(values[:, columns], wanted, [meta.channels[column].per_unit for column in columns])
    if meta.scaling == "plain":
        if len(t_s) < 2:
            raise BadData(f"{path}: has one sample, expected at least two")
        series = plain_series(t_s, amounts, wanted)
    else:
        if not bool(np.any(t_s[1:] < BASELINE_S)):
            raise BadData(f"{path}: has no second sample within the baseline of {BASELINE_S:g} s")
        series = relative_series(t_s, amounts, wanted)
    return Episode(
        key=_key(meta, episode_id(data), float(t_s[-1])),
        path=path,
        signals=wanted,
        t_s=t_s[1:],
        series=series,
        intervals=meta.intervals,
        hz=meta.hz,
        simulated=meta.simulated,
        scaling=meta.scaling,
    )


def _check_scaling(episode: Episode, expected: Scaling | None, before: Sequence[Episode]) -> None:
    """Levels and changes against a baseline do not mix: one model cannot read both."""
    if expected is None and before:
        expected = before[0].scaling
    if expected is not None and episode.scaling != expected:
        other = f"{before[0].path} has" if before else "the model was trained on"
        raise BadData(
            f"{episode.path}: its scaling is {episode.scaling!r}, but {other} {expected!r}; "
            "record or import all episodes of a data set with one scaling"
        )


def _key(meta: EpisodeMeta, identity: str, duration_s: float) -> EpisodeKey:
    return EpisodeKey(
        episode_id=identity,
        host=meta.host,
        family=meta.family,
        variant=f"{meta.profile}/{meta.variant}",
        suspicious=meta.label == "suspicious",
        started_at_s=meta.started_at_s,
        duration_s=duration_s,
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
