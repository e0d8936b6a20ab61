"""The last 24 hours of a host as a narrow strip, and the same in words. Pure.

The history is a text of one letter a step, oldest first (`GET /v1/hosts/history`). Each state is drawn as one path of
strokes, so that a host that flaps all day costs no more than a calm one, and each has its own height: colour is never
the only sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

STATES = {"r": "running", "i": "idle", "l": "lost", "d": "drained", "p": "paused", ".": "unknown"}
HEIGHT = 16
LEVELS = {"r": (16, 8), "i": (4, 14), "l": (16, 8), "d": (8, 12), "p": (8, 12)}
"""Letter -> height of its stroke and the middle of it, in the strip's 16 units; unknown is left empty."""


@dataclass(frozen=True, slots=True)
class Span:
    """One state, uninterrupted."""

    state: str
    from_at: float
    to_at: float

    @property
    def took_s(self) -> float:
        return self.to_at - self.from_at


@dataclass(frozen=True, slots=True)
class Strip:
    """What the template draws: a path for each state that occurs, and the sum of each in words."""

    width: int
    paths: tuple[tuple[str, int, str], ...]
    """State, height of the stroke, path."""
    hours: dict[str, float]
    """State -> seconds in it."""
    label: str


def runs(letters: str) -> Iterator[tuple[str, int, int]]:
    """Letter, first step, number of steps."""
    at = 0
    for letter, group in groupby(letters):
        count = len(list(group))
        yield letter, at, count
        at += count


def spans(letters: str, step_s: float, from_at: float) -> list[Span]:
    """The same with times, oldest first."""
    return [
        Span(STATES.get(letter, "unknown"), from_at + at * step_s, from_at + (at + count) * step_s)
        for letter, at, count in runs(letters)
    ]


def strip(letters: str, step_s: float, told: Any) -> Strip:
    """The drawing of a history. `told` turns seconds into words."""
    paths: dict[str, str] = {}
    seconds = dict.fromkeys(STATES.values(), 0.0)
    for letter, at, count in runs(letters):
        known = letter if letter in STATES else "."
        seconds[STATES[known]] += count * step_s
        if known in LEVELS:
            paths[known] = paths.get(known, "") + f"M{at} {LEVELS[known][1]}h{count}"
    parts = [f"{state} {told(took_s)}" for state, took_s in seconds.items() if took_s]
    return Strip(
        len(letters),
        tuple((STATES[letter], LEVELS[letter][0], path) for letter, path in paths.items()),
        seconds,
        ", ".join(parts) or "nothing known",
    )
