"""Which windows lie on which side, and what becomes of a split that breaks its promise."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.trainer.errors import BadData
from training.trainer.options import SPLIT_RECIPES
from training.trainer.split_checks import check_promises, time_gap_s
from training.trainer.split_keys import EpisodeKey, Split
from training.trainer.splits import make_split, side_rows

WINDOWS_EACH = 12


@dataclass(frozen=True)
class Placed:
    """Windows of episodes, one a second."""

    episode: NDArray[np.intp]
    start_s: NDArray[np.float64]
    suspicious: NDArray[np.bool_]


def keys(n_hosts: int = 3, variants: int = 4) -> list[EpisodeKey]:
    return [
        EpisodeKey(
            f"{host}-{family}-{n}", f"lab-{host}", family, f"{n}", suspicious, 1000 + 60 * (2 * n + nth), 15.0
        )
        for host in range(n_hosts)
        for n in range(variants)
        for nth, (family, suspicious) in enumerate((("web", False), ("beacon", True), ("logs", False)))
    ] + [
        EpisodeKey(f"{host}-wipe-{n}", f"lab-{host}", "wipe", f"{n}", True, 1000 + 60 * (2 * n), 15.0)
        for host in range(n_hosts)
        for n in range(variants)
    ]


def windows_of(all_keys: list[EpisodeKey]) -> Placed:
    """The first four windows of each episode are benign, as in a recording with a quiet beginning."""
    start_s = np.tile(np.arange(WINDOWS_EACH, dtype=np.float64), len(all_keys))
    episode = np.repeat(np.arange(len(all_keys)), WINDOWS_EACH)
    suspicious = np.array([key.suspicious for key in all_keys])[episode] & (start_s >= 4)
    return Placed(episode.astype(np.intp), start_s, suspicious)


@given(st.sampled_from(sorted(SPLIT_RECIPES)), st.integers(0, 50))
def test_no_window_lies_on_two_sides(recipe: str, seed: int) -> None:
    split = make_split(keys(), recipe, [], seed)
    rows = side_rows(split, windows_of(keys()), keys())
    together = np.concatenate([rows[name] for name in ("train", "validation", "test")])
    assert len(np.unique(together)) == len(together)
    if recipe != "time":
        assert len(together) == WINDOWS_EACH * len(keys())


@pytest.mark.parametrize("recipe", sorted(set(SPLIT_RECIPES) - {"random_window"}))
def test_a_side_of_whole_episodes_has_all_their_windows(recipe: str) -> None:
    split = make_split(keys(), recipe, [], seed=3)
    rows = side_rows(split, windows_of(keys()), keys())
    for name, side in split.sides().items():
        assert set(windows_of(keys()).episode[rows[name]].tolist()) == set(side)
        assert len(rows[name]) == WINDOWS_EACH * len(side)


def test_random_window_tests_on_a_quarter_of_the_windows_of_each_family_and_label() -> None:
    windows = windows_of(keys())
    rows = side_rows(make_split(keys(), "random_window", [], seed=3), windows, keys())
    family = np.array([key.family for key in keys()])[windows.episode]
    for name in ("web", "beacon", "wipe"):
        for label in (False, True):
            stratum = np.flatnonzero((family == name) & (windows.suspicious == label))
            if len(stratum):
                share = np.isin(stratum, rows["test"]).mean()
                assert share == pytest.approx(0.25, abs=0.02), (name, label)


def test_random_window_validates_on_whole_episodes_less_the_windows_that_test() -> None:
    windows = windows_of(keys())
    split = make_split(keys(), "random_window", [], seed=3)
    rows = side_rows(split, windows, keys())
    trained, validated = (set(windows.episode[rows[name]].tolist()) for name in ("train", "validation"))
    assert not trained & validated
    assert len(trained & set(windows.episode[rows["test"]].tolist())) > 0.9 * len(trained)


def test_random_windows_do_not_depend_on_the_order_of_the_episodes() -> None:
    def tested(all_keys: list[EpisodeKey]) -> set[tuple[str, float]]:
        windows = windows_of(all_keys)
        rows = side_rows(make_split(all_keys, "random_window", [], seed=5), windows, all_keys)["test"]
        return {(all_keys[windows.episode[row]].episode_id, float(windows.start_s[row])) for row in rows}

    assert tested(keys()) == tested(keys()[::-1])


@pytest.mark.parametrize(
    ("recipe", "broken"),
    [
        ("random_group", "episodes"),
        ("variant_disjoint", "episodes"),
        ("family_disjoint", "episodes"),
        ("host_disjoint", "episodes"),
        ("time", "episodes"),
    ],
)
def test_an_episode_on_both_sides_is_refused(recipe: str, broken: str) -> None:
    split = make_split(keys(), recipe, [], seed=1)
    leaky = replace(split, test=tuple(sorted((*split.test, split.train[0]))))
    with pytest.raises(BadData, match=f"{recipe}: 1 {broken} lie on both"):
        check_promises(keys(), leaky)


@pytest.mark.parametrize(
    ("recipe", "what"),
    [("variant_disjoint", "variants"), ("family_disjoint", "families"), ("host_disjoint", "hosts")],
)
def test_a_group_on_both_sides_is_refused(recipe: str, what: str) -> None:
    """The sides of another recipe under this recipe's name."""
    split = replace(make_split(keys(), "random_group", [], seed=1), recipe=recipe)
    with pytest.raises(BadData, match=f"{recipe}: [0-9]+ (variants|{what}) lie on both"):
        check_promises(keys(), split)


def test_a_validation_group_that_also_trains_is_refused() -> None:
    split = make_split(keys(), "variant_disjoint", [], seed=1)
    leaky = replace(split, validation=(*split.validation, split.train[0]))
    with pytest.raises(BadData, match="groups lie on both the training and the validation side"):
        check_promises(keys(), leaky)


def test_a_time_split_whose_sides_touch_is_refused() -> None:
    """A recording that turns out longer than the split was told."""
    split = make_split(keys(), "time", [], seed=1)
    longer = [replace(key, duration_s=42.0) if n == split.train[-1] else key for n, key in enumerate(keys())]
    last = max(split.train, key=lambda index: keys()[index].started_at_s or 0)
    longer = [replace(key, duration_s=58.0) if n == last else key for n, key in enumerate(keys())]
    assert time_gap_s(longer, split) == pytest.approx(2.0)
    with pytest.raises(BadData, match=r"time: .* must lie a window of 4 s, found 2 s"):
        check_promises(longer, split)


def test_a_recipe_that_promises_nothing_breaks_nothing() -> None:
    check_promises(keys(), Split("random_window", train=(0,), validation=(1,), test=(0, 1), held_out=""))
