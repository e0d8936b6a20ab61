"""Looking at real processes in tests, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 15.0


def state_of(pid: int) -> str:
    """As proc_pid_stat(5) has it: R, S, T (stopped), Z (zombie), ...; X when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie has ended and only waits to be asked for its exit code."""
    return state_of(pid) not in ("Z", "X")


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Look again and again, since no event tells about other processes."""
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.005)


def pid_in(path: Path) -> int:
    """The pid that a process writes into `path`, once it has."""
    wait_until(path.exists, str(path))
    return int(path.read_text())
