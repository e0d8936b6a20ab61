"""Which split recipes a data set can be used with. Pure.

It follows the rules of `training.trainer.splits` as far as they do not depend on the seed's draw; a test holds the two
together. The recorder and the importer stand beside the trainer and do not call it.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

TEST_SHARE: Final = 0.25
WINDOW_S: Final = 4.0

Verdict = Literal["yes", "perhaps", "no"]


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """What a split and the summary know of an episode. `duration_s`: time of its last sample."""

    host: str
    family: str
    variant: str
    suspicious: bool
    started_at_s: int | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class Usable:
    """Whether a recipe can be used, and if not for sure why."""

    recipe: str
    verdict: Verdict
    why: str = ""


Rows = Sequence[EpisodeRow]
Group = Callable[[EpisodeRow], Hashable]


def usable(rows: Rows) -> list[Usable]:
    """A verdict for each recipe that is honest."""
    return [
        _host_disjoint(rows),
        _family_disjoint(rows),
        _named("variant_disjoint", _variant_disjoint(rows)),
        _named("time", _time(rows)),
        _named("random_group", _by_group(rows, id)),
    ]


def _variant(row: EpisodeRow) -> Hashable:
    return (row.family, row.variant)


def _groups(rows: Rows, group: Group) -> dict[Hashable, list[EpisodeRow]]:
    found: dict[Hashable, list[EpisodeRow]] = {}
    for row in rows:
        found.setdefault(group(row), []).append(row)
    return found


Found = tuple[Verdict, str]


def _named(recipe: str, found: Found) -> Usable:
    return Usable(recipe, *found)


def _held_out(n: int) -> int:
    """How many of `n` groups of one kind the test side gets."""
    return min(max(1, math.floor(TEST_SHARE * n + 0.5)), n - 1)


def _both_labels(rows: Rows, what: str) -> Found:
    labels = {row.suspicious for row in rows}
    if len(labels) == 2:
        return "yes", ""
    return "no", f"{what} would hold {_label(labels)} episodes only"


def _label(labels: set[bool]) -> str:
    return "no" if not labels else "suspicious" if True in labels else "benign"


def _can_validate(n_suspicious: int, n_benign: int, mixed: bool, unit: str) -> Found:
    """Validation takes some of these groups from the training side, and both sides need both labels."""
    for name, count in (("suspicious", n_suspicious), ("benign", n_benign)):
        if count < 2 and not (name == "benign" and mixed):
            return "no", f"{count} {name} {unit} left to train and validate on, needs 2"
    return (
        ("yes", "")
        if n_benign >= 2
        else ("perhaps", f"few {unit} without suspicious rows: depends on the seed")
    )


def _validated(rows: Rows, group: Group, unit: str) -> Found:
    groups = list(_groups(rows, group).values())
    suspicious = [group for group in groups if any(row.suspicious for row in group)]
    mixed = any(not row.suspicious for group in suspicious for row in group)
    return _can_validate(len(suspicious), len(groups) - len(suspicious), mixed, unit)


def _by_group(rows: Rows, group: Group) -> Found:
    """Some groups of each label and family are held out."""
    strata: Counter[tuple[bool, str]] = Counter()
    mixed = False
    for members in _groups(rows, group).values():
        suspicious = any(row.suspicious for row in members)
        mixed = mixed or (suspicious and any(not row.suspicious for row in members))
        strata[suspicious, members[0].family] += 1
    unit = "groups"
    left, tested = Counter[bool](), Counter[bool]()
    for (suspicious, _), count in strata.items():
        tested[suspicious] += _held_out(count)
        left[suspicious] += count - _held_out(count)
    for suspicious, name in ((True, "suspicious"), (False, "benign")):
        if not tested[suspicious] and not (mixed and not suspicious):
            return "no", f"no family has two {name} groups, of which one could be held out"
    verdict, why = _can_validate(left[True], left[False], mixed, unit)
    if verdict == "yes" and not tested[False]:
        return "perhaps", "few groups without suspicious rows: depends on the seed"
    return verdict, why


def _variant_disjoint(rows: Rows) -> Found:
    verdict, why = _by_group(rows, _variant)
    return verdict, why.replace("groups", "variants")


def _host_disjoint(rows: Rows) -> Usable:
    hosts = _groups(rows, lambda row: row.host)
    if len(hosts) < 2:
        return Usable("host_disjoint", "no", f"all episodes are of host {next(iter(hosts))}")
    verdicts: list[Found] = []
    for host, tested in hosts.items():
        rest = [row for row in rows if row.host != host]
        found = _both_labels(tested, f"host {host}")
        verdicts.append(found if found[0] == "no" else _validated(rest, _variant, "variants"))
    kinds = {verdict for verdict, _ in verdicts}
    if kinds == {"yes"}:
        return Usable("host_disjoint", "yes")
    why = next(why for verdict, why in verdicts if verdict != "yes")
    return Usable("host_disjoint", "no" if kinds == {"no"} else "perhaps", why)


def _family_disjoint(rows: Rows) -> Usable:
    families = _groups(rows, lambda row: row.family)
    kinds = {name: any(row.suspicious for row in members) for name, members in families.items()}
    mixed = any(kinds[row.family] and not row.suspicious for row in rows)
    left: dict[bool, int] = {}
    for suspicious, name in ((True, "suspicious"), (False, "benign")):
        variants = sorted(
            len(_groups(families[f], _variant)) for f, kind in kinds.items() if kind is suspicious
        )
        if len(variants) < 2 and not (mixed and not suspicious):
            return Usable("family_disjoint", "no", f"{len(variants)} {name} families, needs 2")
        left[suspicious] = sum(variants[: len(variants) - _held_out(len(variants))]) if variants else 0
    if left[True] >= 2 and left[False] >= 2 and not mixed:
        return Usable("family_disjoint", "yes")
    return Usable("family_disjoint", "perhaps", "depends on which families the seed holds out")


def _time(rows: Rows) -> Found:
    starts = [row.started_at_s for row in rows if row.started_at_s is not None]
    if len(starts) < len(rows):
        return "no", "the episodes do not say when they were recorded; see time.zero"
    later = sorted(set(starts))[1:]
    if not later:
        return "no", "all episodes start in the same second"
    wanted = TEST_SHARE * len(rows)
    cut_s = min(later, key=lambda cut: (abs(sum(start >= cut for start in starts) - wanted), -cut))
    placed = list(zip(rows, starts, strict=True))
    tested = [row for row, start in placed if start >= cut_s]
    rest = [row for row, start in placed if start + row.duration_s + WINDOW_S <= cut_s]
    found = _both_labels(tested, "the last quarter")
    return found if found[0] == "no" else _validated(rest, _variant, "variants")
