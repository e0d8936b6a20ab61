"""Space put aside for the hour in which the disk is full.

SQLite needs room even to delete: on a full disk no verb of an operator works any more, least of all the one that
would help. So a file of `BALLAST_BYTES` lies beside the database, really allocated. When a commit fails for want of
space it is given up: what must go on (ending attempts, operator verbs) goes on in the space it held, what can wait
(claims, uploads) is refused in words until there is room again and the ballast is restored.
"""

import contextlib
import errno
import logging
import os
import threading
from pathlib import Path

from cis490.failpoints import failpoint
from cis490.files import create_exclusive, free_bytes, fsync_folder
from cis490.logs import event

BALLAST_BYTES = 32 * 1024 * 1024
_BLOCK = bytes(1024 * 1024)
_SQLITE_FULL = 13  # https://www.sqlite.org/rescode.html#full; the low byte of an extended code
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, says that the disk (or a quota) is full."""
    while error is not None:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(code, int) and code & 0xFF == _SQLITE_FULL:
            return True
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


class Ballast:
    """One file of `size_bytes`; construction does no I/O. Safe to use from several threads.

    Begins as not held: call `restore` at the start and from time to time. It fills the disk no further than half of
    what is free, so that restoring it is never what makes the disk full.
    """

    def __init__(self, path: Path, *, size_bytes: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._held = False

    @property
    def is_held(self) -> bool:
        """Whether ordinary work may go on. Reads memory only."""
        return self._held

    @property
    def refusal(self) -> str:
        """For whoever is refused while it is not held. Reads memory only."""
        return (
            f"the disk of {self._path.parent} is full: no job is handed out and no upload taken until "
            f"{2 * self._size_bytes} bytes are free there. Results, heartbeats and operator verbs go on. The operator "
            "must free space (`df -h` shows where it is short); nothing needs a restart."
        )

    def restore(self) -> bool:
        """Have the file, if there is room; whether it is held now. Blocking I/O; raises nothing of the disk's."""
        with self._lock:
            was_held = self._held
            try:
                if was_held and self._is_whole():
                    return True
                self._held = False
                self._held = self._is_whole() or self._allocate()
            except OSError as error:
                self._held = False
                event(_log, "ballast.missing", level=logging.WARNING, path=self._path, reason=error)
            else:
                if self._held:
                    event(_log, "ballast.restored", path=self._path, bytes=self._size_bytes)
                elif was_held:
                    event(_log, "ballast.missing", level=logging.WARNING, path=self._path, reason="no room")
            return self._held

    def give_up(self) -> bool:
        """Free the space after a write that failed for want of it: True if there was any, so that a second try makes
        sense. From now on `is_held` is false. Blocking I/O; raises nothing of the disk's."""
        with self._lock:
            self._held = False
            try:
                size_bytes = self._path.stat().st_size
                failpoint("ballast.before_give_up")
                self._path.unlink()
                fsync_folder(self._path.parent)  # a journal may hold freed blocks back until it is written
                failpoint("ballast.given_up")
            except FileNotFoundError:
                return False
            except OSError as error:
                event(_log, "ballast.stuck", level=logging.ERROR, path=self._path, reason=error)
                return False
            event(_log, "ballast.given_up", level=logging.ERROR, path=self._path, bytes=size_bytes)
            return True

    def _is_whole(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        allocated = getattr(found, "st_blocks", None)  # Windows has no such field, and no holes unless asked
        return found.st_size == self._size_bytes and (
            allocated is None or allocated * 512 >= self._size_bytes
        )

    def _allocate(self) -> bool:
        self._path.unlink(missing_ok=True)
        if free_bytes(self._path.parent) < 2 * self._size_bytes:
            return False
        try:
            descriptor = create_exclusive(self._path, 0o600)
            try:
                failpoint("ballast.created")
                _reserve(descriptor, self._size_bytes)
                os.fsync(descriptor)
                failpoint("ballast.allocated")
            finally:
                os.close(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise
        return True


def _reserve(descriptor: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
        return
    left = size_bytes
    while left > 0:
        left -= os.write(descriptor, _BLOCK[:left])
