"""Which windows train, validate and test. Pure: episode keys in, indices out.

Windows of one episode never lie on two sides, with one exception that says so: `random_window`. Random choices
are made by ranking sha256(seed, purpose, name): they depend on the names alone, so they are the same on every
machine and with every library version, and an added episode does not reshuffle the others.

Validation comes from the training side, by group: whole variants (a variant is a family's workload with one
set of parameters), or whole episodes for `random_group` and `random_window`. It fixes the alarm threshold and
watches training; no model is fitted to it. `family_disjoint` validates by variants too: of some fifteen
families, whole ones for validation would leave few to train on and hang the threshold on one or two.

What each recipe promises is checked on its result, see `split_checks`.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from training.trainer.errors import BadConfig, BadData
from training.trainer.options import SPLIT_RECIPES, did_you_mean
from training.trainer.split_checks import check_promises, check_sides
from training.trainer.split_keys import (
    DEFAULT_WINDOW_S,
    EpisodeKey,
    Group,
    Placed,
    Rows,
    Split,
    episode_of,
    family_of,
    named,
    rank,
    variant_of,
)

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2


def make_split(
    keys: Sequence[EpisodeKey],
    recipe: str,
    train_hosts: Iterable[str],
    seed: int,
    window_s: float = DEFAULT_WINDOW_S,
) -> Split:
    """Split episodes by a recipe of `SPLIT_RECIPES`.

    `train_hosts` are the hosts whose episodes train. Empty: `host_disjoint` holds out one host, chosen by the
    seed; the other recipes use all hosts. Given: `host_disjoint` tests on all other hosts; the other recipes
    use the episodes of those hosts alone, on every side. `window_s` is the length of a window, which `time`
    keeps between the end of training and the start of the test.

    Raises BadConfig for an unknown recipe or host, BadData when a side would be empty or hold one label only,
    when the recipe cannot be followed on this data, or when its result breaks what it promises.
    """
    hosts = frozenset(train_hosts)
    if recipe not in SPLIT_RECIPES:
        hint = did_you_mean(recipe, SPLIT_RECIPES)
        raise BadConfig(
            f"split_recipe: found {recipe!r}, expected one of {', '.join(SPLIT_RECIPES)}"
            + (f"; did you mean {hint}?" if hint else "")
        )
    _check_hosts(keys, hosts)
    used = [index for index, key in enumerate(keys) if not hosts or key.host in hosts]
    group: Group = episode_of if recipe in ("random_group", "random_window") else variant_of
    embargoed: set[int] = set()
    match recipe:
        case "host_disjoint":
            used = list(range(len(keys)))
            test, held_out = _by_host(keys, hosts, seed)
        case "family_disjoint":
            test = _hold_out(keys, used, family_of, TEST_SHARE, f"{seed}/test", by_family=False)
            held_out = "families " + ", ".join(sorted({keys[index].family for index in test}))
        case "variant_disjoint":
            test = _hold_out(keys, used, group, TEST_SHARE, f"{seed}/test", by_family=True)
            held_out = "whole variants of each family"
        case "time":
            test, embargoed, held_out = _by_time(keys, used, window_s)
        case "random_group":
            test = _hold_out(keys, used, group, TEST_SHARE, f"{seed}/test", by_family=True)
            held_out = "random whole episodes of each family"
        case _:
            test, held_out = set(), "random windows of the episodes that train (leaky: for comparison only)"
    rest = [index for index in used if index not in test and index not in embargoed]
    validation = _hold_out(keys, rest, group, VALIDATION_SHARE, f"{seed}/validation", by_family=False)
    split = Split(
        recipe=recipe,
        train=tuple(index for index in rest if index not in validation),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(test)) if recipe != "random_window" else tuple(used),
        held_out=held_out,
        group=group,
        embargoed=tuple(sorted(embargoed)),
        window_s=window_s,
        seed=seed,
    )
    check_sides(keys, split)
    check_promises(keys, split)
    return split


def side_rows(split: Split, windows: Placed, keys: Sequence[EpisodeKey]) -> Mapping[str, Rows]:
    """The windows of each side by its name, as ascending row numbers. No row lies on two sides."""
    rows = {
        name: np.flatnonzero(np.isin(windows.episode, np.array(side, dtype=np.intp)))
        for name, side in split.sides().items()
    }
    if split.recipe == "random_window":
        rows["test"] = _random_windows(windows, keys, rows["test"], split.seed)
        for name in ("train", "validation"):
            rows[name] = np.setdiff1d(rows[name], rows["test"], assume_unique=True)
    return rows


def _check_hosts(keys: Sequence[EpisodeKey], train_hosts: frozenset[str]) -> None:
    known = sorted({key.host for key in keys})
    unknown = sorted(train_hosts.difference(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise BadConfig(
            f"train_hosts: found {', '.join(unknown)}, expected hosts of this data set: {', '.join(known)}"
            + (f"; did you mean {hint}?" if hint else "")
        )


def _by_host(keys: Sequence[EpisodeKey], train_hosts: frozenset[str], seed: int) -> tuple[set[int], str]:
    known = {key.host for key in keys}
    if not train_hosts:
        if len(known) < 2:
            raise BadData(
                f"host_disjoint needs episodes of at least two hosts, found {', '.join(sorted(known))}; "
                "add a host or choose variant_disjoint"
            )
        out = min(known, key=lambda host: rank(f"{seed}/host", host))
        train_hosts = frozenset(known - {out})
    test = {index for index, key in enumerate(keys) if key.host not in train_hosts}
    return test, "hosts " + ", ".join(sorted(known - train_hosts))


def _by_time(
    keys: Sequence[EpisodeKey], used: Sequence[int], window_s: float
) -> tuple[set[int], set[int], str]:
    """(test, embargoed, held out): the cut is the start of the earliest test episode. Episodes that start
    together lie on one side, so the share is met only as closely as the start times allow."""
    lacking = [keys[index].episode_id for index in used if keys[index].started_at_s is None]
    if lacking:
        raise BadData(
            f"time: {len(lacking)} of {len(used)} episodes do not say when they were recorded (no started_at_s: "
            f"{named(name[:16] for name in lacking)}); record or import them again with the time of their "
            "start, or choose variant_disjoint"
        )
    start_s = {index: float(keys[index].started_at_s or 0) for index in used}
    later_starts = sorted(set(start_s.values()))[1:]
    if not later_starts:
        raise BadData(
            f"time: all {len(used)} episodes start at the same second, so none is later than another; "
            "choose random_group"
        )
    wanted = TEST_SHARE * len(used)
    cut_s = min(
        later_starts,
        key=lambda cut: (abs(sum(start >= cut for start in start_s.values()) - wanted), -cut),
    )
    test = {index for index in used if start_s[index] >= cut_s}
    embargoed = {
        index
        for index in used
        if index not in test and start_s[index] + keys[index].duration_s + window_s > cut_s
    }
    held_out = f"what was recorded from Unix second {cut_s:.0f} on"
    return test, embargoed, held_out


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
    no stratum is lost on either side: a stratum of one group stays where it is. A group counts as suspicious
    when any episode of it is."""
    members: dict[Hashable, list[int]] = {}
    for index in pool:
        members.setdefault(group(keys[index]), []).append(index)
    strata: dict[tuple[bool, str], list[Hashable]] = {}
    for name, indices in members.items():
        suspicious = any(keys[index].suspicious for index in indices)
        family = keys[indices[0]].family if by_family else ""
        strata.setdefault((suspicious, family), []).append(name)
    chosen: set[int] = set()
    for names in strata.values():
        count = min(max(1, math.floor(share * len(names) + 0.5)), len(names) - 1)
        for name in sorted(names, key=lambda name: rank(purpose, name))[:count]:
            chosen.update(members[name])
    return chosen


def _random_windows(windows: Placed, keys: Sequence[EpisodeKey], pool: Rows, seed: int) -> Rows:
    """A quarter of the windows of each label and family, whatever episode they are of."""
    strata: dict[tuple[bool, str], list[int]] = {}
    ranks: dict[int, str] = {}
    for row in pool.tolist():
        key = keys[int(windows.episode[row])]
        strata.setdefault((bool(windows.suspicious[row]), key.family), []).append(row)
        ranks[row] = rank(f"{seed}/window", (key.episode_id, f"{windows.start_s[row]:.6f}"))
    chosen: list[int] = []
    for rows in strata.values():
        count = min(max(1, math.floor(TEST_SHARE * len(rows) + 0.5)), len(rows) - 1)
        chosen += sorted(rows, key=ranks.__getitem__)[:count]
    return np.array(sorted(chosen), dtype=np.intp)
