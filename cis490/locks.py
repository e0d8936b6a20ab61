"""A lock that one process on this machine holds, by an open file; it ends with the process, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCK_AT = 1 << 30  # Windows locks hide bytes from readers, so ours lies far behind the pid


class Held(Exception):
    """Another process holds the lock. `pid` is what it wrote into the file, or "unknown"."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(f"{path} is held by another process (pid {pid})")
        self.pid = pid


def holder(path: Path) -> str | None:
    """Who holds the lock file `path`: the pid that stands in it, "unknown" if none does; None when nobody holds it, or
    there is no such file. Changes nothing. Raises OSError for a file that cannot be read.

    Where the system tells who holds what, it is asked. Elsewhere the lock is tried for an instant.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            pid = file.read(16).strip() or "unknown"
            listed = _is_listed(os.fstat(file.fileno()).st_ino)
            if listed is None:
                listed = not _lock(file)
            return pid if listed else None
    except FileNotFoundError:
        return None


def _is_listed(inode: int) -> bool | None:
    """Does Linux list a lock on this file? None: not told here."""
    try:
        text = Path("/proc/locks").read_text("ascii")
    except OSError:
        return None
    return any(
        line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}") for line in text.splitlines()
    )


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (created if it is not there) for this process; raises Held at once otherwise."""
    with open(path, "a+", encoding="ascii") as file:
        if not _lock(file):
            file.seek(0)
            raise Held(path, file.read(16).strip() or "unknown")
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> bool:
        file.seek(_LOCK_AT)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
