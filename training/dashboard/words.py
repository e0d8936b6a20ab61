"""Figures in words: the filters of the templates. Pure; the time is passed in.

None is *unknown* everywhere and is shown as a dash, never as 0.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from training.dashboard.log_text import clean

DASH = "–"


def utc(at: float | None) -> str:
    """2026-11-22 14:02:11 UTC"""
    return DASH if at is None else f"{_moment(at):%Y-%m-%d %H:%M:%S} UTC"


def iso(at: float | None) -> str:
    """For `datetime=`: 2026-11-22T14:02:11Z"""
    return "" if at is None else f"{_moment(at):%Y-%m-%dT%H:%M:%SZ}"


def clock(at: float | None) -> str:
    """14:02"""
    return DASH if at is None else f"{_moment(at):%H:%M}"


def ago(at: float | None, now_s: float) -> str:
    """`3 s ago`, `in 25 min`. live.js counts on in the same words."""
    if at is None:
        return "never"
    if at > now_s + 1:
        return f"in {span(at - now_s)}"
    return f"{span(max(0.0, now_s - at))} ago"


def span(seconds: float | None) -> str:
    """`48 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return DASH
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def number(value: float | None, digits: int = 3) -> str:
    """At most `digits` significant ones, whole numbers whole: 0.211, 14.1, 1000."""
    if value is None:
        return DASH
    if isinstance(value, int) or value == int(value):
        return f"{int(value)}"
    return f"{value:.{digits}g}"


def share3(value: Any) -> str:
    """0.941: a share or another small figure with three decimals, a count whole; what is no number is a dash."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return DASH
    if value == int(value) and abs(value) >= 2:
        return f"{int(value)}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def gib(value: float | None) -> str:
    """14.1, without the unit: a column or the text around it names it."""
    return DASH if value is None else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Of a value in percent: 87 %"""
    return DASH if value is None else f"{value:.0f} %"


def size(n_bytes: float | None) -> str:
    """512 bytes, 1.4 MiB"""
    if n_bytes is None:
        return DASH
    if n_bytes < 1024:
        return f"{n_bytes:.0f} bytes"
    value, units = n_bytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}"


def done_share(progress: Mapping[str, Any] | None) -> float | None:
    """How much of a job is done, 0 to 1; None: unknown."""
    step, total = (progress or {}).get("step"), (progress or {}).get("total")
    return None if step is None or not total else max(0.0, min(1.0, step / total))


def progress(found: Mapping[str, Any] | None) -> str:
    """epoch 12/40"""
    if not found or found.get("step") is None:
        return str((found or {}).get("event") or DASH)
    total = found.get("total")
    return f"{found.get('unit') or 'step'} {found['step']}" + (f"/{total}" if total else "")


def short(digest: str | None) -> str:
    """The first 12 digits of a digest or id."""
    return DASH if not digest else digest[:12]


def tone(state: str) -> str:
    """The class of a state's colour; its word and its mark say the same."""
    return TONES.get(state.lower(), "quiet")


def mark(state: str) -> str:
    """The shape of a state."""
    return MARKS.get(state.lower(), "○")


def plural(count: int, one: str, many: str | None = None) -> str:
    """1 job, 2 jobs"""
    return f"{count} {one if count == 1 else many or one + 's'}"


def segment(text: Any) -> str:
    """A name as one segment of a path."""
    return quote(str(text), safe="")


def query(values: Mapping[str, Any], **changed: Any) -> str:
    """A query string with some keys changed; what is None or "" is left out."""
    kept = {key: value for key, value in {**values, **changed}.items() if value not in {None, ""}}
    return f"?{urlencode(kept)}" if kept else "?"


def listed(values: Sequence[Any] | None) -> str:
    """gbt, mlp"""
    return ", ".join(map(str, values)) if values else DASH


def plain(value: Any) -> str:
    """Any JSON value on one line."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, list):
        return "[" + ", ".join(plain(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    return str(value)


def _moment(at: float) -> datetime.datetime:
    first, last = 0.0, 253402300799.0  # year 9999: a worker's clock may say anything
    return datetime.datetime.fromtimestamp(min(max(at, first), last), datetime.UTC)


TONES = {
    "running": "go", "claimed": "go", "live": "go", "completed": "good", "ok": "good", "failed": "bad", "lost": "bad",
    "error": "bad", "paused": "warn", "draining": "warn", "drained": "warn", "warning": "warn", "lapsed": "warn",
    "pending": "quiet", "idle": "quiet", "cancelled": "quiet", "unseen": "quiet",
}  # fmt: skip
MARKS = {
    "running": "▶", "claimed": "▷", "live": "▶", "completed": "✔", "ok": "✔", "failed": "✖", "lost": "✖",
    "error": "✖", "paused": "⏸", "draining": "◣", "drained": "■", "warning": "▲", "lapsed": "▲", "pending": "○",
    "idle": "○", "cancelled": "◇", "unseen": "?",
}  # fmt: skip
FILTERS: Mapping[str, Callable[..., Any]] = {
    "utc": utc, "iso": iso, "clock": clock, "ago": ago, "span": span, "number": number, "gib": gib, "percent": percent,
    "size": size, "done_share": done_share, "progress": progress, "short": short, "tone": tone, "mark": mark,
    "segment": segment, "query": query, "listed": listed, "plain": plain,
    "share3": share3, "clean": clean,
}  # fmt: skip
GLOBALS: Mapping[str, Any] = {"plural": plural}
