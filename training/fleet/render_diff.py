"""The screen of `diff A B`. Pure."""

from __future__ import annotations

import textwrap

from training.fleet.artifact_diff import Difference, File, Measure
from training.fleet.render import View
from training.fleet.tables import figure, size, table, tsv

_SHORT = ("data", "code")
"""Digests: twelve digits of them tell enough."""


def diff(view: View, found: Difference) -> list[str]:
    """What differs, in tables; what is the same, counted."""
    if view.width is None:
        return _tsv(found)
    names = [f"{side.name} ({side.artifact_id[:12]})" for side in (found.one, found.other)]
    out = [f"{names[0]}  against  {names[1]}", ""]
    if found.one.artifact_id == found.other.artifact_id:
        return [*out[:1], "the same artifact: every byte is equal"]
    differing = [fact for fact in found.facts if not fact.same]
    if differing:
        rows = [[fact.key, _value(fact.key, fact.one), _value(fact.key, fact.other)] for fact in differing]
        out += [*table(["DIFFERS", "ONE", "OTHER"], rows, view.columns, wrap=True), ""]
    same = [fact.key for fact in found.facts if fact.same and fact.one is not None]
    if same:
        out += [*textwrap.wrap(f"the same: {', '.join(same)}", view.columns, subsequent_indent="  "), ""]
    if found.measures:
        header = ["METRIC", "ONE", "OTHER", "CHANGE", "95 % CI"]
        out += [*table(header, [_measure(view, one) for one in found.measures], view.columns), ""]
    return [*out, *_files(view, found.files)]


def _value(key: str, value: object) -> str:
    text = figure(value)
    return text[:12] if key in _SHORT else text


def _measure(view: View, one: Measure) -> list[str]:
    change = "-" if one.difference is None else f"{one.difference:+.4f}"
    relation = one.intervals or "-"
    return [
        one.key, _short(one.one, one.one_ci95), _short(one.other, one.other_ci95), change,
        view.mark(relation, "strong" if relation == "apart" else ""),
    ]  # fmt: skip


def _short(value: float | None, ends: list[float] | None) -> str:
    """`0.961 (.944-.975)`: 80 columns hold two of them and the longest name of a measure."""
    if value is None or ends is None or not all(abs(one) <= 1 for one in (value, *ends)):
        return _with_ends(value, ends)
    low, high = (
        f"{end:.3f}".replace("0.", ".", 1).replace("1.000", "1").replace(".000", "0") for end in ends
    )
    return f"{value:.3f} ({low}-{high})"


def _with_ends(value: float | None, ends: list[float] | None) -> str:
    text = figure(value)
    return text if ends is None else f"{text} ({figure(ends[0])}-{figure(ends[1])})"


def _whole(value: float | None, ends: list[float] | None) -> str:
    """The same with every digit: for programs."""
    text = "-" if value is None else f"{value:.12g}"
    return text if ends is None else f"{text} ({ends[0]:.12g}-{ends[1]:.12g})"


def _files(view: View, files: tuple[File, ...] | list[File] | object) -> list[str]:
    found = [file for file in files if isinstance(file, File)] if isinstance(files, (list, tuple)) else []
    rows = [
        [file.name, _size(file.one_bytes), _size(file.other_bytes)] for file in found if file.same is False
    ]
    unsure = sum(file.same is None for file in found)
    equal = sum(file.same is True for file in found)
    out = table(["FILE DIFFERS", "ONE", "OTHER"], rows, view.columns) if rows else []
    rest = [f"{equal} of the same text"] if equal else []
    if unsure:
        rest.append(f"{unsure} of the same size, not compared byte by byte (cis490-jobs pull fetches them)")
    return (
        [*out, *textwrap.wrap(f"files: {', '.join(rest)}", view.columns, subsequent_indent="  ")]
        if rest
        else out
    )


def _size(size_bytes: int | None) -> str:
    return "not there" if size_bytes is None else size(size_bytes)


def _tsv(found: Difference) -> list[str]:
    rows = [["artifact", side.name, side.artifact_id, "", ""] for side in (found.one, found.other)]
    rows += [["fact", one.key, figure(one.one), figure(one.other), figure(one.same)] for one in found.facts]
    for measure in found.measures:
        ends = [_whole(measure.one, measure.one_ci95), _whole(measure.other, measure.other_ci95)]
        rows.append(["metric", measure.key, *ends, measure.intervals or ""])
    for file in found.files:
        sizes = ["" if count is None else str(count) for count in (file.one_bytes, file.other_bytes)]
        rows.append(["file", file.name, *sizes, "" if file.same is None else figure(file.same)])
    return tsv(["KIND", "NAME", "ONE", "OTHER", "SAME"], rows)
