"""Large files addressed by the sha256 of their content, behind one interface for every back end.

Errors:

    BlobError        the back end cannot be used; the text says what to change
      NoSpace        writing on would touch the reserve of free space; nothing was kept, try again later
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from cis490.digest import Digest

Block = bytes | bytearray | memoryview


class BlobError(Exception):
    """The back end cannot do what was asked; the text says what to change."""


class NoSpace(BlobError):
    """Too little space is left; the writer that raised this holds nothing worth keeping."""


@contextlib.contextmanager
def full_disk_is_no_space() -> Iterator[None]:
    """Turn the OSError of a full disk or quota into NoSpace."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk is full: {error}") from error
        raise


class BlobWriter(Protocol):
    """One blob on its way in. Nobody can see it before `commit` has returned.

    Every block goes to `append` and to `hash`, in one order; the two (and `sync`) may run in different threads at the
    same time. `suspend`, `discard` and `commit` wait for those that run. Every method does I/O or work: keep them off
    an event loop.
    """

    @property
    def size_bytes(self) -> int:
        """Bytes appended so far."""
        ...

    def append(self, block: Block) -> None:
        """Put `block` at the end. Raises NoSpace; ValueError after `commit` or `discard`."""
        ...

    def hash(self, block: Block) -> None:
        """Take `block` into the digest."""
        ...

    def write(self, block: Block) -> None:
        """`append` and `hash`, one after the other."""
        ...

    def sync(self) -> None:
        """Make durable what was appended so far, so that `commit` has less to wait for."""
        ...

    def digest(self) -> Digest:
        """sha256 of the bytes hashed so far."""
        ...

    def commit(self, shelf: str) -> bool:
        """Keep the blob under its own digest on `shelf`; True if its content was new to the store.

        On return content and name survive a power cut, also when it was there before. A second writer of the same
        content succeeds too and leaves one copy. Raises NoSpace; ValueError for a bad shelf name, or when other bytes
        were hashed than appended.
        """
        ...

    def suspend(self) -> None:
        """Let go of the file and keep the bytes: for a named part that may be resumed."""
        ...

    def resume(self) -> int:
        """Get ready to go on, from which byte. Reads what is there where the running hash is not known any more."""
        ...

    def discard(self) -> None:
        """Leave nothing behind. May be called at any time and repeatedly; does nothing after `commit`."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A blob whose writing was interrupted."""

    name: str
    size_bytes: int
    changed_at: float
    """Wall clock of the last byte."""


class Blobs(Protocol):
    """A store of blobs. *Shelves* are the folders that people browse: one blob may stand on several, kept once.

    A digest that is not 64 lower-case hexadecimal characters is never found and never becomes part of a path.
    """

    def create(self) -> BlobWriter:
        """A writer for a new blob. Does no I/O, so there is nothing to clean up before the first write."""
        ...

    def part(self, name: str) -> BlobWriter:
        """The writer of the part `name` (up to 200 of `[A-Za-z0-9._-]`): what it holds outlives this process.

        Call `resume` or `discard` before anything else; one writer for a name at a time.
        """
        ...

    def parts(self) -> list[Part]:
        """All named parts, by name; those being written too."""
        ...

    def size_of(self, digest: object) -> int | None:
        """Size in bytes of a blob that was committed, None for any other value."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """The content, seekable, from the start; the caller closes it. Raises FileNotFoundError."""
        ...

    def sizes(self) -> dict[str, int]:
        """Every blob that was committed, with its size in bytes."""
        ...

    def take_away(self, digest: str) -> int:
        """Take a blob from all its shelves; how many names it had (0: it is not here). `empty_bin` frees the space."""
        ...

    def empty_bin(self) -> None:
        """Delete the bytes of what was taken away."""
        ...

    def shelves_of(self, digest: str) -> list[str]:
        """Sorted names of the shelves that hold the blob."""
        ...

    def place(self, digest: str, shelf: str) -> None:
        """Put a known blob on one more shelf, durably; no effect if it stands there.

        Raises FileNotFoundError for an unknown blob, ValueError for a bad shelf name, NoSpace.
        """
        ...
