"""Which rows are suspicious."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collection.importing import times
from collection.importing.description import Description
from collection.importing.errors import BadRows, MissingInput, RowFaults, shown
from collection.importing.reader import Block
from collection.importing.toml_table import did_you_mean

HEADER: Final = ("file", "start", "end", "label")


@dataclass(frozen=True, slots=True)
class Spans:
    """Labelled spans of one file: [start, end) in microseconds of its clock, ascending, not overlapping."""

    start_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    suspicious: NDArray[np.bool_]


class Labels:
    """Says for every row whether it is suspicious."""

    def __init__(self, description: Description, spans: Mapping[str, Spans], faults: RowFaults) -> None:
        self._rules, self._spans, self._faults = description.label, spans, faults
        self._column = description.label.column or ""

    def of(self, block: Block, file: str, from_name: str | None) -> NDArray[np.bool_]:
        """bool (n,) for the rows of a block; `from_name` is the label that the file's name holds, if any."""
        if self._rules.column is not None:
            return self._of_words(block, file)
        if self._rules.table is not None:
            return self._of_spans(block, file)
        return np.full(len(block), self._rules.is_suspicious(from_name or "") is True)

    def _of_words(self, block: Block, file: str) -> NDArray[np.bool_]:
        words = block.text["label"]
        suspicious = np.zeros(len(words), dtype=bool)
        known = np.zeros(len(words), dtype=bool)
        rules = self._rules
        for word in rules.suspicious or ():
            suspicious |= words == word
        for word in (*(rules.suspicious or ()), *(rules.benign or ())):
            known |= words == word
        if rules.suspicious is None:
            return ~known
        if rules.benign is not None:
            for row in np.flatnonzero(~known).tolist():
                self._faults.add(
                    file, int(block.line[row]), self._column, shown(str(words[row])), rules.expected
                )
        return suspicious

    def _of_spans(self, block: Block, file: str) -> NDArray[np.bool_]:
        suspicious = np.full(len(block), self._rules.uncovered == "suspicious")
        covered = np.zeros(len(block), dtype=bool)
        spans = self._spans.get(file)
        if spans is not None:
            at = np.searchsorted(spans.start_us, block.t_us, side="right") - 1
            covered = (at >= 0) & (block.t_us < spans.end_us[np.maximum(at, 0)])
            suspicious[covered] = spans.suspicious[at[covered]]
        if self._rules.uncovered == "refuse" and not covered.all():
            row = int(np.argmin(covered))
            self._faults.add(
                file,
                int(block.line[row]),
                "",
                "a row that no span of the label table covers",
                "a label for every row",
                "add spans, or set label.uncovered = 'benign'",
                times=int((~covered).sum()),
            )
        return suspicious


def read_spans(
    folder: Path, description: Description, files: list[str], faults: RowFaults
) -> dict[str, Spans]:
    """The label table, by file. Its columns are `file,start,end,label`; start and end are written as in the time
    column, or in seconds since the first row where there is none. Faults go to the list."""
    name = description.label.table
    if name is None:
        return {}
    try:
        with (folder / name).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise MissingInput(f"{folder / name}: cannot be read: {error.strerror}; see label.table") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRows(f"{name}: is no CSV table in UTF-8: {error}") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if sorted(header) != sorted(HEADER):
        faults.add(name, 1, "", f"the columns {', '.join(header) or 'none'}", ", ".join(HEADER))
        return {}
    found: dict[str, list[tuple[int, int, bool, int]]] = {}
    for line, cells in enumerate(rows[1:], 2):
        if len(cells) != len(HEADER):
            if any(cells):
                faults.add(name, line, "", f"{len(cells)} cells", f"{len(HEADER)}")
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        span = _span(row, name, line, description, files, faults)
        if span is not None:
            found.setdefault(row["file"], []).append((*span, line))
    return {file: _sorted(spans, name, faults) for file, spans in found.items()}


def _span(
    row: Mapping[str, str],
    name: str,
    line: int,
    description: Description,
    files: list[str],
    faults: RowFaults,
) -> tuple[int, int, bool] | None:
    unit = description.time.unit
    start, end = times.from_text(row["start"], unit), times.from_text(row["end"], unit)
    suspicious = description.label.is_suspicious(row["label"])
    sound = True
    for column, value in (("start", start), ("end", end)):
        if value is None:
            faults.add(name, line, column, shown(row[column]), times.EXPECTED[unit])
            sound = False
    if suspicious is None:
        faults.add(name, line, "label", shown(row["label"]), description.label.expected)
    if row["file"] not in files:
        hint = did_you_mean(row["file"], files)
        faults.add(
            name, line, "file", shown(row["file"]), "a file of the folder that files.include covers", hint
        )
        sound = False
    if start is None or end is None or suspicious is None or not sound:
        return None
    if end <= start:
        faults.add(name, line, "end", shown(row["end"]), f"a time after the start, {row['start']}")
        return None
    return start, end, suspicious


def _sorted(spans: list[tuple[int, int, bool, int]], name: str, faults: RowFaults) -> Spans:
    spans = sorted(spans)
    for before, after in pairwise(spans):
        if after[0] < before[1]:
            found = f"a span that overlaps the one of line {before[3]}"
            faults.add(name, after[3], "start", found, "spans that do not overlap")
    return Spans(
        np.array([span[0] for span in spans], dtype=np.int64),
        np.array([span[1] for span in spans], dtype=np.int64),
        np.array([span[2] for span in spans], dtype=bool),
    )
