"""`logs JOB`: what an attempt printed, and with `-f` what it goes on printing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from training.fleet.client import FleetError, Refused, retry_reason
from training.fleet.exits import OK
from training.fleet.tables import Row, count_of, safe, text_of
from training.fleet.verb import Call, named

PAGE_BYTES = 1024 * 1024
"""Of one request; as much as the receiver keeps of an attempt."""
PAUSES_S = (0.5, 1.0, 2.0, 5.0)
"""Between two looks while nothing comes; the stream of events ends a pause at once."""
STREAM_PAUSE_S = 10.0
"""The same while the stream is there: only in case that it missed something."""


def logs(call: Call) -> int:
    """`logs JOB [-f] [--attempt N] [--tail N]`."""
    job_id = text_of(named(call), "job_id")
    printer = Printer(call)
    first = _first(call, job_id)
    printer.take(first)
    if not call.args.follow:
        for answer in _rest(call, job_id, first):
            printer.take(answer)
        printer.end()
        return OK
    try:
        with _Bell(call, job_id) as bell:
            _follow(call, job_id, first, printer, bell)
    except KeyboardInterrupt:
        pass
    printer.end()
    return OK


def _first(call: Call, job_id: str) -> Row:
    """The beginning, or with `--tail` the last lines, of the attempt."""
    asked = {} if call.args.attempt is None else {"epoch": call.args.attempt}
    if call.args.tail is None:
        return call.client.log(job_id, limit=PAGE_BYTES, **asked)
    found = call.client.log(job_id, tail=PAGE_BYTES, **asked)
    text = text_in(found)
    return {**found, "text": last_lines(text, call.args.tail)}


def _rest(call: Call, job_id: str, found: Row) -> Iterator[Row]:
    """What there is after `found`, without waiting for more."""
    while found.get("epoch") is not None and count_of(found, "next_offset") < count_of(found, "end_offset"):
        offset = count_of(found, "next_offset")
        epoch = count_of(found, "epoch")
        found = call.client.log(job_id, epoch=epoch, offset=offset, limit=PAGE_BYTES)
        yield found
        if count_of(found, "next_offset") <= offset:
            return


def _follow(call: Call, job_id: str, found: Row, printer: Printer, bell: _Bell) -> None:
    """Until the attempt has ended; where there is none yet, until one has begun and ended."""
    looks = 0
    while True:
        for page in _rest(call, job_id, found):
            printer.take(page)
            found, looks = page, 0
        if found.get("epoch") is not None and not found.get("live"):
            return
        bell.wait(STREAM_PAUSE_S if bell.is_heard else PAUSES_S[min(looks, len(PAUSES_S) - 1)])
        looks += 1
        try:
            if found.get("epoch") is None:
                found = call.client.log(job_id, limit=PAGE_BYTES)
            else:
                epoch, offset = count_of(found, "epoch"), count_of(found, "next_offset")
                found = call.client.log(job_id, epoch=epoch, offset=offset, limit=PAGE_BYTES)
        except FleetError as error:
            if retry_reason(error) is None:
                raise
            printer.say(f"{error}; trying again")
            continue
        looks = 0 if text_in(found) else looks
        printer.take(found)


def text_in(answer: Row) -> str:
    """The text as it was sent."""
    return str(answer.get("text") or "")


def last_lines(text: str, count: int) -> str:
    """The last `count` lines; one that is not ended yet counts. Pure."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[-count:]) if count else ""


def shown_lines(text: str) -> list[str]:
    """Whole lines as a terminal may be sent them: what redraws a line becomes lines, the rest is escaped. Pure."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    return [safe(line.expandtabs(8)) for line in plain.split("\n")]


@dataclass(slots=True)
class Printer:
    """Prints answers one after the other: JSON, plain text in a pipe, harmless lines on a terminal."""

    call: Call
    _held: str = ""
    """The beginning of a line that has not ended yet."""
    _offset: int | None = None
    _said: str = ""
    _is_json: bool = field(init=False)

    def __post_init__(self) -> None:
        self._is_json = bool(getattr(self.call.args, "json", False))

    def take(self, answer: Row) -> None:
        """Print what the answer has; say once why there is nothing, and how much is gone."""
        text, out = text_in(answer), self.call.terminal.out
        if self._is_json:
            if text or self._offset is None:
                print(json.dumps(answer), file=out, flush=True)
        elif text and self.call.view.width is None:
            out.write(text)
            out.flush()
        elif text:
            whole, _, self._held = (self._held + text).rpartition("\n")
            for line in shown_lines(whole) if whole else ():
                print(line, file=out)
            out.flush()
        self._remark(answer)
        self._offset = count_of(answer, "next_offset")

    def _remark(self, answer: Row) -> None:
        first, expected = count_of(answer, "first_offset"), self._offset or 0
        if first > expected:
            self.say(f"{first - expected} older bytes of this log are not kept any more")
        reason = answer.get("empty_reason")
        if isinstance(reason, str):
            self.say(reason)

    def say(self, text: str) -> None:
        """A remark, once in a row, on standard error."""
        if text != self._said:
            self._said = text
            print(f"cis490-jobs: {safe(text)}", file=self.call.terminal.err, flush=True)

    def end(self) -> None:
        """What is left of a line that never ended."""
        if self._held:
            print(*shown_lines(self._held), sep="\n", file=self.call.terminal.out, flush=True)
            self._held = ""


class _Bell:
    """Rings when the stream of events tells of news; without a stream it never does."""

    def __init__(self, call: Call, job_id: str) -> None:
        self._call, self._job_id = call, job_id
        self._rung, self._over = threading.Event(), threading.Event()
        self.is_heard = False

    def __enter__(self) -> _Bell:
        threading.Thread(target=self._listen, name="logs-events", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def wait(self, seconds: float) -> None:
        self._rung.wait(seconds)
        self._rung.clear()

    def _listen(self) -> None:
        # A receiver without a stream refuses; then pauses alone count.
        with contextlib.suppress(FleetError, Refused, OSError, ValueError, _Over):
            for event in self._call.client.follow(kinds=("log", "job"), job=self._job_id, sleep=self._pause):
                if self._over.is_set():
                    return
                self.is_heard = event.kind != "down"
                self._rung.set()
        self.is_heard = False

    def _pause(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise _Over


class _Over(Exception):
    """Nobody listens any more."""
