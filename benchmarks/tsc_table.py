"""The page of `benchmarks.tsc` as text, from its rows alone: a table per data set, and what was to be shown.

A row is one training: program, set, seed, `cache` ("" for our models; for aeon's "cold" with numba's cache empty,
"warm" with it filled by an earlier process), accuracy, cpu_s, import_cpu_s, peak_mib, model_bytes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tsc_data import PEERS, SETS
from benchmarks.tsc_recipes import OURS, RECIPES

Row = Mapping[str, Any]

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks-tsc.json"

PUBLISHED: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "mlp": ("MLP [1]", {"JapaneseVowels": 97.6, "ItalyPowerDemand": 95.4, "GunPoint": 92.7}),
    "cnn": ("FCN [1]", {"JapaneseVowels": 99.3, "ItalyPowerDemand": 96.1, "GunPoint": 100.0}),
    "rocket": ("MiniRocket [2]", {"BasicMotions": 100.0, "JapaneseVowels": 98.9}),
    "transformer": ("TST [2]", {"BasicMotions": 97.5, "JapaneseVowels": 99.4}),
}
"""Accuracy in percent on the default split, where a published figure is known."""
SOURCES = (
    "[1] Ismail Fawaz et al., Deep learning for time series classification: a review, 2019, its result tables.",
    "[2] The table of UEA results in Sun et al., TEST, ICLR 2024.",
)
WITHIN_POINTS = 2.0
PEER, PEER_WITHIN_POINTS, PEER_SPEED = "aeon-MiniRocket", 1.0, 10.0


def published(measured: Path = MEASURED) -> str:
    """The generated part of docs/benchmarks-tsc.md; says so when nothing was measured."""
    if not measured.is_file():
        return "Not measured for this version yet; `make bench-tsc` does it.\n"
    found = json.loads(measured.read_text(encoding="utf-8"))
    return page(found["rows"], found["chance"], found["versions"])


def page(rows: Sequence[Row], chance: Mapping[str, float], versions: Mapping[str, Mapping[str, str]]) -> str:
    """Everything that is generated. `chance`: per set the accuracy of always naming the test part's largest class."""
    seeds = len({row["seed"] for row in rows})
    parts = [
        f"Versions: {_versions(versions)}. Accuracy in percent over {seeds} seeds (mean, standard deviation).\n"
    ]
    for name in SETS:
        of_set = [row for row in rows if row["set"] == name]
        if of_set:
            parts.append(
                f"### {name}\n\nThe largest class alone: {100 * chance[name]:.1f} %.\n\n{_table(name, of_set)}"
            )
    parts.append("### What was to be shown\n\n" + "".join(f"- {line}\n" for line in verdicts(rows, chance)))
    parts.append("### Recipes\n\n" + "".join(f"- `{model}`: {_recipe(model)}\n" for model in OURS))
    parts.append("".join(f"{source}\n\n" for source in SOURCES))
    return "\n".join(parts).rstrip("\n") + "\n"


def verdicts(rows: Sequence[Row], chance: Mapping[str, float]) -> list[str]:
    """Each expectation with the figures and `yes` or `no`; one whose rows are missing says so."""
    mean = _means(rows, "accuracy")
    lines = []
    for model, (column, values) in PUBLISHED.items():
        short = [
            f"{name} {100 * mean[model, name]:.1f} against {value:.1f}"
            for name, value in values.items()
            if (model, name) in mean and value - 100 * mean[model, name] > WITHIN_POINTS
        ]
        missing = [name for name in values if (model, name) not in mean]
        lines.append(f"`{model}` within {WITHIN_POINTS:g} points of {column}: {_verdict(short, missing)}")
    at_chance = [
        f"{model} on {name} {100 * mean[model, name]:.1f}"
        for model in OURS
        for name in SETS
        if (model, name) in mean and min(_values(rows, model, name, "accuracy")) <= chance[name]
    ]
    lines.append(
        "every model above the share of the largest class, with every seed: "
        + _verdict(at_chance, [f"{m} {s}" for m in OURS for s in SETS if (m, s) not in mean])
    )
    cpu = _means(rows, "cpu_s", cache=("", "cold"))
    apart, slow, both = [], [], [name for name in SETS if ("rocket", name) in cpu and (PEER, name) in cpu]
    for name in both:
        difference = 100 * (mean[PEER, name] - mean["rocket", name])
        if difference > PEER_WITHIN_POINTS:
            apart.append(f"{name} {difference:.1f} points below")
        if cpu[PEER, name] < PEER_SPEED * cpu["rocket", name]:
            slow.append(name)
    absent = [name for name in SETS if name not in both]
    ratios = ", ".join(f"{name} {cpu[PEER, name] / cpu['rocket', name]:.0f} times" for name in both)
    lines.append(
        f"`rocket` not more than {PEER_WITHIN_POINTS:g} point below {PEER} of the same run: {_verdict(apart, absent)}"
    )
    lines.append(
        f"`rocket` cold at least {PEER_SPEED:g} times faster than {PEER} cold: {_verdict(slow, absent)} ({ratios})"
    )
    return lines


def _verdict(short: Sequence[str], missing: Sequence[str]) -> str:
    if missing:
        return f"not measured whole, {len(missing)} missing: {', '.join(missing[:3])}" + (
            " ..." if missing[3:] else ""
        )
    return "no: " + "; ".join(short) if short else "yes"


def _table(name: str, rows: Sequence[Row]) -> str:
    header = (
        "program", "accuracy", "published", "CPU s, cold", "of it start", "CPU s, warm", "peak MiB", "model kB",
    )  # fmt: skip
    lines = []
    for program in (*OURS, *PEERS):
        mine = [row for row in rows if row["program"] == program]
        if not mine:
            continue
        first = [row for row in mine if row["cache"] != "warm"]
        warm = [row["cpu_s"] for row in mine if row["cache"] == "warm"]
        column, values = PUBLISHED.get(program, ("", {}))
        lines.append((
            f"`{program}`",
            _accuracy([row["accuracy"] for row in mine]),
            f"{values[name]:.1f} {column}" if name in values else "",
            _mean([row["cpu_s"] for row in first]),
            _mean([row["import_cpu_s"] for row in first]),
            _mean(warm),
            f"{max(row['peak_mib'] for row in mine):.0f}",
            f"{statistics.fmean(row['model_bytes'] for row in mine) / 1000:.0f}",
        ))  # fmt: skip
    return aligned(header, lines)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that can be read as it stands."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in lines
    )


def _accuracy(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):.1f} ± {100 * spread:.1f}"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" if values else "-"


def _values(rows: Sequence[Row], program: str, name: str, key: str) -> list[float]:
    return [row[key] for row in rows if row["program"] == program and row["set"] == name]


def _means(
    rows: Sequence[Row], key: str, cache: Sequence[str] = ("", "cold", "warm")
) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["cache"] in cache:
            found.setdefault((row["program"], row["set"]), []).append(row[key])
    return {pair: statistics.fmean(values) for pair, values in found.items()}


def _recipe(model: str) -> str:
    recipe = RECIPES[model]
    changed = ", ".join(f"`{name}` {value}" for name, value in recipe.hyper.items())
    if recipe.steps is not None:
        changed += f"{', ' if changed else ''}`epochs` for {recipe.steps} update steps"
    return recipe.why + (f" ({changed})" if changed else "")


def _versions(versions: Mapping[str, Mapping[str, str]]) -> str:
    return "; ".join(
        f"{which}: " + ", ".join(f"{name} {value}" for name, value in found.items())
        for which, found in versions.items()
    )
