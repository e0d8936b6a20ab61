"""Which episodes train, validate and test. Pure: episode keys in, indices out.

Windows of one episode never lie on two sides. Random choices are made by ranking sha256(seed, purpose, name):
they depend on the names alone, so they are the same on every machine and with every library version, and an
added episode does not reshuffle the others.

Validation comes from the training side, by group: whole variants (a variant is a family's workload with one
set of parameters), or whole episodes for `random_group`. It fixes the alarm threshold and watches training;
no model is fitted to it.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.trainer.errors import BadConfig, BadData
from training.trainer.options import SPLIT_RECIPES, Json, did_you_mean

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class EpisodeKey:
    """What a split may know of an episode. `suspicious`: some interval of it carries that label."""

    episode_id: str
    host: str
    family: str
    variant: str
    suspicious: bool


@dataclass(frozen=True)
class Split:
    """Indices into the sequence of keys, ascending and disjoint. Episodes of hosts that the recipe was told
    to leave out lie on no side. `held_out` says in words what the test side is."""

    recipe: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    held_out: str

    def sides(self) -> Mapping[str, tuple[int, ...]]:
        """The three sides by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


Group = Callable[[EpisodeKey], Hashable]


def _variant(key: EpisodeKey) -> tuple[str, str]:
    return (key.family, key.variant)


def _episode(key: EpisodeKey) -> str:
    return key.episode_id


def _family(key: EpisodeKey) -> str:
    return key.family


def _host(key: EpisodeKey) -> str:
    return key.host


def make_split(keys: Sequence[EpisodeKey], recipe: str, train_hosts: Iterable[str], seed: int) -> Split:
    """Split episodes by a recipe of `SPLIT_RECIPES`.

    `train_hosts` are the hosts whose episodes train. Empty: `host_disjoint` holds out one host, chosen by the
    seed; the other recipes use all hosts. Given: `host_disjoint` tests on all other hosts; the other recipes
    use the episodes of those hosts alone, on every side.

    Raises BadConfig for an unknown recipe or host, BadData when a side would be empty or hold one label only.
    """
    hosts = frozenset(train_hosts)
    _check_hosts(keys, hosts)
    if recipe == "host_disjoint":
        rest, test, held_out = _by_host(keys, hosts, seed)
        group: Group = _variant
    elif recipe == "variant_disjoint":
        rest, test, held_out = _by_group(keys, hosts, seed, _variant, "whole variants of each family")
        group = _variant
    elif recipe == "random_group":
        rest, test, held_out = _by_group(keys, hosts, seed, _episode, "random whole episodes of each family")
        group = _episode
    else:
        hint = did_you_mean(recipe, SPLIT_RECIPES)
        raise BadConfig(
            f"split_recipe: found {recipe!r}, expected one of {', '.join(SPLIT_RECIPES)}"
            + (f"; did you mean {hint}?" if hint else "")
        )
    validation = _hold_out(keys, rest, group, VALIDATION_SHARE, f"{seed}/validation", by_family=False)
    train = [index for index in rest if index not in validation]
    split = Split(recipe, tuple(train), tuple(sorted(validation)), tuple(sorted(test)), held_out)
    _check_sides(keys, split)
    _check_overlap(keys, split, group)
    return split


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
    return {
        "recipe": split.recipe,
        "held_out": split.held_out,
        "sides": sides,
        "on_both_train_and_test": shared,
    }


def _rank(purpose: str, name: Hashable) -> str:
    return hashlib.sha256(f"{purpose}/{name!r}".encode()).hexdigest()


def _check_hosts(keys: Sequence[EpisodeKey], train_hosts: frozenset[str]) -> None:
    known = sorted({key.host for key in keys})
    unknown = sorted(train_hosts.difference(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise BadConfig(
            f"train_hosts: found {', '.join(unknown)}, expected hosts of this data set: {', '.join(known)}"
            + (f"; did you mean {hint}?" if hint else "")
        )


def _by_host(
    keys: Sequence[EpisodeKey], train_hosts: frozenset[str], seed: int
) -> tuple[list[int], set[int], str]:
    known = {key.host for key in keys}
    if not train_hosts:
        if len(known) < 2:
            raise BadData(
                f"host_disjoint needs episodes of at least two hosts, found {', '.join(sorted(known))}; "
                "add a host or choose variant_disjoint"
            )
        out = min(known, key=lambda host: _rank(f"{seed}/host", host))
        train_hosts = frozenset(known - {out})
    test = {index for index, key in enumerate(keys) if key.host not in train_hosts}
    held_out = "hosts " + ", ".join(sorted(known - train_hosts))
    return [index for index in range(len(keys)) if index not in test], test, held_out


def _by_group(
    keys: Sequence[EpisodeKey], train_hosts: frozenset[str], seed: int, group: Group, what: str
) -> tuple[list[int], set[int], str]:
    used = [index for index, key in enumerate(keys) if not train_hosts or key.host in train_hosts]
    test = _hold_out(keys, used, group, TEST_SHARE, f"{seed}/test", by_family=True)
    return [index for index in used if index not in test], test, what


def _hold_out(
    keys: Sequence[EpisodeKey],
    pool: Sequence[int],
    group: Group,
    share: float,
    purpose: str,
    *,
    by_family: bool,
) -> set[int]:
    """About `share` of the groups of the pool, chosen within strata (label, and family where asked) so that
    no stratum is lost on either side: a stratum of one group stays where it is."""
    strata: dict[tuple[bool, str], dict[Hashable, list[int]]] = {}
    for index in pool:
        key = keys[index]
        stratum = strata.setdefault((key.suspicious, key.family if by_family else ""), {})
        stratum.setdefault(group(key), []).append(index)
    chosen: set[int] = set()
    for stratum in strata.values():
        count = min(max(1, math.floor(share * len(stratum) + 0.5)), len(stratum) - 1)
        for name in sorted(stratum, key=lambda name: _rank(purpose, name))[:count]:
            chosen.update(stratum[name])
    return chosen


def _check_sides(keys: Sequence[EpisodeKey], split: Split) -> None:
    for name, indices in split.sides().items():
        n_suspicious = sum(keys[index].suspicious for index in indices)
        if not indices or n_suspicious in (0, len(indices)):
            raise BadData(
                f"{split.recipe}: the {name} side has {n_suspicious} suspicious and "
                f"{len(indices) - n_suspicious} benign episodes, expected some of each; "
                "record more episodes, or change train_hosts or split_recipe"
            )


def overlap(keys: Sequence[EpisodeKey], split: Split) -> dict[str, int]:
    """How many episodes, variants, families and hosts of the test side also train or validate."""
    known = [keys[index] for index in (*split.train, *split.validation)]
    tested = [keys[index] for index in split.test]
    return {
        name: len({what(key) for key in known} & {what(key) for key in tested})
        for name, what in (
            ("episodes", _episode),
            ("variants", _variant),
            ("families", _family),
            ("hosts", _host),
        )
    }


_PROMISES: Mapping[str, tuple[str, ...]] = {
    "host_disjoint": ("episodes", "hosts"),
    "variant_disjoint": ("episodes", "variants"),
    "random_group": ("episodes",),
}


def _check_overlap(keys: Sequence[EpisodeKey], split: Split, group: Group) -> None:
    """What the recipe promises, checked on its result: a leaky number is worse than no number."""
    shared = overlap(keys, split)
    for what in _PROMISES[split.recipe]:
        if shared[what]:
            raise BadData(f"{split.recipe}: {shared[what]} {what} lie on both the training and the test side")
    both = {group(keys[index]) for index in split.train} & {group(keys[index]) for index in split.validation}
    if both:
        raise BadData(f"{split.recipe}: {len(both)} groups lie on both the training and the validation side")
