"""Server-sent events as a client reads them (WHATWG HTML, section 9.2), as far as the receiver sends them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_DATA_CHARS = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """`kind`: hello, job, host, manifest, fleet, progress, usage, log or reset. `seq`: where to go on after it
    (`after=`); None for an event that is not kept."""

    kind: str
    seq: int | None
    data: dict[str, Any]


def parse(lines: Iterable[str]) -> Iterator[StreamedEvent]:
    """The events of a stream's lines (without their line ends). Comments and unknown fields are passed over.

    ValueError for an event that is none of the receiver's: data that is no JSON object, or without an end.
    """
    kind, seq, data = "", None, ""
    for line in lines:
        if not line:
            if data:
                yield _event(kind, seq, data)
            kind, seq, data = "", None, ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "id":
            seq = int(value) if value.isascii() and value.isdecimal() else None
        elif field == "data":
            data += value
            if len(data) > MAX_DATA_CHARS:
                raise ValueError(f"an event of more than {MAX_DATA_CHARS} characters")


def _event(kind: str, seq: int | None, data: str) -> StreamedEvent:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"an event whose data is no JSON object: {data[:80]!r}")
    return StreamedEvent(kind or "message", seq, found)
