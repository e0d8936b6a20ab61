"""A trainer's process tree on Linux and other Unix systems: a session of its own that is signalled as a group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from training.fleet.outcome import ProcessEnd

assert sys.platform != "win32"  # tells the type checker which system this file is for


class ProcessTree:
    """One trainer and whatever it starts, as long as that stays in its session."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        """Start `argv` (absolute program first). Call it from the main thread, see `training.fleet.guard_exec`."""
        command = list(argv)
        if sys.platform == "linux":
            command = [sys.executable, "-m", "training.fleet.guard_exec", str(os.getpid()), *command]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
        self._is_reaped = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    def has_ended(self) -> bool:
        """Whether the trainer itself has ended; it stays a zombie, so that its group's number is not given away."""
        if self._is_reaped:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_stop(self) -> None:
        """SIGTERM to the whole group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole group. May be called from a signal handler."""
        self._signal(signal.SIGKILL)

    def reap(self) -> ProcessEnd:
        """Take the exit status and the resources used; only after `has_ended`, and once."""
        _, status, usage = os.wait4(self.pid, 0)
        self._is_reaped = True
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # else Popen would wait for a process that is gone
        peak_kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
        return ProcessEnd(
            exit_code=code if code >= 0 else None,
            signal_number=-code if code < 0 else None,
            peak_rss_mib=round(peak_kib / 1024, 1),
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        )

    def _signal(self, number: int) -> None:
        # Once reaped, the number may belong to somebody else's group.
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def kill_marked(variable: str, values: frozenset[str]) -> list[int]:
    """SIGKILL every process whose environment has `variable` set to one of `values`; returns their pids.

    Finds what a killed worker's trainer has left behind wherever it moved to, and cannot hit a stranger
    that was given an old pid. Only Linux shows environments; elsewhere nothing is done.
    """
    wanted = {f"{variable}={value}".encode() for value in values}
    killed: list[int] = []
    for folder in Path("/proc").glob("[0-9]*") if wanted and sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if wanted.intersection((folder / "environ").read_bytes().split(b"\0")):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
    return killed
