"""Events: the audit log, latest first, filtered and turned page by page; also as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import pages, words
from training.dashboard.api import Refusal
from training.dashboard.pages import Action, Ask, Page

PER_PAGE = 100
CSV_ROWS, PER_ANSWER = 10_000, 1000
FILTERS = ("job", "host", "event")
COLUMNS = ("seq", "at", "actor", "event", "name", "job_id", "host", "from", "to", "epoch", "detail")


async def events(ask: Ask) -> dict[str, Any]:
    query: dict[str, str | int] = _asked(ask)
    for key in ("before", "after"):
        if (text := ask.query.get(key, "")).isascii() and text.isdecimal() and len(text) < 16:
            query[key] = int(text)
    found = await ask.get("/v1/audit", limit=PER_PAGE, **query)
    return {**found, "asked": query}


def _asked(ask: Ask) -> dict[str, str | int]:
    return {key: ask.query[key].strip() for key in FILTERS if ask.query.get(key, "").strip()}


async def as_csv(request: Request) -> Response:
    """The latest rows as CSV, oldest first, with the same filters."""
    ask = pages.ask_of(request)
    try:
        rows = await _latest(ask)
    except Refusal as refusal:
        return await pages.refused(request, refusal)
    headers = {**pages.HEADERS, "Content-Disposition": 'attachment; filename="events.csv"'}
    return Response(await asyncio.to_thread(_written, rows), 200, headers, "text/csv; charset=utf-8")


def _written(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(key, row.get(key)) for key in COLUMNS])
    return out.getvalue()


async def _latest(ask: Ask) -> list[dict[str, Any]]:
    query, rows = _asked(ask), list[dict[str, Any]]()
    while len(rows) < CSV_ROWS:
        found = await ask.get("/v1/audit", limit=PER_ANSWER, **query)
        rows[:0] = found["events"]
        if not found["more"]:
            break
        query["before"] = rows[0]["seq"]
    return rows


def _cell(key: str, value: Any) -> Any:
    """A value for a spreadsheet, which must not take a worker's text for a formula."""
    if key == "at":
        return words.iso(value)
    text = "" if value is None else words.plain(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


PAGES = (Page("/events", "events.html", events),)
ACTIONS = (Action("/events.csv", as_csv, ("GET",)),)
