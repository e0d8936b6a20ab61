"""The only door through which a workload touches the machine, and the bounds it cannot pass.

Files     one flat folder made here, with a marker file that is checked before every change; plain names only,
          links never followed; a budget of bytes
Network   127.0.0.1 only
Processes a budget of children at once and in all; each ends itself when its time is over
Time      every wait ends at the deadline; an alarm of the kernel ends a process that does not stop by itself
Content   overwriting uses random bytes of the operating system: no key, nothing to undo, nothing renamed
"""

import encodings.idna  # noqa: F401  the first connection would load it inside the episode
import ipaddress
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARKER: Final = ".cis490-sandbox"
LOOPBACK: Final = "127.0.0.1"
_MARKER_TEXT: Final = (
    b"Files of a CIS490 workload. This folder is made, rewritten and deleted by the recorder.\n"
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALARM_GRACE_S: Final = 2

SHORT_PROGRAM: Final = (
    "import sys, hashlib\n"
    "n = int(sys.argv[1])\n"
    "text = '\\n'.join(f'def f{i}(x):\\n    return x * {i} + {i}' for i in range(n))\n"
    "hashlib.sha256(repr(compile(text, 'made', 'exec')).encode() + text.encode()).digest()\n"
)
"""The one program that workloads start: compiles `n` small functions made in memory and hashes their text."""


class SandboxError(Exception):
    """A workload tried what the sandbox does not allow. This is a bug in the workload: the episode is void."""


class BudgetSpent(Exception):
    """Bytes or processes are used up. The workload stops early and waits for the end of the episode."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`wall_s` counts from `Sandbox` creation; `children` at once, `starts` in all."""

    write_bytes: int
    children: int
    starts: int
    wall_s: float


def make_folder(parent: Path | None = None) -> Path:
    """A new marked folder in `parent` (default: the system's folder for temporary files)."""
    folder = Path(tempfile.mkdtemp(prefix="cis490-workload-", dir=parent))
    (folder / MARKER).write_bytes(_MARKER_TEXT)
    return folder


def check_folder(folder: Path) -> None:
    """Raises `SandboxError` unless `folder` is one that `make_folder` made."""
    marker = folder / MARKER
    if (
        folder.is_symlink()
        or marker.is_symlink()
        or not marker.is_file()
        or marker.read_bytes() != _MARKER_TEXT
    ):
        raise SandboxError(f"{folder}: no {MARKER} file of ours; this folder was not made by the recorder")


def remove_folder(folder: Path) -> None:
    """Delete a marked folder: its files by name, the marker last. Anything unexpected in it stops the deletion."""
    check_folder(folder)
    for entry in list(os.scandir(folder)):
        if entry.name == MARKER:
            continue
        if not entry.is_file(follow_symlinks=False):
            raise SandboxError(f"{entry.path}: not a plain file; look at the folder and delete it by hand")
        os.unlink(entry.path)
    os.unlink(folder / MARKER)
    os.rmdir(folder)


def check_address(address: str) -> None:
    """Raises `SandboxError` for every address but 127.0.0.1; names are refused, so nothing is looked up."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise SandboxError(f"{address!r} is not an IP address; workloads may only use {LOOPBACK}") from error
    if str(parsed) != LOOPBACK:
        raise SandboxError(f"{address} refused: workloads may only use {LOOPBACK}")


class Sandbox:
    """What one workload process may do. `stretch` lengthens its waits: background tasks run at a lower rate."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        *,
        stretch: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_folder(folder)
        self._folder, self._limits, self._stretch = folder, limits, stretch
        self._clock, self._sleep = clock, sleep
        self._written, self._starts = 0, 0
        self._children: set[int] = set()
        self._ramp_until = 0.0
        self.deadline = clock() + limits.wall_s

    # Time

    @property
    def running(self) -> bool:
        """False once the workload's time is over; its loop ends then."""
        return self._clock() < self.deadline

    def ramp(self, seconds: float) -> None:
        """The onset: for the next `seconds`, waits are twice as long."""
        self._ramp_until = self._clock() + seconds

    def pause(self, seconds: float) -> None:
        """Wait, at most until the deadline; collect ended children."""
        now = self._clock()
        factor = self._stretch * (2.0 if now < self._ramp_until else 1.0)
        self._sleep(max(0.0, min(seconds * factor, self.deadline - now)))
        self._reap(block=False)

    # Files

    def path(self, name: str) -> Path:
        """The path of a file of ours. Raises `SandboxError` for anything but a plain name."""
        if not _NAME.fullmatch(name):
            raise SandboxError(f"file name {name!r} refused: plain names only, no folders")
        check_folder(self._folder)
        path = self._folder / name
        if path.is_symlink():
            raise SandboxError(f"{path}: is a link; workloads never follow links")
        return path

    def charge(self, size_bytes: int) -> None:
        """Take `size_bytes` off the write budget before writing them. Raises `BudgetSpent`."""
        if self._written + size_bytes > self._limits.write_bytes:
            raise BudgetSpent(f"wrote {self._written} bytes of {self._limits.write_bytes}")
        self._written += size_bytes

    def write(self, name: str, data: bytes, *, offset: int | None = None, sync: bool = False) -> None:
        """Append `data` to the file, or put it at `offset`; with `sync` it is on disk when this returns."""
        path = self.path(name)
        self.charge(len(data))
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags | (os.O_APPEND if offset is None else 0), 0o600)
        try:
            if offset is None:
                os.write(fd, data)
            else:
                os.pwrite(fd, data, offset)
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def read(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` of the file at `offset`; empty past its end."""
        fd = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(fd, size_bytes, offset)
        finally:
            os.close(fd)

    def delete(self, name: str) -> None:
        """Delete one of our files; a missing one is fine."""
        self.path(name).unlink(missing_ok=True)

    def size_bytes(self, name: str) -> int:
        """Size of the file, 0 when missing."""
        path = self.path(name)
        return path.stat().st_size if path.exists() else 0

    @staticmethod
    def random_bytes(size_bytes: int) -> bytes:
        """Random bytes of the operating system: no key exists, so nothing can be undone or demanded."""
        return os.urandom(size_bytes)

    # Network

    def listen(self, address: str = LOOPBACK) -> socket.socket:
        """A listening TCP socket on a free port of 127.0.0.1; `accept` wakes up at least twice a second."""
        check_address(address)
        listener = socket.create_server((address, 0), backlog=64)
        listener.settimeout(0.5)
        return listener

    def connect(self, port: int, address: str = LOOPBACK, timeout_s: float = 1.0) -> socket.socket | None:
        """A TCP connection to a port of 127.0.0.1, or None when nothing answers there."""
        check_address(address)
        try:
            return socket.create_connection((address, port), timeout=timeout_s)
        except OSError:
            return None

    # Processes

    def spawn(self, work: Callable[["Sandbox"], None]) -> int:
        """Fork a child that runs `work` with a sandbox without write or process budget; returns its pid."""
        self._take_process()
        limits = Limits(write_bytes=0, children=0, starts=0, wall_s=max(0.0, self.deadline - self._clock()))
        pid = fork(lambda: work(Sandbox(self._folder, limits, stretch=self._stretch)), limits.wall_s)
        self._children.add(pid)
        return pid

    def run_short(self, amount: int, *, wait: bool) -> None:
        """Start a short program that compiles `amount` functions; with `wait`, return when it has ended."""
        self._take_process()
        command = [sys.executable, "-I", "-S", "-c", SHORT_PROGRAM, str(amount)]
        # posix_spawn, not Popen: Popen objects would complain about children that `_reap` has waited for.
        pid = os.posix_spawn(sys.executable, command, {"PATH": os.environ.get("PATH", "")})
        self._children.add(pid)
        if wait:
            os.waitpid(pid, 0)
            self._children.discard(pid)

    def close(self) -> None:
        """End all children that still run and wait for them."""
        self._reap(block=False)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        self._reap(block=True)

    def _take_process(self) -> None:
        self._reap(block=False)
        while len(self._children) >= self._limits.children > 0 and self.running:
            self._sleep(0.005)
            self._reap(block=False)
        if self._starts >= self._limits.starts or len(self._children) >= self._limits.children:
            raise BudgetSpent(f"started {self._starts} processes of {self._limits.starts}")
        self._starts += 1

    def _reap(self, *, block: bool) -> None:
        for pid in list(self._children):
            ended, _ = os.waitpid(pid, 0 if block else os.WNOHANG)
            if ended:
                self._children.discard(pid)


def fork(work: Callable[[], None], wall_s: float) -> int:
    """Fork a process that runs `work` and exits: 0, or 1 with the traceback on standard error.

    Ends by itself: an alarm of the kernel fires 2 s after `wall_s`. Call it from a process without threads only.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(int(wall_s) + 1 + _ALARM_GRACE_S)
        work()
        code = 0
    except BudgetSpent:
        code = 0
    except BaseException:  # noqa: BLE001  nothing may unwind into the parent's code, which this process copied
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
