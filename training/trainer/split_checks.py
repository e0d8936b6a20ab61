"""What a split promises, checked on its result, and the split in words for `split.json`. Pure.

A leaky number is worse than no number: a broken promise is BadData, and no model is trained.
"""

from collections.abc import Mapping, Sequence

from training.trainer.errors import BadData
from training.trainer.options import Json
from training.trainer.split_keys import (
    EpisodeKey,
    Group,
    Split,
    episode_of,
    family_of,
    host_of,
    variant_of,
)

GROUPS: Mapping[str, Group] = {
    "episodes": episode_of,
    "variants": variant_of,
    "families": family_of,
    "hosts": host_of,
}

PROMISES: Mapping[str, tuple[str, ...]] = {
    "host_disjoint": ("episodes", "hosts"),
    "family_disjoint": ("episodes", "variants", "families"),
    "variant_disjoint": ("episodes", "variants"),
    "time": ("episodes",),
    "random_group": ("episodes",),
    "random_window": (),
}
"""Recipe -> the groups of which none may lie on both the training and the test side."""


def check_sides(keys: Sequence[EpisodeKey], split: Split) -> None:
    """Raises BadData when a side holds no episode of one label."""
    left_out = f"; {len(split.embargoed)} more lie too close to the cut" if split.embargoed else ""
    for name, indices in split.sides().items():
        n_suspicious = sum(keys[index].suspicious for index in indices)
        if not indices or n_suspicious in (0, len(indices)):
            raise BadData(
                f"{split.recipe}: the {name} side has {n_suspicious} suspicious and "
                f"{len(indices) - n_suspicious} benign episodes, expected some of each{left_out}; "
                "record more episodes, or change train_hosts or split_recipe"
            )


def overlap(keys: Sequence[EpisodeKey], split: Split) -> dict[str, int]:
    """How many episodes, variants, families and hosts of the test side also train or validate."""
    known = [keys[index] for index in (*split.train, *split.validation)]
    tested = [keys[index] for index in split.test]
    return {
        name: len({what(key) for key in known} & {what(key) for key in tested})
        for name, what in GROUPS.items()
    }


def validation_overlap(keys: Sequence[EpisodeKey], split: Split) -> int:
    """How many groups of the validation side also train."""
    both = {split.group(keys[i]) for i in split.train} & {split.group(keys[i]) for i in split.validation}
    return len(both)


def time_gap_s(keys: Sequence[EpisodeKey], split: Split) -> float | None:
    """Seconds from the end of the last training or validation episode to the start of the first test episode;
    negative when they overlap, None when some episode does not say when it was recorded."""
    starts = {index: keys[index].started_at_s for side in split.sides().values() for index in side}
    known = {index: start for index, start in starts.items() if start is not None}
    if len(known) < len(starts):
        return None
    end_s = max(known[i] + keys[i].duration_s for i in (*split.train, *split.validation))
    return min(known[i] for i in split.test) - end_s


def check_promises(keys: Sequence[EpisodeKey], split: Split) -> None:
    """Raises BadData when the split does not keep what its recipe promises."""
    shared = overlap(keys, split)
    for what in PROMISES[split.recipe]:
        if shared[what]:
            raise BadData(
                f"{split.recipe}: {shared[what]} {what} lie on both the training and the test side; "
                "nothing was trained, for its measures would mean nothing; choose another split_recipe"
            )
    both = validation_overlap(keys, split)
    if both:
        raise BadData(f"{split.recipe}: {both} groups lie on both the training and the validation side")
    if split.recipe == "time":
        gap_s = time_gap_s(keys, split)
        if gap_s is None or gap_s < split.window_s:
            found = "some episodes have no start time" if gap_s is None else f"found {gap_s:g} s"
            raise BadData(
                f"time: between the last training episode and the first test episode must lie a window of "
                f"{split.window_s:g} s, {found}"
            )


def describe(split: Split, keys: Sequence[EpisodeKey]) -> dict[str, Json]:
    """The split for `split.json`: sorted episode ids and what distinguishes each side."""
    sides: dict[str, Json] = {}
    for name, indices in split.sides().items():
        chosen = [keys[index] for index in indices]
        hosts: list[Json] = [*sorted({key.host for key in chosen})]
        families: list[Json] = [*sorted({key.family for key in chosen})]
        episodes: list[Json] = [*sorted(key.episode_id for key in chosen)]
        sides[name] = {
            "hosts": hosts,
            "families": families,
            "n_suspicious": sum(key.suspicious for key in chosen),
            "n_episodes": len(chosen),
            "episodes": episodes,
        }
    shared: dict[str, Json] = {**overlap(keys, split)}
    described: dict[str, Json] = {
        "recipe": split.recipe,
        "leaky": split.is_leaky,
        "held_out": split.held_out,
        "sides": sides,
        "on_both_train_and_test": shared,
    }
    if split.recipe == "time":
        embargoed: list[Json] = [*sorted(keys[index].episode_id for index in split.embargoed)]
        described["embargo"] = {
            "window_s": split.window_s,
            "gap_s": time_gap_s(keys, split),
            "n_episodes": len(embargoed),
            "episodes": embargoed,
        }
    if split.is_leaky:
        described["windows"] = (
            "the test side is single windows of these episodes (predictions.csv lists them); "
            "the others train or validate"
        )
    return described
