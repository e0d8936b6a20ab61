"""Plain tables for people, tab-separated values for programs. Pure; every cell leaves here harmless.

Text that came over the network may hold anything a worker wrote, escape sequences included, so `safe`
is applied to every cell and line before it can reach a terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from cis490.progress import size

__all__ = [
    "STYLES", "Marked", "Row", "clip", "count_of", "duration", "figure", "gist", "number_of", "row_of", "rows_of",
    "safe", "safe_lines", "size", "table", "text_of", "tsv", "words_of",
]  # fmt: skip

Row = Mapping[str, object]
"""One JSON object as it came from the receiver."""

GAP = "  "
MIN_LAST_COLUMN = 24
"""A last column is never cut below this; a terminal that is narrower still gets long lines."""


def safe(text: str) -> str:
    """`text` with everything that is not printable (control, ANSI, bidi, lone surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def safe_lines(text: str) -> list[str]:
    """`text` split at its line ends, each line made safe; trailing empty lines dropped."""
    return [safe(line) for line in text.rstrip().split("\n")]


def gist(error: str) -> str:
    """The line of an error text that names the error: the last one of a Python traceback, else the first."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return ""
    return safe(lines[-1] if lines[0].startswith("Traceback (") else lines[0])


def clip(text: str, width: int) -> str:
    """`text`, cut to `width` columns with an ellipsis in ASCII."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def duration(seconds: float) -> str:
    """`seconds` in the two largest units that matter: `3 s`, `12 min`, `1 h 05 min`, `9 d 4 h`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def figure(value: object) -> str:
    """A JSON value for reading: numbers to four digits, lists with commas, the rest as it is."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        return f"{value:.3f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(figure(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{safe(str(key))} {figure(item)}" for key, item in value.items()) or "-"
    return safe(str(value))


STYLES = {"bad": "1;31", "warn": "33", "good": "32", "busy": "36", "quiet": "2", "strong": "1"}
"""Meaning -> the parameters of the terminal's escape sequence."""


class Marked(str):
    """Safe text with a meaning that a terminal shows as a colour; it measures and compares as the plain text."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Marked:
        found = super().__new__(cls, safe(text))
        found.style = style
        return found

    def painted(self) -> str:
        """With the escape sequences around it."""
        return f"\x1b[{STYLES[self.style]}m{self[:]}\x1b[0m" if self else ""


def _padded(cell: str, width: int) -> str:
    space = " " * max(width - len(cell), 0)
    return (cell.painted() if isinstance(cell, Marked) else cell) + space


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, wrap: bool = False, indent: str = ""
) -> list[str]:
    """Left-aligned columns, two spaces apart; the last one is cut to `width`, or wrapped with `wrap`.

    A cell that is `Marked` keeps its colour, but for the last one of a row.
    """
    lines = [
        list(header),
        *([cell if isinstance(cell, Marked) else safe(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header) - 1)]
    taken = len(indent) + sum(widths) + len(GAP) * len(widths)
    room = max(width - taken, MIN_LAST_COLUMN)
    out = []
    for line in lines:
        last = (
            (textwrap.wrap(line[-1], room, break_on_hyphens=False) or [""])
            if wrap
            else [clip(line[-1], room)]
        )
        cells = [_padded(cell, width) for cell, width in zip(line[:-1], widths, strict=True)]
        out.append(indent + GAP.join([*cells, last[0]]).rstrip())
        out += [" " * taken + more for more in last[1:]]
    return out


def tsv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A header line and one line a row, nothing cut; a tab or line end inside a cell is escaped."""
    return ["\t".join(header), *("\t".join(safe(cell) for cell in row) for row in rows)]


def text_of(row: Row, key: str) -> str:
    """The field as safe text; "" when absent or null."""
    value = row.get(key)
    return "" if value is None else safe(str(value))


def number_of(row: Row, key: str) -> float | None:
    """The field when it is a number; None otherwise."""
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def count_of(row: Row, key: str) -> int:
    """The field when it is a number, cut to an integer; 0 otherwise."""
    return int(number_of(row, key) or 0)


def row_of(row: Row, key: str) -> Row:
    """The field when it is an object; an empty one otherwise."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def rows_of(row: Row, key: str) -> list[Row]:
    """The objects in a list field; none when it is absent."""
    value = row.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def words_of(row: Row, key: str) -> list[str]:
    """The items of a list field as safe text; none when it is absent."""
    value = row.get(key)
    return [safe(str(item)) for item in value] if isinstance(value, list) else []
