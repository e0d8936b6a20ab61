"""A byte stream that is kept on disk up to a bound: segments named by where they begin, the oldest dropped first.

The guard writes a trainer's output so for the worker, and the receiver what workers send. A reader needs nothing but
the folder and the offset it has come to; writer and reader may be different processes. Nothing is synced: a log is a
convenience, and after a power cut its end may be missing.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

Folder = str | os.PathLike[str]
"""No pathlib: each guard of a trainer would have to load it first."""
SUFFIX = ".log"
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the stream: `data` begins at `offset`, which is later than asked for where bytes were dropped."""

    data: bytes
    offset: int
    first_offset: int
    """Of the oldest byte that is kept."""
    end_offset: int
    """Where the stream ends now."""


class SegmentWriter:
    """Appends to a folder, which it makes when there is something to write. One writer a folder; not thread-safe."""

    def __init__(self, folder: Folder, *, segment_bytes: int, segments: int) -> None:
        """Keeps at most `segment_bytes` x `segments` bytes, and goes on where an earlier writer ended."""
        self._folder, self._segment_bytes, self._segments = folder, segment_bytes, segments
        known = _segments(folder)
        self._starts = [start for start, _ in known]
        self._in_last = known[-1][1] if known else 0

    @property
    def end_offset(self) -> int:
        """How many bytes were appended, ever."""
        return self._starts[-1] + self._in_last if self._starts else 0

    @property
    def kept_bytes(self) -> int:
        """How many of them are on disk."""
        return self.end_offset - self._starts[0] if self._starts else 0

    def append(self, data: bytes) -> None:
        """Write `data`, no more than one segment holds. When it raises OSError nothing of it is kept.

        ValueError when `data` is too large.
        """
        if len(data) > self._segment_bytes:
            raise ValueError(f"{len(data)} bytes do not fit into a segment of {self._segment_bytes}")
        if not self._starts or self._in_last + len(data) > self._segment_bytes:
            self._begin()
        path = _path(self._folder, self._starts[-1])
        with open(path, "ab", buffering=0) as file:
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(self._in_last)
                raise
        self._in_last += len(data)

    def _begin(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        self._starts.append(self.end_offset)
        self._in_last = 0
        while len(self._starts) > self._segments:
            try:
                os.unlink(_path(self._folder, self._starts[0]))
            except FileNotFoundError:
                pass
            except PermissionError:
                if os.name != "nt":
                    raise
                return  # Windows deletes no file that another process reads this moment; the next turn will
            del self._starts[0]


def read(folder: Folder, offset: int, limit: int) -> Piece:
    """Up to `limit` bytes of the stream in `folder`, from `offset` on, or from the oldest that is kept.

    A folder that is not there is an empty stream. Raises OSError.
    """
    known = _segments(folder)
    if not known:
        return Piece(b"", 0, 0, 0)
    first, end = known[0][0], sum(known[-1])
    at = offset = min(max(offset, first), end)
    parts: list[bytes] = []
    for start, size in known:
        if limit <= 0 or at >= start + size or at < start:
            continue
        try:
            with open(_path(folder, start), "rb", buffering=0) as file:
                file.seek(at - start)
                data = file.read(min(limit, start + size - at)) or b""
        except FileNotFoundError:  # dropped at this very moment
            if parts:
                break
            at = offset = start + size
            continue
        parts.append(data)
        at, limit = at + len(data), limit - len(data)
    return Piece(b"".join(parts), offset, first, end)


def _path(folder: Folder, start: int) -> str:
    return os.path.join(folder, f"{start:0{_DIGITS}d}{SUFFIX}")


def _segments(folder: Folder) -> list[tuple[int, int]]:
    """(start, size) of each segment, oldest first; of a stream with a hole only what comes after it."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            stem = entry.name.removesuffix(SUFFIX)
            if stem != entry.name and stem.isdecimal():
                with contextlib.suppress(FileNotFoundError):
                    found.append((int(stem), entry.stat().st_size))
    found.sort()
    whole = 0
    for index in range(1, len(found)):
        if sum(found[index - 1]) != found[index][0]:
            whole = index
    return found[whole:]
