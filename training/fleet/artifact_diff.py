"""What two artifacts have in common and where they differ, from what the receiver tells about each. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from training.fleet.tables import Row, number_of, row_of, text_of

CI = "_ci95"
_JOB_KEYS = ("model", "mode", "seed", "split_recipe", "train_hosts")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its artifact, where it comes from, and what lies in it."""

    artifact_id: str
    name: str
    lineage: Row = field(default_factory=dict)
    config: Row = field(default_factory=dict)
    metrics: Row = field(default_factory=dict)
    """The figures of the test side, intervals as `NAME_ci95`."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Name -> size in bytes."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The small texts that were read."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of both. `same` tells whether it is."""

    key: str
    one: Any
    other: Any

    @property
    def same(self) -> bool:
        return bool(self.one == self.other)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of both, each with its interval; `difference` is the other one minus the first."""

    key: str
    one: float | None
    one_ci95: list[float] | None
    other: float | None
    other_ci95: list[float] | None
    difference: float | None
    intervals: str | None
    """`apart` or `overlap`; None where one of them is not known."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of either. `same`: None where only sizes are known and these are equal."""

    name: str
    one_bytes: int | None
    other_bytes: int | None
    same: bool | None


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it."""

    one: Side
    other: Side
    facts: Sequence[Fact]
    measures: Sequence[Measure]
    files: Sequence[File]

    def as_json(self) -> dict[str, Any]:
        return {
            "one": {"artifact_id": self.one.artifact_id, "name": self.one.name},
            "other": {"artifact_id": self.other.artifact_id, "name": self.other.name},
            "facts": [{**asdict(fact), "same": fact.same} for fact in self.facts],
            "measures": [asdict(measure) for measure in self.measures],
            "files": [asdict(file) for file in self.files],
        }


def difference(one: Side, other: Side) -> Difference:
    """Compare two artifacts: what was asked for, what it was made from, what came out."""
    return Difference(
        one, other, _facts(one, other), _measures(one.metrics, other.metrics), _files(one, other)
    )


def _facts(one: Side, other: Side) -> list[Fact]:
    known = [_known(one), _known(other)]
    keys = list(dict.fromkeys([*known[0], *known[1]]))
    return [Fact(key, known[0].get(key), known[1].get(key)) for key in keys]


def _known(side: Side) -> dict[str, Any]:
    job, data, code = (row_of(side.lineage, key) for key in ("job", "data", "code"))
    out: dict[str, Any] = {key: job.get(key, side.config.get(key)) for key in _JOB_KEYS}
    hyper = row_of(side.config, "hyper") or row_of(job, "hyper")  # the artifact has the defaults filled in
    out |= {f"hyper.{key}": hyper[key] for key in sorted(hyper)}
    out["data"] = text_of(data, "dataset_id") or text_of(side.config, "dataset_id") or None
    out["code"] = text_of(code, "trainer_digest") or text_of(side.config, "trainer_digest") or None
    out["host"] = text_of(row_of(side.lineage, "host"), "host") or None
    out["took_s"] = number_of(row_of(side.lineage, "attempt"), "duration_s")
    return out


def _measures(one: Row, other: Row) -> list[Measure]:
    keys = [key for key in dict.fromkeys([*one, *other]) if not key.endswith(CI)]
    out = []
    for key in keys:
        values = number_of(one, key), number_of(other, key)
        if values == (None, None):
            continue
        ends = _interval(one, key), _interval(other, key)
        step = None if values[0] is None or values[1] is None else values[1] - values[0]
        out.append(Measure(key, values[0], ends[0], values[1], ends[1], step, _relation(*ends)))
    return out


def _interval(metrics: Row, key: str) -> list[float] | None:
    found = metrics.get(f"{key}{CI}")
    if isinstance(found, list) and len(found) == 2 and all(isinstance(end, (int, float)) for end in found):
        return [float(end) for end in found]
    return None


def _relation(one: list[float] | None, other: list[float] | None) -> str | None:
    if one is None or other is None:
        return None
    return "apart" if one[1] < other[0] or other[1] < one[0] else "overlap"


def _files(one: Side, other: Side) -> list[File]:
    out = []
    for name in sorted({*one.files, *other.files}):
        sizes = one.files.get(name), other.files.get(name)
        same: bool | None = sizes[0] == sizes[1]
        if same:
            texts = one.texts.get(name), other.texts.get(name)
            same = None if None in texts else texts[0] == texts[1]
        if one.artifact_id == other.artifact_id:
            same = True
        out.append(File(name, sizes[0], sizes[1], same))
    return out


def parsed(text: str) -> Row:
    """A JSON object, or nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
