"""Episodes whose values are read as they are, and sets that mix both ways."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cis490.episodes.arrays import to_payload
from cis490.episodes.format import Channel, EpisodeMeta, Interval, encode
from tests.factories.episodes import Recipe, columns_of, episode_bytes, meta_of, write_episode
from training.trainer.channels import Signal, in_units, plain_series, relative_series
from training.trainer.data import load_episodes
from training.trainer.errors import BadData

RECIPE = Recipe("lab-a", "walk", variant=1, suspicious=False)
VOLTS = Channel("sys.volts", "V", "gauge", 1000)
TURNS = Channel("sys.turns", "turns", "counter", 10)


def plain_meta(n_samples: int, **changes: object) -> EpisodeMeta:
    meta = replace(meta_of(RECIPE, n_samples, (TURNS, VOLTS)), scaling="plain")
    return replace(meta, intervals=(Interval(0, 10**6, "benign", "active"),), **changes)  # type: ignore[arg-type]


def plain_bytes(t_us: list[int], turns: list[int], volts: list[int], **changes: object) -> bytes:
    matrix = np.array([t_us, turns, volts], dtype=np.int64)
    return encode(plain_meta(len(t_us), **changes), to_payload(matrix))


def test_a_plain_gauge_is_its_value_and_a_plain_counter_its_rate_in_units(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", plain_bytes([0, 500_000, 1_000_000], [0, 5, 25], [1500, -250, 3]))
    (episode,) = load_episodes(tmp_path, "realistic")
    assert [signal.name for signal in episode.signals] == ["sys.turns", "sys.volts"]
    assert episode.t_s.tolist() == [0.5, 1.0]
    assert episode.series.tolist() == [[1.0, -0.25], [4.0, 0.003]]


def test_a_plain_episode_needs_no_baseline(tmp_path: Path) -> None:
    late = [9_000_000, 9_100_000, 9_200_000]
    write_episode(tmp_path, "lab-a/0", plain_bytes(late, [0, 1, 2], [1, 2, 3]))
    (episode,) = load_episodes(tmp_path, "realistic")
    assert len(episode.series) == 2


def test_a_plain_episode_of_one_sample_is_named(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", plain_bytes([0], [0], [0]))
    with pytest.raises(BadData, match=r"lab-a/0\.episode: has one sample"):
        load_episodes(tmp_path, "realistic")


def test_a_relative_episode_still_needs_its_baseline(tmp_path: Path) -> None:
    late = [9_000_000, 9_100_000, 9_200_000]
    write_episode(tmp_path, "lab-a/0", plain_bytes(late, [0, 1, 2], [1, 2, 3], scaling="relative"))
    with pytest.raises(BadData, match="baseline of 3 s"):
        load_episodes(tmp_path, "realistic")


def test_a_set_that_mixes_scalings_is_refused_naming_both_files(tmp_path: Path) -> None:
    t_us, columns = columns_of(RECIPE, 0)
    meta = replace(meta_of(RECIPE, len(t_us)), scaling="plain", host="lab-b")
    matrix = np.stack([t_us, *(columns[channel.name] for channel in meta.channels)])
    write_episode(tmp_path, "lab-a/0", episode_bytes(RECIPE))
    write_episode(tmp_path, "lab-b/0", encode(meta, to_payload(matrix)))
    with pytest.raises(
        BadData, match=r"lab-b/0\.episode: its scaling is 'plain', but .*lab-a/0\.episode has 'relative'"
    ):
        load_episodes(tmp_path, "oracle")


def test_a_model_does_not_score_data_of_another_scaling(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", episode_bytes(RECIPE))
    with pytest.raises(BadData, match="its scaling is 'relative', but the model was trained on 'plain'"):
        load_episodes(tmp_path, "realistic", scaling="plain")


def test_steps_per_unit_change_relative_series_as_the_unit_would() -> None:
    signals = [Signal("sys.t", "turns", "counter"), Signal("sys.v", "V", "gauge")]
    t_s = np.arange(50, dtype=np.float64) * 0.1
    whole = np.stack([np.cumsum(np.arange(50) % 7), np.arange(50) % 5], axis=1).astype(np.int64)
    fine = in_units(whole * 100, signals, [100, 100])
    assert relative_series(t_s, fine, signals) == pytest.approx(relative_series(t_s, whole, signals))


def test_a_counter_of_more_digits_than_a_float_has_keeps_its_steps() -> None:
    signals = [Signal("net.tx.bytes", "bytes", "counter")]
    values = 2**62 + np.array([[0], [1], [3]], dtype=np.int64)
    assert plain_series(np.array([0.0, 1.0, 2.0]), in_units(values, signals, [1]), signals).tolist() == [
        [1.0],
        [2.0],
    ]


def test_the_key_of_an_episode_says_when_it_started(tmp_path: Path) -> None:
    write_episode(tmp_path, "lab-a/0", plain_bytes([0, 10], [0, 1], [1, 2], started_at_s=1_700_000_000))
    write_episode(tmp_path, "lab-a/1", plain_bytes([0, 10], [0, 1], [1, 3]))
    known, unknown = load_episodes(tmp_path, "realistic")
    assert (known.key.started_at_s, unknown.key.started_at_s) == (1_700_000_000, None)
    assert known.key.duration_s == pytest.approx(1e-5)
