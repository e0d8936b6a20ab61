"""Which episodes train, validate and test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer.errors import BadConfig, BadData
from training.trainer.options import SPLIT_RECIPES
from training.trainer.splits import EpisodeKey, Split, describe, make_split, overlap

FAMILIES = (("compile", False), ("web", False), ("rewrite", True), ("beacon", True))


def keys(hosts: tuple[str, ...] = ("lab-a", "lab-b", "lab-c"), variants: int = 4) -> list[EpisodeKey]:
    """Every host records every variant of every family once."""
    return [
        EpisodeKey(f"{host}-{family}-{variant}", host, family, f"{family}/{variant}", suspicious)
        for host in hosts
        for family, suspicious in FAMILIES
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


@given(st.sampled_from(sorted(SPLIT_RECIPES)), st.integers(0, 1000), st.integers(3, 8), st.integers(2, 4))
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
