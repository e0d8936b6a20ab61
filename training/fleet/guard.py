"""Holds one trainer process: starts it so that it cannot outlive the worker, watches its limits, ends its tree.

A `TrainerRun` does nothing by itself; it moves when `poll` is called, several times a second. That keeps
all decisions in one thread and lets tests (and later a process that guards the lease's deadline) drive it.
How a tree is started, signalled and reaped is the operating system's part: `guard_posix`, `guard_windows`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from cis490.clock import Clock
from training.fleet.capability import CODE_ROOT
from training.fleet.outcome import EndReason, ProgressReader, RunResult, clean
from training.fleet.wire import Progress

if sys.platform == "win32":
    from training.fleet.guard_windows import ProcessTree, kill_marked
else:
    from training.fleet.guard_posix import ProcessTree, kill_marked

RunState = Literal["running", "ending", "ended"]

MARK = "CIS490_ATTEMPT"
"""Environment variable by which a trainer's processes are known after their worker was killed."""
SECRETS = ("CIS490_OPERATOR_TOKEN",)
"""Variables that a trainer has no business with."""
GRACE_S = 30.0
"""From SIGTERM to SIGKILL: time to finish a step (and, once trainers can, to write a checkpoint)."""
AWAY_S = 30.0
"""When two polls are further apart, this process slept (a closed laptop) and so, most likely, did the trainer."""
STDERR_BYTES = 8 * 1024
BLOCK_BYTES = 1024 * 1024
_SIGKILL = 9


@dataclass(frozen=True, slots=True)
class TrainerCommand:
    """What to start and which limits it has."""

    argv: Sequence[str]
    """Program (absolute path) and arguments."""
    progress_file: Path
    mark: str
    """Value of `MARK`: names the attempt."""
    timeout_s: float | None = None
    stall_s: float | None = None
    grace_s: float = GRACE_S


class TrainerRun:
    """A trainer from its start to its result. Start it from the main thread (see `guard_exec`).

    `oom_kills` reads how many processes the kernel's out-of-memory killer has ended, None if unknown.
    Raises OSError when the process cannot be started.
    """

    def __init__(
        self, command: TrainerCommand, *, clock: Clock, oom_kills: Callable[[], int | None] | None = None
    ) -> None:
        self._command = command
        self._clock = clock
        self._oom_kills = oom_kills or count_oom_kills
        self._oom_kills_before = self._oom_kills()
        self._progress = ProgressReader()
        self._progress_at = 0
        self._ended_by: EndReason | None = None
        self._limit_s: float | None = None
        self._kill_at_s: float | None = None
        self._was_killed = False
        self._result: RunResult | None = None
        env = {key: value for key, value in os.environ.items() if key not in SECRETS}
        self._tree = ProcessTree(command.argv, CODE_ROOT, {**env, MARK: command.mark})
        self._stderr = _Tail(self._tree.stderr)
        self._started_s = self._alive_s = self._polled_s = clock.now_s()

    @property
    def pid(self) -> int:
        """Of the trainer itself."""
        return self._tree.pid

    @property
    def progress(self) -> Progress | None:
        """The latest line that says how far the training is, as of the last poll."""
        return self._progress.latest

    def poll(self) -> RunState:
        """Look at the process and its progress, and enforce the limits. Cheap; call it several times a second."""
        if self._result is not None:
            return "ended"
        now = self._clock.now_s()
        self._forgive_absence(now)
        has_ended = self._tree.has_ended()  # asked first: what it wrote before its end is then complete
        if self._read_progress():
            self._alive_s = now
        if has_ended:
            self._result = self._finish(now)
            return "ended"
        self._enforce(now)
        return "running" if self._ended_by is None else "ending"

    def terminate(self, reason: EndReason = "asked") -> None:
        """Ask the tree to stop; `poll` kills what is left of it after the grace. Only the first reason counts."""
        if self._ended_by is None and self._result is None:
            self._ended_by = reason
            self._kill_at_s = self._clock.now_s() + self._command.grace_s
            self._tree.ask_to_stop()

    def kill(self) -> None:
        """End the tree now; `poll` then reports its end. May be called from a signal handler, and twice."""
        if self._result is None:
            self._ended_by = self._ended_by or "asked"
            self._was_killed = True
            self._tree.kill()

    def result(self) -> RunResult:
        """How it ended. RuntimeError before `poll` said "ended"."""
        if self._result is None:
            raise RuntimeError(f"the trainer with pid {self.pid} has not ended yet; poll() until it has")
        return self._result

    def _forgive_absence(self, now: float) -> None:
        away = now - self._polled_s
        if away > AWAY_S:
            self._started_s += away
            self._alive_s += away
        self._polled_s = now

    def _enforce(self, now: float) -> None:
        limits = (
            ("timeout", self._command.timeout_s, self._started_s),
            ("stalled", self._command.stall_s, self._alive_s),
        )
        for reason, limit_s, since_s in limits:
            if self._ended_by is None and limit_s is not None and now - since_s > limit_s:
                self._limit_s = limit_s
                self.terminate("timeout" if reason == "timeout" else "stalled")
        if self._kill_at_s is not None and now >= self._kill_at_s:
            self._was_killed = True
            self._tree.kill()

    def _finish(self, now: float) -> RunResult:
        self._tree.kill()  # whatever the trainer started and left behind
        end = self._tree.reap()
        killed_from_outside = end.signal_number == _SIGKILL and not self._was_killed
        return RunResult(
            exit_code=end.exit_code,
            signal_number=end.signal_number,
            ended_by=self._ended_by,
            limit_s=self._limit_s,
            oom_killed=killed_from_outside and self._kernel_was_out_of_memory(),
            duration_s=now - self._started_s,
            peak_rss_mib=end.peak_rss_mib,
            cpu_s=end.cpu_s,
            stderr=clean(self._stderr.close()),
            metrics=self._progress.metrics,
        )

    def _kernel_was_out_of_memory(self) -> bool:
        before, after = self._oom_kills_before, self._oom_kills()
        # Without the counter, memory is by far the likeliest reason for a SIGKILL from outside.
        return before is None or after is None or after > before

    def _read_progress(self) -> bool:
        try:
            with self._command.progress_file.open("rb") as file:
                file.seek(self._progress_at)
                alive = False
                while block := file.read(BLOCK_BYTES):
                    self._progress_at += len(block)
                    alive |= self._progress.feed(block)
                return alive
        except OSError:  # not there yet
            return False


class _Tail:
    """Reads a pipe in a thread, so that its writer never waits, and keeps the end of what came."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, name="trainer-stderr", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while block := os.read(self._stream.fileno(), STDERR_BYTES):
                self._kept += block
                del self._kept[:-STDERR_BYTES]

    def close(self) -> bytes:
        """What was kept, once the writers have ended; a survivor that holds the pipe open is waited for 1 s."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._stream.close()
        return bytes(self._kept)


def count_oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """Processes that the kernel's out-of-memory killer has ended since boot, cgroup limits included; Linux only."""
    try:
        lines = vmstat.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts and counts[0].isdecimal() else None


__all__ = ["MARK", "RunState", "TrainerCommand", "TrainerRun", "count_oom_kills", "kill_marked"]
