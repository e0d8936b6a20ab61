"""The plan of a recording keeps the labels equal in everything but behaviour."""

from collections import Counter

import pytest

from collection.plan import BASELINE_MS, plan
from collection.profiles import PROFILES
from collection.record import SETS


def test_the_same_seed_and_host_give_the_same_plan() -> None:
    assert plan(1, "lab-a", 10) == plan(1, "lab-a", 10)
    assert plan(1, "lab-a", 10) != plan(1, "lab-b", 10)
    assert plan(1, "lab-a", 10) != plan(2, "lab-a", 10)


def test_half_is_benign_and_each_pair_has_both_labels() -> None:
    labels = [PROFILES[todo.profile].label for todo in plan(1, "lab-a", 30)]
    assert all(set(labels[n : n + 2]) == {"benign", "suspicious"} for n in range(0, 30, 2))
    assert len(set(labels[::2])) == 2, "the order within pairs changes"


def test_both_labels_have_the_same_background_tasks() -> None:
    backgrounds = {"benign": Counter[str](), "suspicious": Counter[str]()}
    for todo in plan(1, "lab-e", 24):
        backgrounds[PROFILES[todo.profile].label][todo.background] += 1
    assert backgrounds["benign"] == backgrounds["suspicious"]


def test_every_profile_occurs_on_every_host_of_the_sets() -> None:
    for chosen in SETS.values():
        for host in chosen.hosts:
            assert {todo.profile for todo in plan(chosen.seed, host, chosen.episodes)} == set(PROFILES)


def test_no_variant_occurs_twice_and_none_is_in_both_sets() -> None:
    every = [
        (todo.profile, todo.variant)
        for chosen in SETS.values()
        for host in chosen.hosts
        for todo in plan(chosen.seed, host, chosen.episodes)
    ]
    assert len(set(every)) == len(every) == 144


def test_parameters_lie_in_their_ranges() -> None:
    for todo in plan(3, "lab-a", 60):
        ranges = PROFILES[todo.profile].ranges
        assert set(todo.parameters) == set(ranges)
        assert all(low <= todo.parameters[name] <= high for name, (low, high) in ranges.items())
        assert BASELINE_MS[0] <= todo.baseline_ms <= BASELINE_MS[1]


@pytest.mark.parametrize("count", [0, 1, 7, -2])
def test_an_odd_number_of_episodes_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected an even number"):
        plan(1, "lab-a", count)
