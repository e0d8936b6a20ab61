"""Files that are either there whole or not there, also after a power cut.

The order is always the same: write a temporary file in the target's folder, fsync it, rename it over the target,
fsync the folder. Without the first fsync the name can survive a power cut and the content be lost; without the
second the name can be lost after the caller was told that the file is there.
"""

import contextlib
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_WRITE = os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_CREATE = os.O_CREAT | os.O_EXCL | _WRITE


def is_safe_name(name: object) -> bool:
    """Whether `name` may become part of a path: `[A-Za-z0-9._-]{1,64}` without a leading dot."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def temporary_name(path: Path) -> Path:
    """A fresh hidden name beside `path`: the same folder, so that a rename to `path` is one step."""
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.tmp")


def create_exclusive(path: Path, mode: int = 0o644) -> int:
    """A file descriptor for writing a file that did not exist; FileExistsError otherwise (a link counts too).

    `mode` is narrowed by the process's umask, as for any new file.
    """
    return os.open(path, _CREATE, mode)


def open_append(path: Path) -> int:
    """A file descriptor that writes at the end of `path`, created if it was not there."""
    return os.open(path, os.O_CREAT | os.O_APPEND | _WRITE, 0o644)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`: one call may take less of it, as on a disk that is nearly full."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_data(descriptor: int) -> None:
    """Wait until the file's content, and the size needed to read it, is on disk."""
    if sys.platform in ("win32", "darwin"):
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def fsync_folder(path: Path) -> None:
    """Wait until the names in folder `path` are on disk. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Create folder `path` and its missing parents, each name on disk before the next. No error if it is there."""
    missing: list[Path] = []
    at = path
    while not at.is_dir() and at != at.parent:  # a missing Windows drive is its own parent
        missing.append(at)
        at = at.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by a file holding `data`: readers see the old content or the new one, never a part.

    On return the new file survives a power cut. On any error `path` is as it was and nothing is left beside it.
    """
    temporary = temporary_name(path)
    descriptor = create_exclusive(temporary, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def free_bytes(path: Path) -> int:
    """Space that an unprivileged process may still fill on the file system of `path`, which must exist."""
    return shutil.disk_usage(path).free
