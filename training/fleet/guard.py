"""Holds one trainer process: starts it, keeps it inside its lease and its limits, ends its tree.

A `TrainerRun` does nothing by itself; it moves when `poll` is called, several times a second. So all decisions are
made in one thread, by `guard_rules.decide`, and tests drive them by a clock of theirs. How a tree is started,
signalled and reaped is the operating system's part: `guard_posix`, `guard_windows`. The program around it, a
process for each job, is `guard_main`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Literal

from cis490.clock import Clock
from cis490.failpoints import failpoint
from training.fleet.guard_rules import EndReason, Moment, decide, margin_s
from training.fleet.guard_wire import MARK, SECRETS, Lines, TrainerCommand, TrainerEnd, boot_id, read_newest
from training.fleet.trainer_log import TrainerLog

if sys.platform == "win32":
    from training.fleet.guard_windows import ProcessTree
else:
    from training.fleet.guard_posix import ProcessTree

RunState = Literal["running", "frozen", "ending", "ended"]

AWAY_S = 10.0
"""When two polls are further apart, this process slept (a closed laptop) and so, most likely, did the trainer."""
SAMPLE_S = 1.0
SAMPLE_SHARE = 100
"""A look at the tree's memory may take one part of so many of the time, on a machine with thousands of processes."""
STDERR_BYTES = 8 * 1024
_SIGKILL = 9


class TrainerRun:
    """A trainer from its start to its end. Start it from the main thread, before there are others.

    `oom_kills` reads how many processes the kernel's out-of-memory killer has ended, None if unknown. `adopts`: see
    `guard_posix.ProcessTree`. Raises OSError when the process cannot be started.
    """

    def __init__(
        self,
        command: TrainerCommand,
        *,
        clock: Clock,
        oom_kills: Callable[[], int | None] | None = None,
        adopts: bool = False,
    ) -> None:
        self._command = command
        self._clock = clock
        self._oom_kills = oom_kills or count_oom_kills
        self._oom_kills_before = self._oom_kills()
        self._freeze_at_s = freeze_at_s(command, command.deadline_s)
        self._progress = Lines()
        self._progress_at = 0
        self._ended_by: EndReason | None = None
        self._limit_s: float | None = None
        self._kill_at_s: float | None = None
        self._frozen_since_s: float | None = None
        self._frozen_s = 0.0
        self._was_killed = False
        self._end: TrainerEnd | None = None
        env = {key: value for key, value in os.environ.items() if key not in SECRETS}
        # Else what it prints would come in blocks of 8 KiB, much later.
        env.setdefault("PYTHONUNBUFFERED", "1")
        self._tree = ProcessTree(command.argv, command.cwd, {**env, MARK: command.mark}, adopts=adopts)
        self._log = TrainerLog(command.log_folder, clock)
        self._stderr = _Tail(self._tree.stderr, self._log)
        self._stdout = _Tail(self._tree.stdout, self._log)
        self._started_s = self._alive_s = self._polled_s = clock.now_s()
        self._sample_at_s = 0.0

    @property
    def pid(self) -> int:
        """Of the trainer itself."""
        return self._tree.pid

    @property
    def frozen_s(self) -> float:
        """How long it was frozen, up to the last thaw."""
        return self._frozen_s

    def wait_end(self) -> None:
        """Block until the trainer itself has ended; for a thread of its own."""
        self._tree.wait_end()

    def confirm(self, deadline_s: float) -> None:
        """The lease holds until `deadline_s` (sooner than before, if leases have become shorter); `poll` acts on it."""
        self._freeze_at_s = freeze_at_s(self._command, deadline_s)

    def poll(self) -> RunState:
        """Look at the process and its progress, and enforce lease and limits. Cheap; call it several times a second."""
        if self._end is not None:
            return "ended"
        now = self._clock.now_s()
        self._forgive_absence(now)
        has_ended = self._tree.has_ended()  # asked first: what it wrote before its end is then complete
        if self._read_progress():
            self._alive_s = now
        if has_ended:
            self._end = self._finish(now)
            return "ended"
        self._enforce(now)
        self._sample(now)
        if self._ended_by is not None:
            return "ending"
        return "running" if self._frozen_since_s is None else "frozen"

    def terminate(self, reason: EndReason = "asked") -> None:
        """Ask the tree to stop; `poll` kills what is left after the grace, or at once outside the lease.

        Only the first reason counts.
        """
        if self._ended_by is None and self._end is None:
            now = self._clock.now_s()
            self._ended_by = reason
            self._kill_at_s = now + self._command.grace_s
            self._tree.ask_to_stop()
            if self._frozen_since_s is not None:
                self._enforce(now)

    def kill(self) -> None:
        """End the tree now; `poll` then reports its end. May be called twice."""
        if self._end is None:
            self._ended_by = self._ended_by or "asked"
            self._was_killed = True
            self._tree.kill()

    def end(self) -> TrainerEnd:
        """How it ended. RuntimeError before `poll` said "ended"."""
        if self._end is None:
            raise RuntimeError(f"the trainer with pid {self.pid} has not ended yet; poll() until it has")
        return self._end

    def _forgive_absence(self, now: float) -> None:
        away = now - self._polled_s
        if away > AWAY_S and self._frozen_since_s is None:
            self._started_s += away
            self._alive_s += away
        self._polled_s = now

    def _enforce(self, now: float) -> None:
        limits = self._command.limits
        at = Moment(
            now, self._freeze_at_s, self._started_s, self._alive_s, self._frozen_since_s, self._kill_at_s
        )
        match decide(at, limits):
            case "nothing":
                if self._frozen_since_s is not None and now >= self._sample_at_s:
                    self._tree.freeze()  # somebody may have woken a part of it
            case "freeze":
                self._tree.freeze()
                self._frozen_since_s = now
                failpoint("guard.frozen")
            case "thaw":
                self._thaw(now)
            case "kill":
                self.kill()
            case "timeout":
                self._end_for("timeout", limits.timeout_s)
            case "stalled":
                self._end_for("stalled", limits.stall_s)
            case "frozen":
                self._end_for("frozen", limits.max_frozen_s)

    def _end_for(self, reason: EndReason, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self.terminate(reason)

    def _thaw(self, now: float) -> None:
        self._count_frozen(now)
        self._tree.thaw()
        failpoint("guard.thawed")

    def _count_frozen(self, now: float) -> None:
        if self._frozen_since_s is not None:
            lost = now - self._frozen_since_s
            self._frozen_s += lost
            self._started_s += lost
            self._alive_s += lost
            self._frozen_since_s = None

    def _sample(self, now: float) -> None:
        if now >= self._sample_at_s:
            self._tree.sample()
            self._sample_at_s = now + max(SAMPLE_S, SAMPLE_SHARE * (self._clock.now_s() - now))

    def _finish(self, now: float) -> TrainerEnd:
        failpoint("guard.trainer_ended")
        self._tree.kill()  # whatever the trainer started and left behind
        self._count_frozen(now)
        end = self._tree.reap()
        stderr = self._stderr.close().decode("utf-8", "replace")
        self._stdout.close()
        self._log.close()
        killed_from_outside = end.signal_number == _SIGKILL and not self._was_killed
        return TrainerEnd(
            exit_code=end.exit_code,
            signal_number=end.signal_number,
            ended_by=self._ended_by,
            limit_s=self._limit_s,
            oom_killed=killed_from_outside and self._kernel_was_out_of_memory(),
            duration_s=round(now - self._started_s, 3),
            frozen_s=round(self._frozen_s, 3),
            peak_rss_mib=end.peak_rss_mib,
            cpu_s=end.cpu_s,
            stderr=stderr,
            boot=boot_id(),
        )

    def _kernel_was_out_of_memory(self) -> bool:
        before, after = self._oom_kills_before, self._oom_kills()
        # Without the counter, memory is by far the likeliest reason for a SIGKILL from outside.
        return before is None or after is None or after > before

    def _read_progress(self) -> bool:
        """Whether the trainer has written a whole line of progress since the last look."""
        try:
            data, self._progress_at = read_newest(self._command.progress_file, self._progress_at)
        except OSError:  # not there yet
            return False
        return any(_is_object(line) for line in self._progress.feed(data))


class _Tail:
    """Reads a pipe in a thread, so that its writer never waits, and keeps the end of what came; all goes to the log."""

    def __init__(self, stream: IO[bytes], log: TrainerLog) -> None:
        self._stream = stream
        self._log = log
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, name="trainer-output", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while block := os.read(self._stream.fileno(), STDERR_BYTES):
                self._kept += block
                del self._kept[:-STDERR_BYTES]
                self._log.add(block)

    def close(self) -> bytes:
        """What was kept, once the writers have ended; a survivor that holds the pipe open is waited for 1 s."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._stream.close()
        return bytes(self._kept)


def freeze_at_s(command: TrainerCommand, deadline_s: float) -> float:
    """When a lease that ends at `deadline_s` counts as over."""
    return deadline_s if deadline_s == float("inf") else deadline_s - margin_s(command.lease_s)


def count_oom_kills(vmstat: str = "/proc/vmstat") -> int | None:
    """Processes that the kernel's out-of-memory killer has ended since boot, cgroup limits included; Linux only."""
    try:
        with open(vmstat, encoding="ascii") as file:
            counts = [line.split()[1] for line in file if line.startswith("oom_kill ")]
    except (OSError, ValueError):
        return None
    return int(counts[0]) if counts and counts[0].isdecimal() else None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
