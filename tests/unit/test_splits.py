"""Which episodes train, validate and test."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer.errors import BadConfig, BadData
from training.trainer.options import LEAKY_RECIPES, SPLIT_RECIPES
from training.trainer.split_checks import describe, overlap
from training.trainer.split_keys import EpisodeKey, Split
from training.trainer.splits import make_split

FAMILIES = (("compile", False), ("web", False), ("rewrite", True), ("beacon", True))
EPISODE_S = 15.0


def keys(hosts: tuple[str, ...] = ("lab-a", "lab-b", "lab-c"), variants: int = 4) -> list[EpisodeKey]:
    """Every host records every variant of every family once, one a minute; all hosts at the same time."""
    return [
        EpisodeKey(
            f"{host}-{family}-{variant}",
            host,
            family,
            f"{family}/{variant}",
            suspicious,
            started_at_s=1_000_000 + 60 * (n_family + len(FAMILIES) * variant),
            duration_s=EPISODE_S,
        )
        for host in hosts
        for n_family, (family, suspicious) in enumerate(FAMILIES)
        for variant in range(variants)
    ]


def hosts_of(all_keys: list[EpisodeKey], side: tuple[int, ...]) -> set[str]:
    return {all_keys[index].host for index in side}


def variants_of(all_keys: list[EpisodeKey], side: tuple[int, ...]) -> set[str]:
    return {all_keys[index].variant for index in side}


def test_host_disjoint_tests_on_all_hosts_that_do_not_train() -> None:
    split = make_split(keys(), "host_disjoint", ["lab-a"], seed=1)
    assert hosts_of(keys(), split.train + split.validation) == {"lab-a"}
    assert hosts_of(keys(), split.test) == {"lab-b", "lab-c"}


def test_without_train_hosts_one_host_chosen_by_the_seed_is_held_out() -> None:
    chosen = {
        tuple(hosts_of(keys(), make_split(keys(), "host_disjoint", [], seed).test)) for seed in range(20)
    }
    assert chosen == {("lab-a",), ("lab-b",), ("lab-c",)}


def test_variant_disjoint_keeps_every_family_on_both_sides_and_every_variant_on_one() -> None:
    split = make_split(keys(), "variant_disjoint", [], seed=1)
    known = variants_of(keys(), split.train + split.validation)
    tested = variants_of(keys(), split.test)
    assert not known & tested
    assert {variant.split("/")[0] for variant in tested} == {family for family, _ in FAMILIES}


def test_train_hosts_limit_the_other_recipes_to_those_hosts() -> None:
    split = make_split(keys(), "random_group", ["lab-a", "lab-b"], seed=1)
    assert hosts_of(keys(), split.train + split.validation + split.test) == {"lab-a", "lab-b"}


@pytest.mark.parametrize("recipe", ["host_disjoint", "variant_disjoint"])
def test_validation_variants_do_not_train(recipe: str) -> None:
    split = make_split(keys(), recipe, [], seed=3)
    assert not variants_of(keys(), split.train) & variants_of(keys(), split.validation)


WHOLE_EPISODES = sorted(set(SPLIT_RECIPES) - LEAKY_RECIPES)


@given(st.sampled_from(WHOLE_EPISODES), st.integers(0, 1000), st.integers(3, 8), st.integers(2, 4))
def test_sides_are_disjoint_balanced_and_repeatable(
    recipe: str, seed: int, variants: int, n_hosts: int
) -> None:
    all_keys = keys(("lab-a", "lab-b", "lab-c", "lab-d")[:n_hosts], variants)
    split = make_split(all_keys, recipe, [], seed)
    sides = [set(side) for side in split.sides().values()]
    assert sides[0] | sides[1] | sides[2] == set(range(len(all_keys)))
    assert sum(len(side) for side in sides) == len(all_keys)
    for side in sides:
        assert {all_keys[index].suspicious for index in side} == {True, False}
    assert split == make_split(all_keys, recipe, [], seed)


def test_a_split_stays_what_it_is_when_the_trainer_changes() -> None:
    """Results of earlier releases must stay comparable: these choices are part of what a seed means."""

    def tested(recipe: str) -> set[str]:
        return variants_of(keys(), make_split(keys(), recipe, [], seed=7).test)

    assert tested("variant_disjoint") == {"beacon/3", "compile/2", "rewrite/1", "web/1"}
    assert {variant.split("/")[0] for variant in tested("family_disjoint")} == {"beacon", "web"}
    assert hosts_of(keys(), make_split(keys(), "host_disjoint", [], seed=7).test) == {"lab-c"}


def test_family_disjoint_tests_on_a_quarter_of_the_families_of_each_label() -> None:
    all_keys = [
        EpisodeKey(f"{label}{family}-{n}", "lab-a", f"{label}{family}", f"{n}", label == "bad")
        for label, count in (("good", 8), ("bad", 4))
        for family in range(count)
        for n in range(4)
    ]
    split = make_split(all_keys, "family_disjoint", [], seed=1)
    tested = {all_keys[index].family for index in split.test}
    known = {all_keys[index].family for index in (*split.train, *split.validation)}
    assert (
        sum(name.startswith("good") for name in tested),
        sum(name.startswith("bad") for name in tested),
    ) == (2, 1)
    assert not tested & known
    assert split.held_out == "families " + ", ".join(sorted(tested))


def test_a_family_of_both_labels_lies_on_one_side() -> None:
    all_keys = [replace(key, suspicious=n % 2 == 0) for n, key in enumerate(keys())]
    assert overlap(all_keys, make_split(all_keys, "family_disjoint", [], seed=1))["families"] == 0


def test_the_last_quarter_in_time_is_the_test_side() -> None:
    split = make_split(keys(), "time", [], seed=1)
    cut_s = min(keys()[index].started_at_s or 0 for index in split.test)
    assert len(split.test) == 12
    assert max(keys()[index].started_at_s or 0 for index in (*split.train, *split.validation)) < cut_s
    assert split.embargoed == ()


def test_episodes_that_start_together_lie_on_one_side_of_the_cut() -> None:
    early = [replace(key, started_at_s=100 if n % 3 else 900) for n, key in enumerate(keys())]
    split = make_split(early, "time", [], seed=1)
    assert {early[index].started_at_s for index in split.test} == {900}


@pytest.mark.parametrize(("window_s", "n_embargoed"), [(4.0, 0), (45.0, 0), (45.1, 3), (105.1, 6)])
def test_what_ends_less_than_a_window_before_the_cut_lies_on_no_side(
    window_s: float, n_embargoed: int
) -> None:
    """The last episode before the cut starts 60 s before it and lasts 15 s, on each of three hosts."""
    split = make_split(keys(variants=8), "time", [], seed=1, window_s=window_s)
    assert len(split.embargoed) == n_embargoed
    assert not set(split.embargoed) & {index for side in split.sides().values() for index in side}
    embargo = describe(split, keys(variants=8))["embargo"]
    assert isinstance(embargo, dict)
    assert embargo["n_episodes"] == n_embargoed
    assert isinstance(embargo["gap_s"], float)
    assert embargo["gap_s"] >= window_s


def test_a_long_recording_that_reaches_into_the_test_side_is_left_out() -> None:
    endless = [replace(key, duration_s=5000.0) if n == 0 else key for n, key in enumerate(keys())]
    assert make_split(endless, "time", [], seed=1).embargoed == (0,)


def test_without_start_times_nothing_is_split_by_time() -> None:
    nameless = [replace(key, started_at_s=None) if n < 7 else key for n, key in enumerate(keys())]
    with pytest.raises(
        BadData, match=r"7 of 48 episodes do not say when .*lab-a-compile-0.* and 2 more.*import"
    ):
        make_split(nameless, "time", [], seed=1)


def test_recordings_of_one_moment_cannot_be_split_by_time() -> None:
    with pytest.raises(BadData, match="start at the same second"):
        make_split([replace(key, started_at_s=5) for key in keys()], "time", [], seed=1)


@pytest.mark.parametrize("recipe", sorted(SPLIT_RECIPES))
def test_only_random_window_is_leaky(recipe: str) -> None:
    split = make_split(keys(), recipe, [], seed=1)
    assert split.is_leaky == (recipe == "random_window")
    assert describe(split, keys())["leaky"] == split.is_leaky


@given(st.integers(0, 1000))
def test_the_order_of_the_episodes_does_not_change_who_tests(seed: int) -> None:
    def tested(all_keys: list[EpisodeKey]) -> set[str]:
        split = make_split(all_keys, "variant_disjoint", [], seed)
        return {all_keys[index].episode_id for index in split.test}

    assert tested(keys()) == tested(keys()[::-1])


def test_an_unknown_recipe_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(BadConfig, match=r"split_recipe.*did you mean host_disjoint"):
        make_split(keys(), "host_disjont", [], seed=1)


def test_an_unknown_host_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"train_hosts: found lab-x, expected .*lab-a, lab-b, lab-c"):
        make_split(keys(), "host_disjoint", ["lab-a", "lab-x"], seed=1)


def test_training_on_all_hosts_leaves_no_test_side_and_is_refused() -> None:
    with pytest.raises(BadData, match="the test side has 0 suspicious and 0 benign"):
        make_split(keys(), "host_disjoint", ["lab-a", "lab-b", "lab-c"], seed=1)


def test_one_host_alone_cannot_be_split_by_host() -> None:
    with pytest.raises(BadData, match="at least two hosts"):
        make_split(keys(("lab-a",)), "host_disjoint", [], seed=1)


def test_a_side_with_one_label_only_is_refused() -> None:
    benign = [key for key in keys() if not key.suspicious]
    with pytest.raises(BadData, match="0 suspicious"):
        make_split(benign, "random_group", [], seed=1)


def test_too_few_groups_for_validation_are_refused_rather_than_shared() -> None:
    with pytest.raises(BadData, match="the validation side has 0"):
        make_split(
            [key for key in keys(variants=1) if key.family in ("web", "beacon")], "host_disjoint", [], 1
        )


def test_the_description_lists_the_episodes_of_each_side_and_counts_what_is_shared() -> None:
    split = make_split(keys(), "host_disjoint", ["lab-a"], seed=1)
    described = describe(split, keys())
    sides = described["sides"]
    assert isinstance(sides, dict)
    test = sides["test"]
    assert isinstance(test, dict)
    assert test["n_episodes"] == 32
    assert test["hosts"] == ["lab-b", "lab-c"]
    assert described["on_both_train_and_test"] == {"episodes": 0, "variants": 16, "families": 4, "hosts": 0}


def test_overlap_sees_a_leak() -> None:
    leaky = Split("random_group", train=(0, 1), validation=(2,), test=(1, 3), held_out="")
    assert overlap(keys(), leaky)["episodes"] == 1
