"""Uploads that may be continued: what has arrived for each (job, epoch, sha256), and who is sending it now.

A part lies in `incoming` under a name that tells to which attempt it belongs, so that it outlives the process. In one
process's life its running hash is kept as well, so that going on reads nothing again.

Used on one event loop; all I/O is done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from cis490.blobs import Blobs, BlobWriter, Block, Part
from cis490.digest import Digest
from cis490.failpoints import failpoint

KEEP_S = 24 * 3600.0
SETTLE_S = 0.05
SETTLE_STEPS = 40
_NAME = re.compile(
    r"(?P<job_id>[A-Za-z0-9_-][A-Za-z0-9._-]{0,63})\.(?P<epoch>[0-9]{1,18})\.(?P<sha256>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One upload: the same bytes for the same attempt."""

    job_id: str
    epoch: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.job_id}.{self.epoch}.{self.sha256}"

    @classmethod
    def of(cls, name: str) -> Key | None:
        """The key of a part's name; None for a name that we never gave."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(found["job_id"], int(found["epoch"]), found["sha256"])

    def is_same_attempt(self, other: Key) -> bool:
        return (self.job_id, self.epoch) == (other.job_id, other.epoch)


class TakenOver(Exception):
    """A later request for the same upload is served, or the process is to end; this one is to stop."""


@dataclass(slots=True)
class Session:
    """One upload, as far as this process knows it. `writer` is None when nothing of it is in memory."""

    key: Key
    writer: BlobWriter | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    turn: int = 0
    """Of the latest request."""
    serving: int = 0
    """The turn of the request that holds the lock; it has been taken over once this is not the latest."""
    pump: asyncio.Task[bool] | None = None
    """Takes the body of the request that holds the lock."""
    users: int = 0

    @property
    def size_bytes(self) -> int:
        return 0 if self.writer is None else self.writer.size_bytes


class Partials:
    """The sessions and the parts on disk."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._sessions: dict[Key, Session] = {}
        self._stopping = False

    @contextlib.asynccontextmanager
    async def served(self, key: Key) -> AsyncIterator[Session]:
        """The session, to this request alone. A request that was served until now stops first; what it had received
        counts. Raises TakenOver when a later one has come while this one waited."""
        session = self._sessions.setdefault(key, Session(key))
        session.turn += 1
        turn = session.turn
        session.users += 1
        if session.pump is not None:
            session.pump.cancel()
        try:
            async with session.lock:
                session.serving = turn
                self.require_latest(session)
                yield session
        finally:
            session.users -= 1
            if session.users == 0 and session.writer is None:
                self._sessions.pop(key, None)

    def require_latest(self, session: Session) -> None:
        """Raise TakenOver when a later request has come than the one that is being served, or all are to stop."""
        if self._stopping or session.turn != session.serving:
            raise TakenOver

    async def begin(self, session: Session, *, is_known: bool) -> BlobWriter:
        """Start the upload anew. A body whose digest the store has (`is_known`) is hashed only."""
        old, session.writer = session.writer, None
        for key, other in list(self._sessions.items()):
            if other.users == 0 and key.is_same_attempt(session.key):
                del self._sessions[key]
        session.writer = await asyncio.to_thread(self._begin, session.key, old, is_known)
        return session.writer

    async def go_on(self, session: Session) -> tuple[BlobWriter, int]:
        """Go on with the upload, if there is one, and from which byte."""
        if session.writer is None:
            session.writer = self._blobs.part(session.key.name)
        offset = await asyncio.to_thread(session.writer.resume)
        failpoint("upload.resumed")
        return session.writer, offset

    async def offset_of(self, job_id: str, epoch: int, sha256: str | None) -> int:
        """Bytes that are there. Without a digest: of the attempt's only upload."""
        for key, session in list(self._sessions.items()):
            if _fits(key, job_id, epoch, sha256) and (session.writer is not None or session.users):
                return await self._settled(session)
        for part in await asyncio.to_thread(self._blobs.parts):
            on_disk = Key.of(part.name)
            if on_disk is not None and _fits(on_disk, job_id, epoch, sha256):
                return part.size_bytes
        return 0

    async def _settled(self, session: Session) -> int:
        """Its bytes once the number stands still: of a connection that has just broken, what lies in the kernel's
        buffers is still being taken, and whoever asks too early sends it again."""
        for _ in range(SETTLE_STEPS):
            before = session.size_bytes
            if session.users == 0:
                break
            await asyncio.sleep(SETTLE_S)
            if session.users and session.size_bytes == before:
                break
        return session.size_bytes

    async def expire(self, now_s: float, is_live: Callable[[str, int], bool]) -> int:
        """Remove what is older than `KEEP_S` (`now_s`: wall clock) or of an attempt that is over; how many.

        `is_live(job_id, epoch)` may block: it is asked in a thread. What is being received stays.
        """
        kept = [key for key, session in self._sessions.items() if session.users == 0]
        expired = await asyncio.to_thread(self._expired, kept, now_s, is_live)
        count = 0
        for key in expired:
            session = self._sessions.setdefault(key, Session(key))
            if session.users:
                continue
            session.users += 1
            try:
                async with session.lock:
                    writer, session.writer = session.writer, None
                    await asyncio.to_thread((writer or self._blobs.part(key.name)).discard)
            finally:
                session.users -= 1
                if session.users == 0 and session.writer is None:
                    self._sessions.pop(key, None)
            count += 1
        return count

    def interrupt(self, job_id: str) -> None:
        """End what is being received for this job; what came is kept."""
        for key, session in self._sessions.items():
            if key.job_id == job_id:
                session.turn += 1  # as if a later request had come
                if session.pump is not None:
                    session.pump.cancel()

    def stop(self) -> None:
        """End what is being received, as if a later request for it had come, and take nothing any more."""
        self._stopping = True
        for session in list(self._sessions.values()):
            if session.pump is not None:
                session.pump.cancel()

    def sweep(self, now_s: float) -> None:
        """At the start: remove what is too old, and what has a name that we never gave."""
        for part in self._blobs.parts():
            if Key.of(part.name) is None or _is_old(part, now_s):
                self._blobs.part(part.name).discard()

    def _begin(self, key: Key, old: BlobWriter | None, is_known: bool) -> BlobWriter:
        (old or self._blobs.part(key.name)).discard()
        # An attempt has one upload at a time: another digest gives up the one before, so that no lease fills the disk.
        for part in self._blobs.parts():
            other = Key.of(part.name)
            if other is not None and other != key and other.is_same_attempt(key):
                self._blobs.part(part.name).discard()
        return Verifier(self._blobs) if is_known else self._blobs.part(key.name)

    def _expired(self, kept: list[Key], now_s: float, is_live: Callable[[str, int], bool]) -> list[Key]:
        parts = {Key.of(part.name): part for part in self._blobs.parts()}
        keys = {*kept, *(key for key in parts if key is not None)}
        return [
            key
            for key in sorted(keys, key=lambda key: key.name)
            if (key in parts and _is_old(parts[key], now_s)) or not is_live(key.job_id, key.epoch)
        ]


class Verifier:
    """A writer that only hashes: for a body whose announced digest is in the store. Its bytes live in no file."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def append(self, block: Block) -> None:
        self.size_bytes += len(block)

    def hash(self, block: Block) -> None:
        self._hash.update(block)

    def write(self, block: Block) -> None:
        self.append(block)
        self.hash(block)

    def sync(self) -> None:
        pass

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def commit(self, shelf: str) -> bool:
        self._blobs.place(self.digest(), shelf)
        return False

    def suspend(self) -> None:
        pass

    def resume(self) -> int:
        return self.size_bytes

    def discard(self) -> None:
        pass


def _fits(key: Key, job_id: str, epoch: int, sha256: str | None) -> bool:
    return (key.job_id, key.epoch) == (job_id, epoch) and sha256 in (None, key.sha256)


def _is_old(part: Part, now_s: float) -> bool:
    return now_s - part.changed_at > KEEP_S
