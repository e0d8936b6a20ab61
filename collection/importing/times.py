"""What stands in a time column, as whole microseconds."""

import datetime
import decimal
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collection.importing.description import TimeUnit

MAX_US: Final = 253_402_300_799_000_000
"""The end of the year 9999. What lies beyond is no time but another column."""

_FLOAT_STEPS: Final = {"s": 1e6, "ms": 1e3}
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_US: Final = datetime.timedelta(microseconds=1)
NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,19}")

EXPECTED: Final = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "iso8601": "a time such as 2026-01-31 23:59:59.999, of the same form in the whole file",
}


def from_column(column: NDArray[np.generic], unit: TimeUnit) -> NDArray[np.int64] | None:
    """Microseconds int64 (n,) of a column of float64 (s, ms), int64 (us, ns) or text (iso8601).

    None when some value is no time; `from_text` then says which.
    """
    if unit == "iso8601":
        return _from_iso([str(text).strip() for text in column.tolist()])
    if unit in _FLOAT_STEPS:
        steps = column.astype(np.float64) * _FLOAT_STEPS[unit]
        if not bool(np.all(np.abs(steps) <= MAX_US)):  # False for NaN too
            return None
        return np.rint(steps).astype(np.int64)
    whole = column.astype(np.int64) // (1000 if unit == "ns" else 1)
    return whole if bool(np.all(np.abs(whole) <= MAX_US)) else None


def from_text(text: str, unit: TimeUnit) -> int | None:
    """Microseconds of one cell, or None when it is no time of that unit."""
    if unit == "iso8601":
        found = _from_iso([text])
        return None if found is None else int(found[0])
    if not NUMBER.fullmatch(text):
        return None
    if unit in _FLOAT_STEPS:
        steps = float(text) * _FLOAT_STEPS[unit]
        return int(np.rint(steps)) if abs(steps) <= MAX_US else None
    if _WHOLE.fullmatch(text):
        whole = int(text)
    else:
        exact = decimal.Decimal(text)
        if abs(exact) > 1000 * MAX_US:
            return None
        whole = int(exact.to_integral_value(decimal.ROUND_FLOOR))
    whole //= 1000 if unit == "ns" else 1
    return whole if abs(whole) <= MAX_US else None


def has_offset(text: str) -> bool:
    """Whether an ISO 8601 time says its distance from UTC. Raises ValueError when it is none."""
    return datetime.datetime.fromisoformat(text).tzinfo is not None


def _from_iso(texts: list[str]) -> NDArray[np.int64] | None:
    """A time without an offset from UTC is taken as UTC. Times with and without one do not mix."""
    try:
        moments = [datetime.datetime.fromisoformat(text) for text in texts]
    except ValueError:
        return None
    with_offset = sum(moment.tzinfo is not None for moment in moments)
    if with_offset not in (0, len(moments)):
        return None
    if not with_offset:
        moments = [moment.replace(tzinfo=datetime.UTC) for moment in moments]
    return np.array([(moment - _EPOCH) // _US for moment in moments], dtype=np.int64)
