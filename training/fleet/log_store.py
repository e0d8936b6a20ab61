"""The logs and progress points of attempts, on the receiver's disk: a bounded ring each, and a bound on all of them.

    <root>/<job_id>/<epoch>/0000000000000000.log    what the worker sent, in segments (see `segments`)
    <root>/<job_id>/<epoch>/points.jsonl            a line for each progress point; `{"peak": ...}` for the use so far

A log is a convenience: nothing here is synced, and whoever calls must get on without it. All methods do blocking
I/O and may raise OSError; they may be called from several threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from cis490.files import atomic_write, is_safe_name
from training.fleet.reports import MAX_LOG_BYTES, thinned
from training.fleet.segments import Piece, SegmentWriter, read

ATTEMPT_BYTES = 1024 * 1024
"""Of one attempt's log: older text is dropped."""
TOTAL_BYTES = 512 * 1024 * 1024
"""Of all attempts together, points included: the oldest attempts are dropped."""
POINTS_BYTES = 512 * 1024
"""Of one attempt's points; they are thinned when there are more."""
MAX_POINTS_KEPT = 1000
POINTS = "points.jsonl"
MAX_CHAR_BYTES = 4
"""Of a character in UTF-8; a read gives at least so many."""
_OPEN = 256
"""Writers that are kept ready."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

Key = tuple[str, int]
"""A job's id and the epoch of an attempt."""


class WrongOffset(Exception):
    """The append does not begin where the stream ends, at `expected`."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"this attempt's log has {expected} bytes so far: go on at offset {expected}")
        self.expected = expected


@dataclass(slots=True)
class _Kept:
    size_bytes: int
    used_at: float


class LogStore:
    """See the module. `wall_s` is UTC; it is compared with the times of files."""

    def __init__(
        self,
        root: Path,
        wall_s: Callable[[], float],
        *,
        attempt_bytes: int = ATTEMPT_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        self.root = root
        self._wall_s = wall_s
        self._segments = max(2, attempt_bytes // MAX_LOG_BYTES)
        self._segment_bytes = attempt_bytes // self._segments
        self._total_bytes = total_bytes
        self._lock = threading.RLock()
        self._writers: OrderedDict[Key, SegmentWriter] = OrderedDict()
        self._index: dict[Key, _Kept] | None = None
        """Read from the disk when first needed."""
        self._total = 0
        """Bytes of all that the index names."""

    # -- log text

    def append(self, key: Key, offset: int, data: bytes) -> int:
        """Add `data` to the attempt's log and return where it ends now. Raises WrongOffset, ValueError for too much."""
        with self._lock:
            writer = self._writer(key)
            if writer.end_offset != offset:
                raise WrongOffset(writer.end_offset)
            self._make_room(len(data), key)
            before = writer.kept_bytes
            try:
                for at in range(0, len(data), self._segment_bytes):
                    writer.append(data[at : at + self._segment_bytes])
            except FileNotFoundError:  # somebody has removed the folder: begin anew, from where we are
                self.forget(key)
                raise
            self._note(key, writer.kept_bytes - before)
            return writer.end_offset

    def read(self, key: Key, offset: int, limit: int) -> Piece:
        """Up to `limit` bytes (0: none) from `offset` on, never a part of a character that was sent whole."""
        limit = max(limit, MAX_CHAR_BYTES) if limit else 0
        piece = read(self._folder(key), offset, limit + MAX_CHAR_BYTES if limit else 0)
        cut = 0
        while cut < min(MAX_CHAR_BYTES - 1, len(piece.data)) and _is_inner(piece.data[cut]):
            cut += 1
        data = piece.data[cut : cut + limit]
        if piece.offset + cut + len(data) < piece.end_offset:
            data = data[: _whole(data)] or data
        return Piece(data, piece.offset + cut, piece.first_offset, piece.end_offset)

    # -- points

    def add_points(self, key: Key, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; more than fit are thinned, the first and the last stay."""
        data = _lines(rows)
        with self._lock:
            self._make_room(len(data), key)
            path = self._folder(key) / POINTS
            with _appending(path) as file:
                before = file.seek(0, os.SEEK_END)
                if before and not _ends_a_line(file):
                    data = b"\n" + data  # the last write was cut short
                file.write(data)
            self._note(key, len(data))
            if before + len(data) > POINTS_BYTES:
                self._thin(key, path, before + len(data))

    def points(self, key: Key) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """(points, peak use) of an attempt; both empty for one that told nothing."""
        points: list[dict[str, Any]] = []
        peak: dict[str, float] = {}
        with contextlib.suppress(FileNotFoundError), open(self._folder(key) / POINTS, "rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:  # a write that was cut short
                    continue
                if isinstance(row, dict) and isinstance(row.get("peak"), dict):
                    peak = row["peak"]
                elif isinstance(row, dict):
                    points.append(row)
        return points, peak

    def _thin(self, key: Key, path: Path, size_bytes: int) -> None:
        points, peak = self.points(key)
        most = MAX_POINTS_KEPT
        while True:
            rows = [*thinned(points, most), *([{"peak": peak}] if peak else [])]
            data = _lines(rows)
            if len(data) <= POINTS_BYTES // 2 or most <= 2:
                break
            most //= 2
        atomic_write(path, data)
        self._note(key, len(data) - size_bytes)

    # -- bounds

    def epochs(self, job_id: str) -> list[int]:
        """The attempts of a job of which something is kept, oldest first."""
        with self._lock:
            return sorted(epoch for found, epoch in self._known() if found == job_id)

    def size_bytes(self) -> int:
        """Of everything that is kept."""
        with self._lock:
            self._known()
            return self._total

    def expire(
        self, before_s: float, keep: Callable[[str, int], bool], *, dry_run: bool = False
    ) -> tuple[int, int]:
        """Drop attempts that nothing was added to since the wall time `before_s`, but those that `keep` names.

        Returns how many, and their bytes; with `dry_run` nothing is dropped.
        """
        with self._lock:
            old = [key for key, kept in self._known().items() if kept.used_at < before_s and not keep(*key)]
            freed = sum(self._known()[key].size_bytes for key in old)
            for key in old if not dry_run else ():
                self._drop(key)
            return len(old), freed

    def forget(self, key: Key) -> None:
        """Close what is held open for an attempt; its files stay."""
        with self._lock:
            self._writers.pop(key, None)

    def _make_room(self, size_bytes: int, key: Key) -> None:
        known = self._known()
        if self._total + size_bytes <= self._total_bytes:
            return
        for other in sorted(known, key=lambda one: known[one].used_at):
            if other != key:
                self._drop(other)
            if (
                self._total + size_bytes <= self._total_bytes * 9 // 10
            ):  # some at once: sorting is not for nothing
                break

    def _drop(self, key: Key) -> None:
        self.forget(key)
        folder = self._folder(key)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # of the job, when this was its last attempt
        gone = self._known().pop(key, None)
        self._total -= gone.size_bytes if gone is not None else 0

    def _note(self, key: Key, size_bytes: int) -> None:
        kept = self._known().setdefault(key, _Kept(0, 0.0))
        kept.size_bytes += size_bytes
        self._total += size_bytes
        kept.used_at = self._wall_s()

    def _known(self) -> dict[Key, _Kept]:
        if self._index is None:
            self._index = {key: _measured(folder) for key, folder in _attempts(self.root)}
            self._total = sum(kept.size_bytes for kept in self._index.values())
        return self._index

    def _writer(self, key: Key) -> SegmentWriter:
        found = self._writers.pop(key, None)
        if found is None:
            found = SegmentWriter(
                self._folder(key), segment_bytes=self._segment_bytes, segments=self._segments
            )
        self._writers[key] = found
        while len(self._writers) > _OPEN:
            self._writers.popitem(last=False)
        return found

    def _folder(self, key: Key) -> Path:
        job_id, epoch = key
        if not is_safe_name(job_id):
            raise ValueError(f"{job_id[:80]!r} cannot be a folder's name")
        return self.root / job_id / str(int(epoch))


def _attempts(root: Path) -> Iterator[tuple[Key, Path]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(root) as jobs:
        for job in jobs:
            if job.is_dir() and is_safe_name(job.name):
                with os.scandir(job) as epochs:
                    for epoch in epochs:
                        if epoch.name.isdecimal() and epoch.is_dir():
                            yield (job.name, int(epoch.name)), Path(epoch)


def _measured(folder: Path) -> _Kept:
    size, used = 0, 0.0
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat()
            size, used = size + found.st_size, max(used, found.st_mtime)
    return _Kept(size, used)


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(_encode(row) + "\n" for row in rows).encode()


def _appending(path: Path) -> FileIO:
    """Opened to read and to append. Its folder is made when it is not there, which is seldom."""
    try:
        return open(path, "ab+", buffering=0)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab+", buffering=0)


def _ends_a_line(file: FileIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _is_inner(byte: int) -> bool:
    """Is it a later byte of a character in UTF-8?"""
    return byte & 0xC0 == 0x80


def _whole(data: bytes) -> int:
    """How many bytes of `data` are whole characters; what is no UTF-8 counts as it is."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if _is_inner(byte):
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back else len(data)
    return len(data)
