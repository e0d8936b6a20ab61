"""The manifest's `[retention]` table: after how many days what may be removed. Pure."""

from __future__ import annotations

from dataclasses import fields

from training.fleet.manifest_table import Table
from training.fleet.types import Retention

RETENTION_KEYS = tuple(field.name for field in fields(Retention))
LEAST_DAYS = 1.0
"""Less than a day is no age: an attempt may lapse, and its host may come back, within hours."""
MOST_DAYS = 36500.0
_FOR_EVER = "leave the key out to keep everything"


def read_retention(table: Table | None) -> Retention:
    """The rules; a key that is absent keeps for ever, and so does an absent table."""
    if table is None:
        return Retention()
    table.reject_unknown(RETENTION_KEYS)
    return Retention(**{key: _days(table, key) for key in RETENTION_KEYS})


def _days(table: Table, key: str) -> float | None:
    value = table.values.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and LEAST_DAYS <= value <= MOST_DAYS:
        return float(value)
    table.refuse(key, f"a number of days from {LEAST_DAYS:g} to {MOST_DAYS:g}", _FOR_EVER)
    return None
