"""Which episodes to record on a host, decided before anything runs. Pure: a seed and a host name give one plan.

The plan keeps everything but the behaviour equal between the labels: as many episodes of each, the same background
tasks equally often, the same distribution of baselines and onsets, and both labels in every pair of neighbours, so
that a slow drift of the machine cannot stand for the label.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final, TypeVar

from collection.profiles import BENIGN, PROFILES, STAND_INS, Profile

T = TypeVar("T")

EPISODE_S: Final = 15
HZ: Final = 10
BACKGROUNDS: Final = ("none", "interactive", "web", "database", "backup")
BASELINE_MS: Final = (3000, 4000)
ONSET_MS: Final = (300, 1200)


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode. `variant` is a number made from profile and parameters: equal parameters, equal variant."""

    host: str
    index: int
    profile: str
    variant: int
    parameters: Mapping[str, int]
    background: str
    background_parameters: Mapping[str, int]
    baseline_ms: int
    onset_ms: int
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.index:03d}-{self.profile}.episode"


def plan(recording_seed: int, host: str, n_episodes: int) -> list[EpisodePlan]:
    """`n_episodes` (even) episodes for `host`, half of them benign, in the order in which to record them."""
    if n_episodes < 2 or n_episodes % 2:
        raise ValueError(f"{n_episodes} episodes for host {host}: expected an even number from 2 on")
    # A text seeds through SHA-512, the same on every machine and Python version.
    rng = random.Random(f"cis490-recording-{recording_seed}-{host}")
    half = n_episodes // 2
    benign, suspicious = _spread(BENIGN, half, rng), _spread(STAND_INS, half, rng)
    shared = _spread(BACKGROUNDS, half, rng)
    backgrounds = {label: rng.sample(shared, half) for label in ("benign", "suspicious")}
    plans: list[EpisodePlan] = []
    for pair in zip(benign, suspicious, strict=True):
        for profile in rng.sample(pair, 2):
            background = backgrounds[profile.label].pop()
            plans.append(_episode(host, len(plans), profile, background, rng))
    return plans


def _spread(items: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """`count` items in random order, each as often as any other give or take one."""
    shuffled = rng.sample(items, len(items))
    return rng.sample(list(islice(cycle(shuffled), count)), count)


def _episode(host: str, index: int, profile: Profile, background: str, rng: random.Random) -> EpisodePlan:
    parameters = profile.draw(rng)
    return EpisodePlan(
        host=host,
        index=index,
        profile=profile.name,
        variant=variant_number(profile.name, parameters),
        parameters=parameters,
        background=background,
        background_parameters=PROFILES[background].draw(rng) if background != "none" else {},
        baseline_ms=rng.randint(*BASELINE_MS),
        onset_ms=rng.randint(*ONSET_MS),
        seed=rng.getrandbits(48),
    )


def variant_number(profile: str, parameters: Mapping[str, int]) -> int:
    """A number below 2**40 that stands for these parameters of this profile."""
    text = json.dumps([profile, dict(parameters)], sort_keys=True, separators=(",", ":"))
    return int(hashlib.sha256(text.encode("ascii")).hexdigest()[:10], 16)
