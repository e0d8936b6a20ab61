"""The matrix of who may ask what (`tests/access/matrix.py`), as the tables of docs/security.md."""

from __future__ import annotations

from collections.abc import Iterable

from tests.access.matrix import CONTRACT, ROWS, WHO, Row


def tables() -> str:
    """The endpoints of the contract one by one, then all others, those with the same answers together."""
    ours = [row for row in ROWS if row.endpoint in CONTRACT]
    others: dict[tuple[str, ...], list[Row]] = {}
    for row in ROWS:
        if row.endpoint not in CONTRACT:
            others.setdefault(_cells(row), []).append(row)
    first = _table((_name(row), *_cells(row)) for row in ours)
    second = _table((_together(rows), *cells) for cells, rows in others.items())
    cells = len(ROWS) * len(WHO)
    return (
        f"{len(ROWS)} questions, {len(WHO)} askers: {cells} cells, each tried through both versions of Caddy.\n\n"
        f"The endpoints of the contract:\n\n{first}\nAll others, and the pages:\n\n{second}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    return tuple(row.cells[who] for who in WHO)


def _name(row: Row) -> str:
    return f"`{row.endpoint}`" + (f", {row.about}" if row.about else "")


def _together(rows: Iterable[Row]) -> str:
    """Each endpoint once, with everything that it was asked about."""
    asked: dict[str, list[str]] = {}
    for row in rows:
        asked.setdefault(row.endpoint, []).append(row.about)
    shown = (
        f"`{endpoint}`" + (f" ({'; '.join(filter(None, about))})" if any(about) else "")
        for endpoint, about in asked.items()
    )
    return ", ".join(shown)


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = [("asked for", *WHO), *rows]
    text = ["| " + " | ".join(line) + " |\n" for line in lines]
    text.insert(1, "|" + "---|" * (len(WHO) + 1) + "\n")
    return "".join(text)
