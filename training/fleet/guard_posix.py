"""A trainer's process tree on Linux and other Unix systems: a session of its own, and on Linux all its descendants."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from training.fleet.guard_wire import ProcessEnd

assert sys.platform != "win32"  # tells the type checker which system this file is for

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
PARENT_GONE = 75
"""EX_TEMPFAIL: the guard died before the wish was made; nobody is left to read this."""
OOM_SCORE = 600
"""Of 1000 (proc_pid_oom_score_adj(5)): when memory runs out, the trainer goes before its guard and its worker."""
PASSES = 20
"""How often a tree is looked through again because it went on growing."""
SETTLE_S = 1.0
"""How long the killed are waited for."""
_STOPPED, _DEAD = ("T", "t"), ("Z", "X")


@dataclass(frozen=True, slots=True)
class Member:
    """One process, as /proc/PID/stat shows it."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    rss_pages: int


class ProcessTree:
    """One trainer and whatever it starts.

    With `adopts`, this process takes in every descendant whose parent has ended (PR_SET_CHILD_SUBREAPER), so that
    none gets out of sight by a double fork; it must then have no other children. Start it from the main thread,
    before there is another one: the kernel ends the trainer when the *thread* that started it ends.
    """

    def __init__(
        self, argv: Sequence[str], cwd: str, env: Mapping[str, str], *, adopts: bool = False
    ) -> None:
        self._adopts = adopts and sys.platform == "linux"
        if self._adopts:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            preexec_fn=_last_will(os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509
        )
        self._is_reaped = False
        self._cpu_s = 0.0
        self._peak_bytes = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    def has_ended(self) -> bool:
        """Whether the trainer itself has ended; it stays a zombie, so that its group's number is not given away."""
        return self._is_reaped or self._look(os.WNOHANG)

    def wait_end(self) -> None:
        """Block until `has_ended`; for a thread that tells the others."""
        with contextlib.suppress(ChildProcessError):  # has_ended was faster
            self._look(0)

    def ask_to_stop(self) -> None:
        """SIGTERM to the whole group."""
        self._signal_group(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP to every process of the tree; again for those that somebody has woken since."""
        self._signal_group(signal.SIGSTOP)
        self._signal_all(signal.SIGSTOP, lambda one: one.state not in _STOPPED)

    def thaw(self) -> None:
        """SIGCONT to every process of the tree."""
        self._signal_group(signal.SIGCONT)
        self._signal_all(signal.SIGCONT, lambda one: True)

    def kill(self) -> None:
        """SIGKILL to every process of the tree."""
        self._signal_group(signal.SIGKILL)
        self._signal_all(signal.SIGKILL, lambda one: True)

    def sample(self) -> None:
        """Note how much memory the tree takes now; reap adopted processes that have ended."""
        resident = 0
        for one in self._members():
            resident += one.rss_pages
            if one.state == "Z" and one.parent == os.getpid() and one.pid != self.pid and self._adopts:
                self._reap_one(one.pid)
        self._peak_bytes = max(self._peak_bytes, resident * os.sysconf("SC_PAGE_SIZE"))

    def reap(self) -> ProcessEnd:
        """Take the exit status and the resources used by the tree; only after `has_ended` and `kill`, and once."""
        _, status, usage = os.wait4(self.pid, 0)
        self._is_reaped = True
        self._count(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # else Popen would wait for a process that is gone
        end = time.monotonic() + SETTLE_S
        while self._adopts and self._reap_one(-1) and time.monotonic() < end:
            pass
        return ProcessEnd(
            exit_code=code if code >= 0 else None,
            signal_number=-code if code < 0 else None,
            peak_rss_mib=round(self._peak_bytes / 2**20, 1),
            cpu_s=round(self._cpu_s, 3),
        )

    def _reap_one(self, pid: int) -> bool:
        """Reap an adopted child (-1: any); False when there is none left."""
        try:
            found, _, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        if found:
            self._count(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
        elif pid == -1:
            time.sleep(0.002)
        return True

    def _count(self, max_rss: int, cpu_s: float) -> None:
        self._peak_bytes = max(self._peak_bytes, max_rss * (1 if sys.platform == "darwin" else 1024))
        self._cpu_s += cpu_s

    def _look(self, options: int) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | options) is not None

    def _signal_group(self, number: int) -> None:
        # Once reaped, the number may belong to somebody else's group.
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _signal_all(self, number: int, is_due: Callable[[Member], bool]) -> None:
        """Also to those that left the group, until a look finds nobody new: a process may fork meanwhile."""
        told: set[int] = set()
        for _ in range(PASSES if not self._is_reaped else 0):
            new = [one.pid for one in self._members() if one.pid not in told and is_due(one)]
            if not new:
                return
            for pid in new:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            told.update(new)

    def _members(self) -> list[Member]:
        """The living of the tree, and the adopted zombies; empty where there is no /proc."""
        return tree_of(processes(), self.pid, adopter=os.getpid() if self._adopts else None)


def tree_of(found: Iterable[Member], root: int, adopter: int | None = None) -> list[Member]:
    """The processes of `root`'s session and group, its descendants, and those of `adopter` (without itself). Pure."""
    everybody = list(found)
    roots = {root} if adopter is None else {root, adopter}
    inside = {one.pid for one in everybody if root in (one.group, one.session)} | roots
    grew = True
    while grew:
        new = {one.pid for one in everybody if one.parent in inside} - inside
        inside |= new
        grew = bool(new)
    inside.discard(adopter if adopter is not None else -1)
    return [
        one for one in everybody if one.pid in inside and (one.state not in _DEAD or one.parent == adopter)
    ]


def processes() -> list[Member]:
    """Everybody on this machine; a process that ends meanwhile may be missing. Empty outside Linux."""
    found: list[Member] = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                words = file.read().rpartition(b")")[2].split()
                if len(words) > 21:
                    found.append(
                        Member(
                            int(name), words[0].decode(), int(words[1]), int(words[2]), int(words[3]),
                            int(words[21]),
                        )
                    )  # fmt: skip
    return found


def _last_will(parent: int) -> Callable[[], None]:
    """What the trainer does between fork and exec: die when the guard dies, and be the first to go for memory.

    Everything is loaded before the fork, and the guard has one thread, so nothing can be locked for ever.
    """
    prctl = ctypes.CDLL(None).prctl
    score = f"{OOM_SCORE}".encode()

    def make() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(PARENT_GONE)
        with contextlib.suppress(OSError):
            descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(descriptor, score)
            os.close(descriptor)

    return make


def kill_marked(variable: str, values: frozenset[str]) -> list[int]:
    """SIGKILL every process whose environment has `variable` set to one of `values`; returns their pids.

    Finds what a killed worker or guard has left behind wherever it moved to, and cannot hit a stranger that was
    given an old pid. Looks until nobody is left: on return they have ended (a process that hangs in the kernel is
    waited for one second). Only Linux shows environments; elsewhere nothing is done.
    """
    wanted = {f"{variable}={value}".encode() for value in values}
    killed: list[int] = []
    end = time.monotonic() + SETTLE_S
    while wanted and sys.platform == "linux":
        found = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _has(pid, wanted)]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in found if pid not in killed]
        if not found or time.monotonic() > end:
            break
        time.sleep(0.002)
    return killed


def _has(pid: int, wanted: set[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return not wanted.isdisjoint(file.read().split(b"\0"))
    except OSError:  # it has ended meanwhile, or is somebody else's
        return False
