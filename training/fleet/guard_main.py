"""The guard of one trainer, a process of its own: `python -m training.fleet.guard_main`, started by the worker daemon.

It listens to nobody but the daemon, over its standard input (`guard_wire` lists the messages). The daemon's death
closes that pipe: then the tree is killed at once. It has one thread until the trainer runs, so that the kernel can
be asked between fork and exec to end the trainer with its guard; and it imports little, since each job waits for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from cis490.clock import SystemClock
from cis490.failpoints import failpoint
from training.fleet.guard import TrainerRun, freeze_at_s
from training.fleet.guard_wire import Lines, TrainerCommand, TrainerEnd, command_of, line, parse

TICK_S = 0.2
"""How often the run is looked at when nothing happens: after a suspended machine wakes, the trainer runs no longer."""
ALIVE_S = 1.0
LAST_S = 5.0
"""How long a guard without a daemon may take to write down how its trainer ended."""
PIPE_BYTES = 64 * 1024
STDIN, STDOUT = 0, 1
IGNORED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
"""Sent to whole groups and control groups; only the daemon decides here."""

Message = dict[str, Any]
Inbox = queue.SimpleQueue[Message | None]


class Outbox:
    """Sends from a thread: a daemon that is stopped must not keep the guard from freezing its trainer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._queue.put(data)

    def send_if_idle(self, data: bytes) -> None:
        """For what is of no interest later."""
        if self._queue.empty():
            self._queue.put(data)

    def close(self) -> None:
        """Return when all is sent, or the daemon is dead."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self._queue.get()) is not None:
                _write(data)


class Guard:
    """Moves a run by what the daemon says and by the clock."""

    def __init__(self, command: TrainerCommand, run: TrainerRun, inbox: Inbox, outbox: Outbox) -> None:
        self._command = command
        self._run = run
        self._inbox = inbox
        self._outbox = outbox
        self._clock = SystemClock()
        self._was_frozen = False

    def watch(self) -> TrainerEnd:
        """Until the trainer has ended."""
        alive_at_s = 0.0
        while (state := self._run.poll()) != "ended":
            self._report(state == "frozen")
            now = self._clock.now_s()
            if now >= alive_at_s:
                self._outbox.send_if_idle(line(event="alive"))
                alive_at_s = now + ALIVE_S
            self._take(TICK_S)
        return self._run.end()

    def _take(self, timeout_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            message = self._inbox.get(timeout=timeout_s)
            match message and message.get("do"):
                case "confirm" if message is not None:
                    self._run.confirm(float(message["deadline_s"]))
                case "terminate" if message is not None:
                    self._run.terminate(message["reason"])
                case "kill":
                    self._run.kill()
                case _:  # the trainer has ended: poll sees it
                    pass

    def _report(self, is_frozen: bool) -> None:
        if is_frozen and not self._was_frozen:
            self._outbox.send(line(event="frozen"))
        elif self._was_frozen and not is_frozen:
            self._outbox.send(line(event="thawed", frozen_s=round(self._run.frozen_s, 3)))
        self._was_frozen = is_frozen


def main() -> int:
    """Until the trainer has ended and the daemon knows it."""
    for name in IGNORED:
        if hasattr(signal, name):
            # Not SIG_IGN, which the trainer would inherit; a handler does not outlive exec.
            signal.signal(getattr(signal, name), lambda number, frame: None)
    if hasattr(signal, "SIGCHLD"):
        # Ignored, as inherited from whoever started the worker, it would hide how the trainer ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lines = Lines()
    first = _first(lines)
    if first is None:
        return 0  # the daemon is gone already
    (message, *more) = first
    command = command_of(message)
    failpoint("guard.before_start")
    clock = SystemClock()
    if clock.now_s() >= freeze_at_s(command, command.deadline_s):
        _write(line(event="late"))
        return 0
    try:
        run = TrainerRun(command, clock=clock, adopts=True)
    except OSError as error:
        text = f"cannot start {command.argv[0]}: {error.strerror or error}"
        _write(line(event="cannot_start", text=text))
        return 0
    try:
        failpoint("guard.trainer_started")
        _hold(command, run, lines, more)
    except BaseException:
        run.kill()
        raise
    return 0


def _hold(command: TrainerCommand, run: TrainerRun, lines: Lines, more: list[Message]) -> None:
    inbox: Inbox = queue.SimpleQueue()
    outbox = Outbox()
    outbox.send(line(event="started", pid=run.pid))
    for message in more:
        inbox.put(message)

    def wait_end() -> None:
        run.wait_end()
        inbox.put(None)

    _thread("trainer-end", wait_end)
    _thread("inbox", lambda: _listen(lines, inbox, run))
    end = Guard(command, run, inbox, outbox).watch()
    _leave(command, end)
    failpoint("guard.end_left")
    outbox.send(line(event="ended", end=_fields(end)))
    outbox.close()
    failpoint("guard.end_sent")


def _listen(lines: Lines, inbox: Inbox, run: TrainerRun) -> None:
    """Hand on what the daemon says; when it is dead, end the tree without waiting for another thread."""
    with contextlib.suppress(OSError):
        while data := os.read(STDIN, PIPE_BYTES):
            for message in _messages(lines, data):
                inbox.put(message)
    run.kill()
    failpoint("guard.daemon_gone")
    inbox.put({"do": "kill"})
    time.sleep(LAST_S)
    os._exit(0)


def _first(lines: Lines) -> list[Message] | None:
    """The first messages; None when the pipe closes before there was one."""
    while data := os.read(STDIN, PIPE_BYTES):
        found = _messages(lines, data)
        if found:
            return found
    return None


def _messages(lines: Lines, data: bytes) -> list[Message]:
    return [found for found in map(parse, lines.feed(data)) if found is not None]


def _leave(command: TrainerCommand, end: TrainerEnd) -> None:
    """Leave the result beside the work, for a daemon that dies before it has taken note of it."""
    if command.end_file is None:
        return
    partial = f"{command.end_file}.partial"
    with contextlib.suppress(OSError):  # a full disk: the daemon is told anyway
        with open(partial, "wb") as file:
            file.write(line(**_fields(end)))
        os.replace(partial, command.end_file)


def _fields(end: TrainerEnd) -> dict[str, Any]:
    return {name: getattr(end, name) for name in TrainerEnd.__slots__}


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(STDOUT, data) :]


def _thread(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # without waiting for threads that read
