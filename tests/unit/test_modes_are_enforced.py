"""`realistic` never reads a `tree.*` or `guest.*` channel: every way to try it that we could think of.

What no program can see is a describer who calls an inside number `sys.something`: docs/data.md says whose word that is.
"""

from pathlib import Path

import numpy as np
import pytest

from cis490.episodes.arrays import to_payload
from cis490.episodes.format import Channel, EpisodeError, encode
from tests.factories.episodes import CHANNELS, Recipe, episode_bytes, meta_of, write_dataset, write_episode
from training.trainer.channels import VISIBLE, Signal, visible
from training.trainer.data import load_episodes
from training.trainer.errors import BadData

RECIPE = Recipe("lab-a", "rewrite", variant=1, suspicious=True)
INSIDE = ("tree.io.wchar", "tree.processes")
INSIDE_SIGNALS = {
    "tree.io.wchar": Signal("tree.io.wchar", "bytes", "counter"),
    "tree.processes": Signal("tree.processes", "processes", "gauge"),
}
N = int(RECIPE.seconds * 10)


def marked(channels: tuple[Channel, ...]) -> bytes:
    """An episode whose inside channels hold one number that occurs nowhere else."""
    secret = np.where(np.arange(N) % 2 == 0, 0, 987_654_321).astype(np.int64)
    return episode_bytes(RECIPE, channels=channels, overwrite=dict.fromkeys(INSIDE, secret))


@pytest.mark.parametrize("turn", range(len(CHANNELS)))
def test_no_order_of_channels_in_the_file_brings_one_in(tmp_path: Path, turn: int) -> None:
    channels = (*CHANNELS[turn:], *CHANNELS[:turn])
    write_episode(tmp_path, "lab-a/0", marked(channels))
    (episode,) = load_episodes(tmp_path, "realistic")
    assert not {signal.name for signal in episode.signals} & set(INSIDE)
    # log(1 + 987 654 321 / scale) is the largest number by far; none of the series comes near it.
    assert np.abs(episode.series).max() < 12


@pytest.mark.parametrize("name", INSIDE)
def test_asking_for_one_by_name_is_refused(tmp_path: Path, name: str) -> None:
    """What a crafted preprocess.json does: its channels become the signals that are asked for."""
    folder = write_dataset(tmp_path)
    wanted = [Signal("sys.cpu.user", "ticks", "counter"), INSIDE_SIGNALS[name]]
    with pytest.raises(BadData, match=f"missing: {name}"):
        load_episodes(folder, "realistic", wanted)
    assert load_episodes(folder, "oracle", wanted)


def test_asking_for_inside_channels_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="differ from what is expected"):
        load_episodes(write_dataset(tmp_path), "realistic", list(INSIDE_SIGNALS.values()))


@pytest.mark.parametrize(
    "spelling",
    [
        "Tree.processes",
        "TREE.processes",
        "tree.processes ",
        " tree.processes",
        "tree.processes\n",
        "\ttree.processes",
        "sys\u200b.x",
        "ｔree.processes",
        "trее.processes",
        "sys.x\x00tree.processes",
        "sys",
        "sys.",
        "sysx.tree",
        ".sys.x",
        "tree/processes",
        "guest",
        "sys..x",
        "sys.X",
        "sys.tree-x",
    ],
)
def test_no_spelling_hides_one_behind_another_name(spelling: str) -> None:
    """Case, spaces, letters that look alike, prefixes without their dot: the format knows none of these names."""
    channels = (Channel(spelling, "processes", "gauge"),)
    with pytest.raises(EpisodeError, match=r"channels\[0\]\.name"):
        encode(meta_of(RECIPE, 3, channels), to_payload(np.zeros((2, 3), dtype=np.int64)))


@pytest.mark.parametrize(
    "name",
    [
        "tree.x",
        "guest.x",
        "tree",
        "guest",
        "system.x",
        "sysx",
        "sys",
        "blocks.x",
        "network.x",
        "tree.sys.x",
        "guest.net.x",
        "SYS.x",
        "Sys.x",
        " sys.x",
        "",
        ".",
        "sys\u3002x",
    ],
)
def test_a_name_is_visible_by_its_whole_first_part_only(name: str) -> None:
    assert not visible(name, "realistic")


@pytest.mark.parametrize("mode", ["Realistic", "realistic ", "", "oracle ", "both", "realistic\n"])
def test_a_mode_that_does_not_exist_sees_nothing(tmp_path: Path, mode: str) -> None:
    assert not any(visible(channel.name, mode) for channel in CHANNELS)
    with pytest.raises(BadData, match="has no channel that mode"):
        load_episodes(write_dataset(tmp_path), mode)


def test_an_inside_channel_under_a_visible_name_in_one_episode_does_not_mix_with_others(
    tmp_path: Path,
) -> None:
    """Swapping the names of two channels of one file: unit or kind give it away, or it is the describer's word."""
    swapped = (Channel("sys.processes", "processes", "gauge"), *CHANNELS[:4])
    overwrite = {"sys.processes": np.arange(N, dtype=np.int64)}
    write_episode(tmp_path, "lab-a/0", episode_bytes(RECIPE))
    write_episode(tmp_path, "lab-b/0", episode_bytes(RECIPE, channels=swapped, overwrite=overwrite))
    with pytest.raises(BadData, match=r"not expected: sys\.processes"):
        load_episodes(tmp_path, "realistic")


def test_realistic_is_a_true_part_of_oracle_and_names_no_inside_prefix() -> None:
    assert set(VISIBLE["realistic"]) == {"sys.", "block.", "net."}
    assert set(VISIBLE["oracle"]) - set(VISIBLE["realistic"]) == {"tree.", "guest."}
