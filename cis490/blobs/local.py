"""Blobs on a local disk: `<root>/<shelf>/<sha256>/<file name>`, one copy per digest, hard links for further shelves.

An upload is written to `incoming`, made durable there, and renamed into place; so no reader ever sees a part of a
blob and no name holds anything but the content it names. One process at a time may use a root.

In `incoming` a file `part-NAME` is a named part, which outlives the process; `upload-*.part` is nobody's after a
restart.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cis490.blobs import BlobError, Block, NoSpace, Part, full_disk_is_no_space
from cis490.digest import BLOCK_BYTES, Digest, is_digest
from cis490.failpoints import failpoint
from cis490.files import (
    create_exclusive,
    free_bytes,
    fsync_folder,
    make_folders,
    open_append,
    sync_data,
    write_all,
)

_SHELF = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,128}")
_PART = re.compile(r"[A-Za-z0-9._-]{1,200}")
_PART_PREFIX = "part-"
_TEMPORARY_PREFIX = "upload-"
_BIN_PREFIX = "upload-removed-"
"""What was taken away: goes like any other temporary file when a process was killed before it was deleted."""


class LocalBlobs:
    """Blobs below `root`. Temporary files of an earlier process in `incoming` are removed at construction.

    incoming: default `<root>/.incoming`; must lie on the same file system as `root`, else BlobError.
    reserve_bytes: a write that would leave less free space raises NoSpace, so that the database beside goes on working.
    """

    def __init__(
        self,
        root: Path,
        *,
        incoming: Path | None = None,
        file_name: str = "blob",
        reserve_bytes: int = 0,
    ) -> None:
        self._root = root
        self._incoming = incoming if incoming is not None else root / ".incoming"
        self._file_name = file_name
        self._reserve_bytes = reserve_bytes
        self._placing = threading.Lock()
        make_folders(self._root)
        make_folders(self._incoming)
        for stale in self._incoming.glob("upload-*.part"):
            stale.unlink()
        self._require_one_file_system()

    def create(self) -> "LocalWriter":
        """A writer; its file appears in `incoming` with the first write."""
        return LocalWriter(self, self._temporary())

    def part(self, name: str) -> "LocalWriter":
        if _PART.fullmatch(name) is None:
            raise ValueError(
                f"{name!r} is no name of a part; expected up to 200 letters, digits, '.', '_' and '-'"
            )
        return LocalWriter(self, self._incoming / f"{_PART_PREFIX}{name}")

    def parts(self) -> list[Part]:
        found = []
        for path in sorted(self._incoming.glob(f"{_PART_PREFIX}*")):
            with contextlib.suppress(FileNotFoundError):  # renamed into place meanwhile
                status = path.stat()
                found.append(Part(path.name.removeprefix(_PART_PREFIX), status.st_size, status.st_mtime))
        return found

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

    def sizes(self) -> dict[str, int]:
        """Every blob that was committed, with its size in bytes."""
        found: dict[str, int] = {}
        for shelf in self._shelves():
            for entry in os.scandir(self._root / shelf):
                if is_digest(entry.name) and entry.name not in found:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        found[entry.name] = (Path(entry.path) / self._file_name).stat().st_size
        return found

    def take_away(self, digest: str) -> int:
        """Take a blob from all its shelves, in one step each; how many names it had. Its bytes lie in `incoming` as
        nobody's until `empty_bin`, or until the next start."""
        count = 0
        with self._placing:
            for shelf in self.shelves_of(digest):
                os.replace(self._root / shelf / digest / self._file_name, self._temporary(_BIN_PREFIX))
                count += 1
                with contextlib.suppress(OSError):  # somebody has put something of his own beside it
                    (self._root / shelf / digest).rmdir()
        return count

    def empty_bin(self) -> None:
        """Delete what was taken away."""
        for path in self._incoming.glob(f"{_BIN_PREFIX}*.part"):
            path.unlink(missing_ok=True)

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
            failpoint("store.before_rename")
            os.replace(temporary, target)
            failpoint("store.renamed")
            self._settle(target)
            failpoint("store.folder_synced")
            return True

    def _link(self, known: Path, target: Path) -> None:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(known, target)
            except OSError:  # FAT, some network file systems, too many links
                self._copy(known, target)
        self._settle(target)
        failpoint("store.linked")

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

    def _temporary(self, prefix: str = _TEMPORARY_PREFIX) -> Path:
        return self._incoming / f"{prefix}{secrets.token_hex(16)}.part"

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
    """One upload to a LocalBlobs; see `cis490.blobs.BlobWriter` for what each method promises.

    Three locks, so that writing, hashing and syncing run beside each other; whoever takes several takes them in the
    order of `_all`. Without them, closing the file under a running write would let that write hit a reused descriptor.
    """

    def __init__(self, blobs: LocalBlobs, path: Path) -> None:
        self._blobs = blobs
        self._path = path
        self._append_lock, self._sync_lock, self._hash_lock = (
            threading.Lock(),
            threading.Lock(),
            threading.Lock(),
        )
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0
        self._descriptor: int | None = None
        self._done = False
        self.size_bytes = 0

    def append(self, block: Block) -> None:
        with self._append_lock, full_disk_is_no_space():
            self._blobs.require_space(len(block))
            write_all(self._opened(), block)
            self.size_bytes += len(block)
            failpoint("store.block_written")

    def hash(self, block: Block) -> None:
        with self._hash_lock:
            self._hash.update(block)
            self._hashed_bytes += len(block)

    def write(self, block: Block) -> None:
        self.append(block)
        self.hash(block)

    def sync(self) -> None:
        with self._sync_lock, full_disk_is_no_space():
            if self._descriptor is not None:
                sync_data(self._descriptor)

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def commit(self, shelf: str) -> bool:
        with self._all(), full_disk_is_no_space():
            descriptor = self._opened()
            if self._hashed_bytes != self.size_bytes:
                raise ValueError(f"{self._hashed_bytes} bytes were hashed and {self.size_bytes} written")
            os.fsync(descriptor)
            self._close()
            failpoint("store.part_synced")
            is_new = self._blobs.adopt(self._path, self.digest(), shelf)
            self._done = True
            return is_new

    def suspend(self) -> None:
        with self._all():
            self._close()

    def resume(self) -> int:
        with self._all(), full_disk_is_no_space():
            try:
                found_bytes = self._path.stat().st_size
            except FileNotFoundError:
                found_bytes = 0
            if found_bytes == 0:  # perhaps an empty file of a process that was killed before its first write
                self._close()
                self._path.unlink(missing_ok=True)
            if found_bytes != self.size_bytes or self._hashed_bytes != self.size_bytes:
                self._hash_again(found_bytes)
            return self.size_bytes

    def discard(self) -> None:
        with self._all():
            if self._done:
                return
            self._done = True
            with contextlib.suppress(OSError):  # some file systems report a full disk as late as this
                self._close()
            self._path.unlink(missing_ok=True)

    def _hash_again(self, found_bytes: int) -> None:
        self._close()
        self._hash, self._hashed_bytes = hashlib.sha256(), 0
        if found_bytes:
            with open(self._path, "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    self._hash.update(block)
                    self._hashed_bytes += len(block)
        self.size_bytes = self._hashed_bytes
        failpoint("store.part_hashed_again")

    def _opened(self) -> int:
        if self._done:
            raise ValueError(f"the upload {self._path.name} was committed or discarded before")
        if self._descriptor is None:
            self._descriptor = open_append(self._path) if self.size_bytes else create_exclusive(self._path)
            failpoint("store.part_opened")
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @contextlib.contextmanager
    def _all(self) -> Iterator[None]:
        with self._append_lock, self._sync_lock, self._hash_lock:
            yield
