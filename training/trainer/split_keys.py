"""What a split works with: episode keys, the groups they form, and the split itself. Pure."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.trainer.options import LEAKY_RECIPES

DEFAULT_WINDOW_S = 4.0
MOST_NAMED = 5
"""So many items a message lists before it counts the rest."""

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class EpisodeKey:
    """What a split may know of an episode. `suspicious`: some interval of it carries that label;
    `started_at_s`: Unix seconds of its start where the recording says so; `duration_s`: time of its last
    sample."""

    episode_id: str
    host: str
    family: str
    variant: str
    suspicious: bool
    started_at_s: int | None = None
    duration_s: float = 0.0


Group = Callable[[EpisodeKey], Hashable]


def variant_of(key: EpisodeKey) -> tuple[str, str]:
    """The group `variant`: a family's workload with one set of parameters."""
    return (key.family, key.variant)


def episode_of(key: EpisodeKey) -> str:
    """The group of an episode alone."""
    return key.episode_id


def family_of(key: EpisodeKey) -> str:
    """The group `family`."""
    return key.family


def host_of(key: EpisodeKey) -> str:
    """The group `host`."""
    return key.host


class Placed(Protocol):
    """Windows as far as a split looks at them: `episode` intp (n,) index into the keys, `start_s` float64 (n,),
    `suspicious` bool (n,)."""

    @property
    def episode(self) -> Rows: ...

    @property
    def start_s(self) -> NDArray[np.float64]: ...

    @property
    def suspicious(self) -> NDArray[np.bool_]: ...


@dataclass(frozen=True)
class Split:
    """Indices into the sequence of keys, ascending. The sides are disjoint, but for a recipe of single windows,
    whose test side names every episode that may give windows to it.

    Episodes of hosts that the recipe was told to leave out lie on no side, and neither do those of `embargoed`:
    too close to the test side in time. `held_out` says in words what the test side is; `window_s` is the
    distance that `time` promises; `seed` draws the windows of `random_window`.
    """

    recipe: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    held_out: str
    group: Group = field(default=variant_of, compare=False)
    embargoed: tuple[int, ...] = ()
    window_s: float = DEFAULT_WINDOW_S
    seed: int = 0

    @property
    def is_leaky(self) -> bool:
        """Whether its numbers are for comparison only."""
        return self.recipe in LEAKY_RECIPES

    def sides(self) -> Mapping[str, tuple[int, ...]]:
        """The three sides by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def named(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def rank(purpose: str, name: Hashable) -> str:
    """sha256 of purpose and name in hex: sorting by it is a draw that depends on nothing else."""
    return hashlib.sha256(f"{purpose}/{name!r}".encode()).hexdigest()
