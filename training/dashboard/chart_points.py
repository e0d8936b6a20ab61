"""Points before they are drawn: cleaned, thinned without a visible change, labels kept apart. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float | None]
"""x, and y or None for a gap."""

MOST = 1e100
"""A figure beyond this is not drawn: differences of two such would not be numbers any more."""


def clean(
    points: Sequence[Point], *, above_0: bool = False, upright: bool = False
) -> tuple[list[Point], int]:
    """In order of x; a y that cannot be drawn becomes a gap; and how many did. Of those with one x the last is kept,
    or with `upright` all of them, in their order."""
    found: list[Point] = []
    left_out = 0
    for x, y in points:
        if not math.isfinite(x) or abs(x) > MOST:
            left_out += 1
        elif y is None or not math.isfinite(y) or abs(y) > MOST or (above_0 and y <= 0):
            left_out += y is not None
            found.append((x, None))
        else:
            found.append((x, y))
    return sorted(found if upright else dict(found).items(), key=lambda point: point[0]), left_out


def domain(
    values: Sequence[float], low: float | None, high: float | None, *, tight: bool, log: bool
) -> tuple[float, float]:
    """The ends of an axis that shows these values, as logarithms where `log`. `tight`: without room at the ends."""
    seen = [math.log10(value) for value in values if value > 0] if log else list(values)
    least, most = min(seen, default=0.0), max(seen, default=1.0)
    room = 0.0 if tight else 0.06 * (most - least)
    from_0 = not log and not tight and least >= 0 and least < 0.4 * most
    bottom = low if low is not None else 0.0 if from_0 else least - room
    top = high if high is not None else most + room
    if top - bottom <= 1e-9 * max(abs(top), abs(bottom), 1e-9):
        wide = max(0.1 * abs(bottom), 0.5 if log or tight or not bottom else 0.0)
        bottom, top = (bottom if low is not None else bottom - wide), top + wide
    return bottom, top


def between(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The runs between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def union(all_points: Sequence[Sequence[Point]]) -> list[float]:
    """Every x at which some line has a y, in order."""
    return sorted({x for points in all_points for x, y in points if y is not None})


def simplified(pixels: Sequence[tuple[float, float]], within: float = 0.3) -> list[tuple[float, float]]:
    """The same line with fewer corners: none of those left out lies farther than `within` units from it. x never falls.

    One pass. Corners are left out as long as one direction from the last corner kept passes all of them: `low` to
    `high` are those directions (Williams 1978).
    """
    kept = [pixels[0]]
    low, high, farthest = -math.inf, math.inf, 0.0
    before = pixels[0]
    for x, y in pixels:
        angle, away = _polar(kept[-1], (x, y))
        if not low <= angle <= high or away < farthest:
            kept.append(before)
            low, high = -math.inf, math.inf
            angle, away = _polar(before, (x, y))
        half = math.asin(within / away) if away > within else math.inf
        low, high, farthest = max(low, angle - half), min(high, angle + half), away
        before = (x, y)
    return kept if len(pixels) == 1 else [*kept, before]


def _polar(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Direction, in radians from straight down to straight up, and distance."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return math.atan2(dy, dx), math.hypot(dx, dy)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least `gap` apart and inside low to high where that fits."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    placed = [0.0] * len(wanted)
    at = -math.inf
    for n in order:
        at = placed[n] = max(min(max(wanted[n], low), high), at + gap)
    limit = high
    for n in reversed(order):
        placed[n] = min(placed[n], limit)
        limit = placed[n] - gap
    return placed
