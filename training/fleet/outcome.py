"""How a trainer run ended and what it said: exit code -> failure class, error text, progress lines. Pure.

The exit codes are those of sysexits that the trainer documents; `FAIL_CLASS_OF` is the only place that
gives them a meaning for the fleet.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from training.fleet.guard_rules import EndReason
from training.fleet.guard_wire import TrainerEnd
from training.fleet.reports import thinned
from training.fleet.types import FailClass, Figure
from training.fleet.wire import MAX_ERROR_CHARS, FailRequest, Progress

FAIL_CLASS_OF: Mapping[int, FailClass] = {
    64: "bad_config",
    65: "bad_data",
    66: "missing",
    69: "no_cuda",
    71: "oom",
    75: "preempted",
    78: "bad_config",
}
"""Every other exit code and every signal is "program", except a SIGKILL by the kernel's out-of-memory killer."""

_FAIL_CLASS_OF_END: Mapping[EndReason, FailClass] = {
    "asked": "preempted",
    "timeout": "timeout",
    "stalled": "stalled",
    "frozen": "preempted",
}

MAX_LINE_CHARS = 2000
MAX_METRICS = 32
MAX_UNTAKEN = 1024
_STDERR_CHARS = MAX_ERROR_CHARS - 2 * MAX_LINE_CHARS
_SIGKILL = 9  # absent from `signal` on Windows
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")
_MARKERS = re.compile(r"\s*[~^]+\s*")


@dataclass(frozen=True, slots=True)
class RunResult(TrainerEnd):
    """How a trainer ended, with what it reported itself; `stderr` is cleaned of what a terminal would obey."""

    metrics: Mapping[str, Figure] = field(default_factory=dict)
    """Of the trainer's `result` line."""

    @property
    def succeeded(self) -> bool:
        """Also when it was asked to stop at the same moment: a finished result counts."""
        return self.exit_code == 0 and self.ended_by in (None, "asked")


def result_of(end: TrainerEnd, metrics: Mapping[str, Figure]) -> RunResult:
    """What the guard saw, and what the trainer itself reported."""
    seen = {one.name: getattr(end, one.name) for one in fields(end)}
    return RunResult(**seen | {"stderr": clean(end.stderr.encode("utf-8", "replace"))}, metrics=metrics)


def fail_class(result: RunResult) -> FailClass:
    """The class of a run that did not succeed."""
    if result.ended_by is not None:
        return _FAIL_CLASS_OF_END[result.ended_by]
    if result.signal_number is not None:
        return "oom" if result.oom_killed else "program"
    return FAIL_CLASS_OF.get(result.exit_code if result.exit_code is not None else -1, "program")


def how_it_ended(result: RunResult) -> str:
    """A few words: exit code or signal, or the limit that ended the run."""
    if result.ended_by == "timeout":
        return f"ended after {result.duration_s:.0f} s: it ran longer than timeout_s = {result.limit_s:g}"
    if result.ended_by == "stalled":
        return f"ended after {result.duration_s:.0f} s: no progress line for stall_s = {result.limit_s:g}"
    if result.ended_by == "frozen":
        return f"ended because it was frozen for more than {result.limit_s:g} s, waiting for the receiver"
    if result.signal_number is not None:
        why = ", out of memory: the kernel ended it" if result.oom_killed else ""
        return f"killed by {signal_name(result.signal_number)}{why}"
    code = result.exit_code if result.exit_code is not None else -1
    return f"exit code {code}" if -256 < code < 256 else f"exit code 0x{code & 0xFFFFFFFF:08X}"


def error_text(result: RunResult) -> str:
    """What the operator reads: one line with the trainer's last words and how it ended, then its stderr."""
    last = last_human_line(result.stderr) or "the trainer printed nothing on stderr"
    head = f"{last} ({how_it_ended(result)})"
    tail = result.stderr[-_STDERR_CHARS:].strip()
    return head if not tail or tail == last else f"{head}\n\n{tail}"


def fail_request(result: RunResult) -> FailRequest:
    """The report of a run that did not succeed; the exit code of a signal is 128 + its number, as in a shell."""
    code = result.exit_code if result.signal_number is None else 128 + result.signal_number
    return FailRequest(
        error=error_text(result),
        fail_class=fail_class(result),
        exit_code=code,
        duration_s=round(result.duration_s, 3),
        peak_rss_mib=result.peak_rss_mib,
        cpu_s=result.cpu_s,
    )


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11, `signal 99` for what this system does not know."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "SIGKILL" if number == _SIGKILL else f"signal {number}"


def last_human_line(text: str) -> str:
    """The last line that says something: not blank, not the markers below a line of a traceback."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line[:MAX_LINE_CHARS] for line in lines if line and not _MARKERS.fullmatch(line)), "")


def clean(raw: bytes) -> str:
    """Bytes of a terminal as plain text: no colours, no control characters, each redrawn line on its own."""
    text = _ESCAPES.sub("", raw.decode("utf-8", "replace"))
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


class ProgressReader:
    """Feeds on the bytes of a progress file and keeps the latest line that says how far the training is."""

    MAX_LINE_BYTES = 64 * 1024

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self.metrics: Mapping[str, Figure] = {}
        """Of the `result` line."""
        self._rest = b""
        self._points: list[Progress] = []

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when they completed at least one line of progress, of whatever kind.

        What is no JSON object is skipped: a progress line must not be able to end a training.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self.MAX_LINE_BYTES:
            self._rest = b""
        alive = False
        for line in lines:
            value = _json_object(line)
            if value is not None:
                alive = True
                self._take(value)
        return alive

    def _take(self, value: Mapping[str, Any]) -> None:
        event, unit = value.get("event"), value.get("unit")
        progress = Progress(
            event=_text(event, 32) if isinstance(event, str) else "progress",
            step=_integer(value.get("step")),
            total=_integer(value.get("total")),
            unit=_text(unit, 32) if isinstance(unit, str) else None,
            loss=_number(value.get("loss")),
            metric=_metrics(value.get("metric")),
        )
        if progress.event == "result":
            self.metrics = _figures(value.get("metric"))
        if progress.event == "start" or progress.step is not None or progress.event == "result":
            if progress.unit is None and self.latest is not None:  # told once, in the first line
                unit = self.latest.unit
                progress = Progress(
                    progress.event, progress.step, progress.total, unit, progress.loss, progress.metric
                )
            self.latest = progress
            if progress.step is not None and progress.event != "start":
                self._points.append(progress)
                if len(self._points) > MAX_UNTAKEN:
                    self._points = thinned(self._points, MAX_UNTAKEN // 2)

    def take_points(self) -> list[Progress]:
        """The lines with a step since the last call; thinned when nobody asked for long."""
        found, self._points = self._points, []
        return found


def _json_object(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(value: object) -> float | None:
    """A finite number: NaN and infinity are no JSON, and one of them would make the receiver refuse a heartbeat."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def _integer(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and abs(number) < 2**53 else None


def _text(value: str, max_chars: int) -> str:
    """Its start. JSON can hold half a surrogate pair, which is no text: the receiver would refuse a heartbeat."""
    return value[:max_chars].encode("utf-8", "replace").decode("utf-8")


def _metrics(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    numbers = ((_text(str(key), 64), _number(found)) for key, found in value.items())
    return dict([(key, found) for key, found in numbers if found is not None][:MAX_METRICS])


def _figures(value: object) -> dict[str, Figure]:
    """As `_metrics`, with the intervals: pairs of numbers."""
    if not isinstance(value, dict):
        return {}
    found = {_text(str(key), 64): _figure(one) for key, one in value.items()}
    return dict([(key, one) for key, one in found.items() if one is not None][:MAX_METRICS])


def _figure(value: object) -> Figure | None:
    if not isinstance(value, list):
        return _number(value)
    ends = [_number(one) for one in value[:3]]
    known = [one for one in ends if one is not None]
    return known if len(ends) == len(known) == 2 else None
