"""Brings what a trainer prints to the receiver while it runs, from a thread of its own.

The guard writes the output into a bounded folder (`trainer_log`); this reads on from where it had come to and appends
it to the attempt's log at the receiver, at most one request a second, with the worker's own lines (`[worker] ...`)
among it. A receiver that is away, refuses, or is too old to know what a log is harms nothing: there is never more
than one unsent piece in memory, and what the folder no longer has is left out with a line that says so.
"""

from __future__ import annotations

import codecs
import logging
import random
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from cis490.logs import event
from cis490.threads import start_beside
from training.fleet.client import FleetError, LeaseGone, Refused, backoff_s
from training.fleet.reports import MAX_LOG_BYTES
from training.fleet.segments import read
from training.fleet.worker_state import LeaseRecord

logger = logging.getLogger(__name__)

EVERY_S = 1.0
READ_BYTES = 192 * 1024
MAX_NOTES = 200
LAST_BYTES = 512 * 1024
"""Of what is unsent when the attempt ends, this much is sent."""
LAST_S = 3.0
"""How long the end of an attempt waits for its log's last bytes, where the receiver gives no answer."""
MOST_REQUESTS = 64
"""At the end of an attempt."""
RETRY_S = 30.0
_INNER = bytes(range(0x80, 0xC0))
"""The later bytes of characters in UTF-8."""
_NOT_KNOWN = (400, 404, 405, 413, 501)
"""A receiver without logs, or one that will never take this one."""


class LogSink(Protocol):
    """The part of the client that is needed here."""

    def append_log(self, job_id: str, token: str | None, offset: int, text: str) -> int: ...


class LogFeed:
    """Sends one attempt's log from `__enter__` to `__exit__`."""

    def __init__(self, sink: LogSink, record: LeaseRecord, folder: Path) -> None:
        self._sink, self._record, self._folder = sink, record, folder
        self._notes: deque[tuple[int, str]] = deque(maxlen=MAX_NOTES)
        """The worker's own lines, each with how much the trainer had printed by then."""
        self._order = threading.Lock()
        self._read_to = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = b""
        """Whole characters that were read and not confirmed yet."""
        self._sent = 0
        self._at_line_start = True
        self._is_after_gap = False
        """What is read next may begin inside a character."""
        self._failures = 0
        self._is_over = False
        """The receiver takes no more of this attempt's log."""
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._flushing = threading.Event()
        self._flushed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log-{record.key}", daemon=True)

    def __enter__(self) -> Self:
        start_beside(self._thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it. A request that waits for its answer is not waited for."""
        self._closing.set()
        self._wake.set()
        self._thread.join(0.5)

    def note(self, text: str) -> None:
        """A line of the worker's own, after what the trainer has printed so far. From any thread."""
        with self._order:
            self._notes.append((self._printed(), text))

    def flush(self, timeout_s: float = LAST_S) -> None:
        """The trainer has ended: send what is left, as far as the receiver takes it within the time."""
        if self._thread.is_alive() and not self._is_over:
            self._flushing.set()
            self._wake.set()
            self._flushed.wait(timeout_s)

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._closing.is_set() and not self._is_over:
                if self._flushing.is_set() and not self._flushed.is_set():
                    self._send_the_rest()
                    self._flushed.set()
                else:
                    self._step()
                self._wake.wait(self._pause_s())
                if not self._closing.is_set():
                    self._wake.clear()
        finally:
            self._flushed.set()

    def _pause_s(self) -> float:
        if not self._failures:
            return EVERY_S
        return EVERY_S + backoff_s(self._failures, random.random(), cap_s=RETRY_S)

    def _send_the_rest(self) -> None:
        end = time.monotonic() + LAST_S
        self._skip_to_the_last()
        is_final = False
        for _ in range(MOST_REQUESTS):
            if self._is_over or self._closing.is_set() or time.monotonic() > end:
                return
            if not self._pending and not self._fill():
                if is_final:
                    return
                is_final = True
                self._put(self._decoder.decode(b"", final=True))  # a character that was cut short
            elif not self._send():
                return

    def _skip_to_the_last(self) -> None:
        printed = self._printed()
        if printed - self._read_to > LAST_BYTES:
            self._leave_out(printed - LAST_BYTES)

    def _printed(self) -> int:
        """How many bytes there are to read, from the very beginning."""
        try:
            return read(self._folder, 2**62, 0).end_offset
        except OSError:
            return self._read_to

    def _step(self) -> None:
        if self._pending or self._fill():
            self._send()

    def _fill(self) -> bool:
        """Read on; whether there is something to send."""
        with self._order:  # a note that comes later belongs behind all that is printed now
            limit = min(READ_BYTES, max(0, self._printed() - self._read_to))
            while self._notes:
                at, text = self._notes[0]
                if at > self._read_to:
                    limit = min(limit, at - self._read_to)
                    break
                self._notes.popleft()
                self._put_line(text)
        try:
            piece = read(self._folder, self._read_to, limit)
        except OSError:  # the folder may be going this very moment
            return bool(self._pending)
        if piece.offset > self._read_to:
            self._leave_out(piece.offset)
        if piece.data:
            self._read_to = piece.offset + len(piece.data)
            data = piece.data.lstrip(_INNER) if self._is_after_gap else piece.data
            self._is_after_gap = False
            self._put(self._decoder.decode(data))
        return bool(self._pending)

    def _leave_out(self, offset: int) -> None:
        gone = offset - self._read_to
        self._read_to = offset
        self._decoder.reset()
        self._is_after_gap = True
        self._put_line(f"{gone} bytes of output are left out here")

    def _put_line(self, text: str) -> None:
        line = " ".join(text.split())
        self._put(("" if self._at_line_start else "\n") + f"[worker] {line}\n")

    def _put(self, text: str) -> None:
        if text:
            self._pending += text.encode("utf-8", "replace")
            self._at_line_start = text.endswith("\n")

    def _send(self) -> bool:
        """One request with the start of what is pending; whether the receiver took it (or has it already)."""
        text = self._pending[:MAX_LOG_BYTES].decode("utf-8", "ignore")  # whole characters of it
        size = len(text.encode())
        try:
            end = self._sink.append_log(self._record.job_id, self._record.token, self._sent, text)
        except LeaseGone:
            self._is_over = True
        except Refused as error:
            return self._refused(error)
        except FleetError as error:
            self._failed(error)
        else:
            self._failures = 0
            self._pending = self._pending[size:]
            self._sent = end if end > 0 else self._sent + size
            return True
        return False

    def _refused(self, error: Refused) -> bool:
        """Whether to go on at once."""
        expected = error.body.get("offset")
        if error.status == 409 and isinstance(expected, int) and expected >= 0:
            # An answer was lost (then it has some of what is pending), or it has lost the end of what it had.
            ahead = expected - self._sent
            self._pending = self._pending[ahead:] if 0 <= ahead <= len(self._pending) else self._pending
            self._sent = expected
            self._failures = 0
            return True
        if error.status in _NOT_KNOWN:
            self._is_over = True
            event(logger, "job.log_refused", job=self._record.name, reason=error.reason)
        else:
            self._failed(error)
        return False

    def _failed(self, error: FleetError) -> None:
        self._failures += 1
        if self._failures == 1:
            event(logger, "job.log_waiting", level=logging.WARNING, job=self._record.name, reason=str(error))
