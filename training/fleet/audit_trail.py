"""The audit trail as events: what happened, in the order of the commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.fleet import events

if TYPE_CHECKING:
    from training.fleet.ledger import Ledger

_END = 2**62


def after(ledger: Ledger, seq: int, limit: int) -> list[dict[str, Any]]:
    """At most `limit` events after the one with this `seq`, oldest first. Reads the database."""
    return [events.of_row(dict(row)) for row in ledger.read("audit_after", after=seq, limit=limit)]


def span(ledger: Ledger) -> tuple[int, int]:
    """The oldest and the newest event's `seq` that are there; zeros when there is none. Reads the database."""
    row = ledger.read("audit_span")[0]
    return int(row["first_seq"]), int(row["last_seq"])


def why_no_replay(ledger: Ledger, seq: int, most: int) -> tuple[str | None, int]:
    """Why the events after this one cannot be told one by one (None: they can), and the newest `seq`.

    Numbers are given without a gap, so fewer rows than numbers are rows that were removed (`[retention] audit_days`).
    Reads the database.
    """
    _, newest = span(ledger)
    if seq > newest:
        return (
            f"there is no event {seq}, the newest is {newest}: this is another database, or an older copy",
            newest,
        )
    if newest - seq > most:
        return f"{newest - seq} events have happened since, which is more than {most}", newest
    if int(ledger.read("audit_count_after", after=seq)[0]["n"]) < newest - seq:
        return "some of the events since then were removed", newest
    return None, newest


def page(
    ledger: Ledger,
    *,
    after: int | None,
    before: int | None,
    limit: int,
    job: str | None = None,
    host: str | None = None,
    event: str | None = None,
) -> dict[str, Any]:
    """The answer of `GET /v1/audit`: at most `limit` events between the two, oldest first. Reads the database.

    With `after` they are the first ones behind it; without, the newest (before `before`). `more`: there are others
    in that direction.
    """
    upwards = after is not None
    found = ledger.read(
        "audit_page_up" if upwards else "audit_page_down", after=after or 0,
        before=_END if before is None else before, limit=limit + 1, job=job or "", host=host or "", event=event or "",
    )  # fmt: skip
    rows = list(found[:limit]) if upwards else list(reversed(found[:limit]))
    first, last = span(ledger)
    return {
        "events": [events.of_row(dict(row)) for row in rows],
        "first_seq": first,
        "last_seq": last,
        "more": len(found) > limit,
    }
