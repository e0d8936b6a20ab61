"""The daemon's side of a guard: starts it, tells it what the receiver confirmed, and hears how the trainer ended."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cis490.clock import Clock
from cis490.threads import start_beside
from training.fleet import guard_wire
from training.fleet.guard_rules import EndReason
from training.fleet.guard_wire import MARK, SECRETS, Lines, TrainerCommand, TrainerEnd
from training.fleet.outcome import ProgressReader, RunResult, result_of
from training.fleet.types import Figure
from training.fleet.wire import Progress

__all__ = ["CannotStart", "GuardLost", "GuardedRun", "RunState", "kill_marked", "metrics_in"]

if sys.platform == "win32":
    from training.fleet.guard_windows import kill_marked
else:
    from training.fleet.guard_posix import kill_marked

RunState = Literal["starting", "running", "frozen", "late", "ended"]
"""`late`: nothing was started, since the lease had run out by then; start it again inside the lease."""

GUARD_MODULE = "training.fleet.guard_main"
SILENT_S = 60.0
"""A guard says once a second that it lives. After so long without a word, as far as this process was awake, it is
stopped or hangs, and is killed."""
AWAKE_S = 1.0
"""The most that one look counts as time awake."""
KILL_S = 10.0
"""How long a guard may take to end a tree before it is done without it."""
PIPE_BYTES = 64 * 1024

Message = dict[str, Any]


class GuardLost(Exception):
    """The guard ended, or had to be ended, before its trainer; nothing of the tree is left."""


class CannotStart(Exception):
    """The trainer could not be started; the guard's sentence says why."""


class GuardedRun:
    """One trainer behind its guard. All methods belong to one thread. OSError when no guard can be started."""

    def __init__(self, command: TrainerCommand, *, clock: Clock) -> None:
        self._mark = command.mark
        self._clock = clock
        self._state: RunState = "starting"
        self._pid: int | None = None
        self._end: TrainerEnd | None = None
        self._frozen_s = 0.0
        self._progress = _ProgressFile(command.progress_file)
        self._is_lost = False
        self._silent_s = 0.0
        self._polled_s = clock.now_s()
        self._deadline_s = command.deadline_s
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._process = _start(command)
        self._send(guard_wire.start_line(command))
        start_beside(threading.Thread(target=self._listen, name="guard", daemon=True))

    @property
    def pid(self) -> int | None:
        """Of the trainer, once it was started."""
        return self._pid

    @property
    def guard_pid(self) -> int:
        """Of the guard."""
        return self._process.pid

    @property
    def progress(self) -> Progress | None:
        """The latest line that says how far the training is, as of the last poll."""
        return self._progress.reader.latest

    def take_points(self) -> list[Progress]:
        """The lines of progress with a step that came since the last call, as of the last poll."""
        return self._progress.reader.take_points()

    @property
    def frozen_s(self) -> float:
        """How long the trainer was frozen, up to the last thaw."""
        return self._frozen_s

    def poll(self) -> RunState:
        """Take note of what the guard said. Raises GuardLost and CannotStart, with no process left."""
        return self.wait(0.0)

    def wait(self, seconds: float) -> RunState:
        """As `poll`, but pauses up to `seconds` for news."""
        with contextlib.suppress(queue.Empty):
            self._take(self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait())
            while True:
                self._take(self._inbox.get_nowait())
        self._progress.read()
        now = self._clock.now_s()
        self._silent_s += min(now - self._polled_s, AWAKE_S)
        self._polled_s = now
        if self._silent_s > SILENT_S and self._state not in ("late", "ended"):
            self._end_by_force()
            raise GuardLost(
                f"the trainer's guard was silent for {SILENT_S:g} s; it was ended with its trainer"
            )
        return self._state

    def confirm(self, deadline_s: float) -> None:
        """The lease holds until `deadline_s`, on the clock of this machine. Tells the guard if that is news."""
        if (
            deadline_s != self._deadline_s and deadline_s > -math.inf
        ):  # sooner, too: leases may have become shorter
            self._deadline_s = deadline_s
            self._send(guard_wire.line(do="confirm", deadline_s=deadline_s))

    def terminate(self, reason: EndReason = "asked") -> None:
        """Ask the tree to stop; outside the lease it is killed at once, else after the grace."""
        self._send(guard_wire.line(do="terminate", reason=reason))

    def end_now(self) -> None:
        """End the tree and return when nothing of it is left."""
        if self._is_lost:
            return
        self._send(guard_wire.line(do="kill"))
        end = time.monotonic() + KILL_S  # of all messages: a guard may live and its trainer hang in a driver
        with contextlib.suppress(queue.Empty, GuardLost, CannotStart):
            while self._state not in ("late", "ended"):
                self._take(self._inbox.get(timeout=max(0.0, end - time.monotonic())))
        self._end_by_force()

    def result(self) -> RunResult:
        """How it ended. RuntimeError before `poll` said "ended"."""
        if self._end is None:
            raise RuntimeError(f"the trainer behind guard {self.guard_pid} has not ended yet")
        return result_of(self._end, self._progress.reader.metrics)

    def _take(self, message: Message | None) -> None:
        self._silent_s = 0.0
        match (message or {}).get("event"):
            case "started" if message is not None:
                self._pid = int(message["pid"])
                self._state = "running"
            case "frozen":
                self._state = "frozen"
            case "thawed" if message is not None:
                self._frozen_s = float(message["frozen_s"])
                self._state = "running"
            case "late":
                self._state = "late"
            case "cannot_start" if message is not None:
                self._end_by_force()
                raise CannotStart(str(message["text"]))
            case "ended" if message is not None:
                self._progress.read()
                self._end = guard_wire.end_of(message["end"])
                self._state = "ended"
            case None if message is None and self._state not in ("late", "ended"):
                self._end_by_force()
                raise GuardLost("the trainer's guard was killed, and its trainer with it")

    def _end_by_force(self) -> None:
        """Whatever is left: the guard, then all that carries its mark. The kernel ends the trainer with the guard."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if self._state not in ("late", "ended"):
            self._process.kill()
            if self._pid is not None and sys.platform != "win32":
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pid, signal.SIGKILL)
            kill_marked(MARK, frozenset({self._mark}))
            self._is_lost = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)

    def close(self) -> None:
        """Let go of a guard that has said its last word."""
        self._end_by_force()

    def _send(self, data: bytes) -> None:
        stdin = self._process.stdin
        with contextlib.suppress(OSError, ValueError):  # it is dead: the other pipe says so
            if stdin is not None:
                stdin.write(data)

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        lines = Lines()
        with contextlib.suppress(OSError), stdout:
            while data := os.read(stdout.fileno(), PIPE_BYTES):
                for message in filter(None, map(guard_wire.parse, lines.feed(data))):
                    self._inbox.put(message)
        self._inbox.put(None)


class _ProgressFile:
    """Follows a trainer's progress file."""

    def __init__(self, path: str) -> None:
        self.reader = ProgressReader()
        self._path = path
        self._at = 0

    def read(self) -> None:
        """Take what was written since the last look."""
        with contextlib.suppress(OSError):  # not there yet
            data, self._at = guard_wire.read_newest(self._path, self._at)
            self.reader.feed(data)


def metrics_in(progress_file: Path) -> Mapping[str, Figure]:
    """What a finished trainer reported in its progress file; empty without one."""
    found = _ProgressFile(str(progress_file))
    found.read()
    return found.reader.metrics


def _start(command: TrainerCommand) -> subprocess.Popen[bytes]:
    env = {key: value for key, value in os.environ.items() if key not in SECRETS}
    flags = ["-S", "-E", *(["-B"] if sys.dont_write_bytecode else [])]  # it needs the standard library only
    return subprocess.Popen(
        [sys.executable, *flags, "-m", GUARD_MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=command.cwd,
        env={**env, MARK: command.mark},
        bufsize=0,
        start_new_session=sys.platform != "win32",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
