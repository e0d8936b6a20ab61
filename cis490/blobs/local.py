"""Blobs on a local disk: `<root>/<shelf>/<sha256>/<file name>`, one copy per digest, hard links for further shelves.

An upload is written to `incoming`, made durable there, and renamed into place; so no reader ever sees a part of a
blob and no name holds anything but the content it names. One process at a time may use a root.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import BinaryIO

from cis490.blobs import BlobError, NoSpace, full_disk_is_no_space
from cis490.digest import BLOCK_BYTES, Digest, is_digest
from cis490.files import create_exclusive, free_bytes, fsync_folder, make_folders, sync_data

_SHELF = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,128}")
SYNC_EVERY_BYTES = 32 * 1024 * 1024


class LocalBlobs:
    """Blobs below `root`. Temporary files of an earlier process in `incoming` are removed at construction.

    incoming: default `<root>/.incoming`; must lie on the same file system as `root`, else BlobError.
    reserve_bytes: a write that would leave less free space raises NoSpace, so that the database beside goes on working.
    sync_every_bytes: a long upload is made durable in steps of this size. One fsync of 1 GiB at the end would stall
    every other write of the machine for more than a second.
    """

    def __init__(
        self,
        root: Path,
        *,
        incoming: Path | None = None,
        file_name: str = "blob",
        reserve_bytes: int = 0,
        sync_every_bytes: int = SYNC_EVERY_BYTES,
    ) -> None:
        self._root = root
        self._incoming = incoming if incoming is not None else root / ".incoming"
        self._file_name = file_name
        self._reserve_bytes = reserve_bytes
        self._sync_every_bytes = sync_every_bytes
        self._placing = threading.Lock()
        make_folders(self._root)
        make_folders(self._incoming)
        for stale in self._incoming.glob("upload-*.part"):
            stale.unlink()
        self._require_one_file_system()

    def create(self) -> "LocalWriter":
        """A writer; its file appears in `incoming` with the first write."""
        return LocalWriter(self, self._temporary(), self._sync_every_bytes)

    def path_of(self, digest: object) -> Path | None:
        """Where the blob lies (on any one of its shelves), None if it is not here. Costs one stat per shelf."""
        if not is_digest(digest):
            return None
        paths = (self._root / shelf / digest / self._file_name for shelf in self._shelves())
        return next((path for path in paths if path.is_file()), None)

    def size_of(self, digest: object) -> int | None:
        path = self.path_of(digest)
        return None if path is None else path.stat().st_size

    def open(self, digest: str) -> BinaryIO:
        return open(self._known(digest), "rb")

    def shelves_of(self, digest: str) -> list[str]:
        if not is_digest(digest):
            return []
        return [
            shelf for shelf in self._shelves() if (self._root / shelf / digest / self._file_name).is_file()
        ]

    def place(self, digest: str, shelf: str) -> None:
        with self._placing, full_disk_is_no_space():
            self._link(self._known(digest), self._target(digest, shelf))

    def require_space(self, size_bytes: int) -> None:
        """Raise NoSpace if `size_bytes` more would touch the reserve."""
        free = free_bytes(self._incoming)
        if free - size_bytes < self._reserve_bytes:
            raise NoSpace(
                f"{self._incoming} has {free} bytes free; {size_bytes} more would touch the reserve of "
                f"{self._reserve_bytes} bytes. Free some space: nothing needs a restart."
            )

    def adopt(self, temporary: Path, digest: Digest, shelf: str) -> bool:
        """Move a finished, durable `temporary` into place (or drop it where its content is known); True if new."""
        with self._placing:
            target = self._target(digest, shelf)
            known = self.path_of(digest)
            if known is not None:
                self._link(known, target)
                temporary.unlink()
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            self._settle(target)
            return True

    def _link(self, known: Path, target: Path) -> None:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(known, target)
            except OSError:  # FAT, some network file systems, too many links
                self._copy(known, target)
        self._settle(target)

    def _copy(self, known: Path, target: Path) -> None:
        self.require_space(known.stat().st_size)
        temporary = self._temporary()
        try:
            with open(known, "rb") as source, os.fdopen(create_exclusive(temporary), "wb") as copy:
                shutil.copyfileobj(source, copy, BLOCK_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _settle(self, target: Path) -> None:
        """Make the name durable. Also for a file that was there: a process killed between its rename and this
        call left a name that readers see and a power cut takes away."""
        for folder in (target.parent, target.parent.parent, self._root):
            fsync_folder(folder)

    def _target(self, digest: str, shelf: str) -> Path:
        if _SHELF.fullmatch(shelf) is None:
            raise ValueError(
                f"{shelf!r} is no shelf name; expected letters, digits, '.', '_' and '-', no leading dot"
            )
        return self._root / shelf / digest / self._file_name

    def _known(self, digest: str) -> Path:
        path = self.path_of(digest)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, f"no blob {digest!r} below {self._root}")
        return path

    def _shelves(self) -> list[str]:
        return sorted(
            entry.name for entry in os.scandir(self._root) if entry.is_dir() and entry.name[0] != "."
        )

    def _temporary(self) -> Path:
        return self._incoming / f"upload-{secrets.token_hex(16)}.part"

    def _require_one_file_system(self) -> None:
        """Try it: two bind mounts of one disk have the same device number and yet no rename between them."""
        probe = self._temporary()
        moved = self._root / f".{probe.name}"
        try:
            os.close(create_exclusive(probe))
            os.replace(probe, moved)
        except OSError as error:
            raise BlobError(
                f"cannot create a file in {self._incoming} and rename it into {self._root}: {error.strerror}. Both "
                "must be writable folders of one file system, mounted as one: an upload appears in one step."
            ) from error
        finally:
            for left in (probe, moved):
                left.unlink(missing_ok=True)


class LocalWriter:
    """One upload to a LocalBlobs; see `cis490.blobs.BlobWriter` for what each method promises."""

    def __init__(self, blobs: LocalBlobs, path: Path, sync_every_bytes: int) -> None:
        self._blobs = blobs
        self._path = path
        self._sync_every_bytes = sync_every_bytes
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._done = False
        self._unsynced_bytes = 0
        self.size_bytes = 0

    def write(self, block: bytes | bytearray) -> None:
        with self._lock, full_disk_is_no_space():
            self._blobs.require_space(len(block))
            file = self._opened()
            file.write(block)
            self._hash.update(block)
            self.size_bytes += len(block)
            self._unsynced_bytes += len(block)
            if self._unsynced_bytes >= self._sync_every_bytes:
                file.flush()
                sync_data(file.fileno())
                self._unsynced_bytes = 0

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def commit(self, shelf: str) -> bool:
        with self._lock, full_disk_is_no_space():
            file = self._opened()
            file.flush()
            os.fsync(file.fileno())
            file.close()
            is_new = self._blobs.adopt(self._path, self.digest(), shelf)
            self._done = True
            return is_new

    def discard(self) -> None:
        # The lock matters: closing the file under a running write would let the write hit a reused descriptor.
        with self._lock:
            if self._done:
                return
            self._done = True
            if self._file is not None:
                with contextlib.suppress(
                    OSError
                ):  # closing writes what is buffered, which a full disk refuses
                    self._file.close()
                self._path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._done:
            raise ValueError(f"the upload {self._path.name} was committed or discarded before")
        if self._file is None:
            self._file = os.fdopen(create_exclusive(self._path), "wb")
        return self._file
