"""What the importer says about split recipes agrees with what the trainer's splits then do."""

from hypothesis import given
from hypothesis import strategies as st

from collection.importing.recipes import EpisodeRow, usable
from training.trainer.errors import BadConfig, BadData
from training.trainer.options import LEAKY_RECIPES, SPLIT_RECIPES
from training.trainer.split_keys import EpisodeKey
from training.trainer.splits import make_split

SEEDS = range(6)


def splits(rows: list[EpisodeRow], recipe: str, seed: int) -> bool:
    """Whether the trainer can split so."""
    keys = [
        EpisodeKey(
            f"{n:04d}", row.host, row.family, row.variant, row.suspicious, row.started_at_s, row.duration_s
        )
        for n, row in enumerate(rows)
    ]
    try:
        make_split(keys, recipe, (), seed)
    except (BadData, BadConfig):
        return False
    return True


ROWS = st.lists(
    st.builds(
        EpisodeRow,
        host=st.sampled_from("ab"),
        family=st.sampled_from("fgh"),
        variant=st.sampled_from("123456"),
        suspicious=st.booleans(),
        started_at_s=st.integers(0, 400),
        duration_s=st.just(5.0),
    ),
    min_size=2,
    max_size=40,
)


def test_every_honest_recipe_is_judged() -> None:
    rows = [EpisodeRow("a", "f", "1", False, None, 5.0)]
    assert {use.recipe for use in usable(rows)} == set(SPLIT_RECIPES) - set(LEAKY_RECIPES)


@given(ROWS)
def test_yes_means_that_every_seed_splits_and_no_that_none_does(rows: list[EpisodeRow]) -> None:
    for use in usable(rows):
        done = {splits(rows, use.recipe, seed) for seed in SEEDS}
        if use.verdict == "yes":
            assert done == {True}, use
        if use.verdict == "no":
            assert done == {False}, use
            assert use.why


def test_a_set_with_enough_of_everything_can_be_used_with_every_recipe() -> None:
    rows = [
        EpisodeRow(host, family, f"{family}{n}", family in "xy", 1000 * n + hosts, 5.0)
        for hosts, host in enumerate("abc")
        for family in "fgxy"
        for n in range(8)
    ]
    assert {use.recipe: use.verdict for use in usable(rows)} == dict.fromkeys(
        (use.recipe for use in usable(rows)), "yes"
    )


def test_one_host_one_label_or_no_dates_are_given_as_reasons() -> None:
    rows = [EpisodeRow("a", "f", str(n), n % 2 == 0, None, 5.0) for n in range(20)]
    why = {use.recipe: use.why for use in usable(rows)}
    assert why["host_disjoint"] == "all episodes are of host a"
    assert why["time"] == "the episodes do not say when they were recorded; see time.zero"
    assert why["variant_disjoint"] == ""
    benign = [EpisodeRow("a", "f", str(n), False, n * 100, 5.0) for n in range(20)]
    assert {use.verdict for use in usable(benign)} == {"no"}
