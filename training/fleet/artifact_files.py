"""Single files out of stored artifacts, read in memory: what the pages draw their charts from.

Nothing is unpacked. An artifact is read once from end to end by the reader of `training.fleet.bundle`, which refuses
whatever `pack` cannot have written; its list of files and its small texts stay in memory for a while. Artifacts never
change, so what was read stays right. Why the receiver does this at all: docs/design/artifacts.md.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.fleet.bundle import BundleError, Limits, read_members

MIB = 1024 * 1024
MAX_MEMBER_BYTES = 2 * MIB
"""Of one file that is shown. Anything larger is for `cis490-jobs pull`."""
LIMITS = Limits(max_files=10_000, max_total_bytes=512 * MIB)
"""Of an artifact that is looked into: so much is decompressed in a second or so, on a small machine in a few."""
KEPT_MEMBER_BYTES, KEPT_OF_ONE_BYTES = 256 * 1024, 4 * MIB
"""Of one text, and of all texts of one artifact, that stay in memory after it was read: the tables of its charts.
Others are read again when they are asked for."""
CACHE_BYTES = 16 * MIB
KEPT_FAULTS = 256
"""Artifacts whose fault is remembered: reading half a gigabyte to find the same again serves nobody."""
READS_AT_ONCE = 2
MAX_WAITING = 32
TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
"""What is shown, and as what: a picture goes as text, so that no browser carries out what an artifact says."""


class Unreadable(Exception):
    """The artifact cannot be looked into. `status` is the HTTP status of the answer."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


@dataclass(frozen=True, slots=True)
class Contents:
    """What one reading found. `files` is (name, size in bytes), by name; `texts` are some of the small ones."""

    files: tuple[tuple[str, int], ...]
    texts: dict[str, bytes]

    @property
    def cost_bytes(self) -> int:
        return sum(map(len, self.texts.values())) + sum(len(name) + 200 for name, _ in self.files)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an artifact, as UTF-8 text."""

    name: str
    content: bytes
    media_type: str


class ArtifactFiles:
    """Reads artifacts, at most two at the same time, and each only once however many ask for it meanwhile.

    path_of: the file of an artifact id, None for an unknown one; it is called in a thread.
    """

    def __init__(self, path_of: Callable[[object], Path | None]) -> None:
        self._path_of = path_of
        self._cache = _Cache(CACHE_BYTES)
        self._faults: dict[str, str] = {}
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._under_way: dict[tuple[str, str], asyncio.Task[Contents]] = {}

    async def contents(self, artifact_id: str) -> Contents:
        """The files of an artifact. Raises Unreadable: 404, 422 for one that is no bundle, 429 when too many ask."""
        return self._cache.get(artifact_id) or await self._read(artifact_id, "")

    async def member(self, artifact_id: str, name: str) -> Member:
        """One small text of an artifact. Raises Unreadable: as `contents`; 404, 413 or 415 for the file itself."""
        media_type = TYPES.get(PurePosixPath(name).suffix)
        found = await self.contents(artifact_id)
        size_bytes = dict(found.files).get(name)
        if size_bytes is None:
            raise Unreadable(
                404, f"artifact {artifact_id[:12]} has no file {name[:100]!r}; GET .../files lists them"
            )
        pull = f"cis490-jobs pull {artifact_id[:12]} fetches the whole artifact"
        if media_type is None:
            raise Unreadable(415, f"{name!r} is no text that can be shown ({', '.join(TYPES)}); {pull}")
        if size_bytes > MAX_MEMBER_BYTES:
            raise Unreadable(
                413, f"{name!r} has {size_bytes} bytes, at most {MAX_MEMBER_BYTES} are shown; {pull}"
            )
        content = found.texts.get(name)
        if content is None:
            content = (await self._read(artifact_id, name)).texts[name]
        return Member(name, _as_text(name, content, pull), media_type)

    async def _read(self, artifact_id: str, name: str) -> Contents:
        """Read an artifact for `name` ("": for its list), together with all who ask for the same meanwhile."""
        key = (artifact_id, name)
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_WAITING:
                raise Unreadable(
                    429, f"{MAX_WAITING} artifacts are being read already; ask again in a moment"
                )
            task = self._under_way[key] = asyncio.create_task(self._in_turn(artifact_id, name))
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)  # one who goes away must not take the others' answer with him

    def _end(self, key: tuple[str, str], done: asyncio.Task[Contents]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # all who asked may have gone: then nobody else looks at it

    async def _in_turn(self, artifact_id: str, name: str) -> Contents:
        async with self._turns:
            found = self._cache.get(artifact_id)
            if found is not None and (not name or name in found.texts):
                return found
            if artifact_id in self._faults:
                raise Unreadable(422, self._faults[artifact_id])
            try:
                found = await asyncio.to_thread(self._look_into, artifact_id, name)
            except Unreadable as error:
                if error.status == 422:  # it never changes, unlike an artifact that is not there
                    self._remember(artifact_id, error.error)
                raise
        if not name:
            self._cache.put(artifact_id, found)
        return found

    def _remember(self, artifact_id: str, error: str) -> None:
        if len(self._faults) >= KEPT_FAULTS:
            del self._faults[next(iter(self._faults))]
        self._faults[artifact_id] = error

    def _look_into(self, artifact_id: str, name: str) -> Contents:
        path = self._path_of(artifact_id)
        if path is None:
            raise Unreadable(404, f"no artifact {artifact_id[:12]}")
        room = KEPT_OF_ONE_BYTES

        def wanted(found: str, size_bytes: int) -> bool:
            nonlocal room
            if name:
                return found == name
            fits = PurePosixPath(found).suffix in TYPES and size_bytes <= min(room, KEPT_MEMBER_BYTES)
            room -= size_bytes if fits else 0
            return fits

        try:
            files, texts = read_members(path, wanted, limits=LIMITS)
        except FileNotFoundError:  # removed since
            raise Unreadable(404, f"no artifact {artifact_id[:12]}") from None
        except BundleError as error:
            raise Unreadable(422, f"artifact {artifact_id[:12]} cannot be looked into: {error}") from error
        return Contents(tuple(files), texts)


def _as_text(name: str, content: bytes, pull: str) -> bytes:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(415, f"{name!r} is no UTF-8 text (byte {error.start}); {pull}") from None
    return content


class _Cache:
    """Contents by artifact id, the least used ones dropped. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._held_bytes = most_bytes, 0
        self._entries: OrderedDict[str, Contents] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, artifact_id: str) -> Contents | None:
        with self._lock:
            found = self._entries.get(artifact_id)
            if found is not None:
                self._entries.move_to_end(artifact_id)
            return found

    def put(self, artifact_id: str, contents: Contents) -> None:
        with self._lock:
            if artifact_id in self._entries:
                return
            self._entries[artifact_id] = contents
            self._held_bytes += contents.cost_bytes
            while self._held_bytes > self._most_bytes and len(self._entries) > 1:
                _, dropped = self._entries.popitem(last=False)
                self._held_bytes -= dropped.cost_bytes
