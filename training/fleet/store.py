"""Artifacts by digest: `<store root>/<model>_<mode>/<sha256>/bundle.tar.zst` and one row per ingest in `index.jsonl`.

The store hashes what it receives itself; nobody's word puts a name or a row here. It never looks into a bundle;
`training.fleet.artifact_files` does.
"""

import asyncio
import json
import logging
import mmap
import os
import threading
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cis490.blobs import BlobWriter, NoSpace, full_disk_is_no_space
from cis490.blobs.local import LocalBlobs
from cis490.blobs.pipeline import Pool, pour, undisturbed
from cis490.clock import Clock, SystemClock
from cis490.digest import Digest, is_digest
from cis490.failpoints import failpoint
from cis490.files import fsync_folder, is_safe_name, make_folders, open_append, write_all
from cis490.logs import event
from training.fleet.partials import Key, Partials, Session, TakenOver, Verifier

ARTIFACT_NAME = "bundle.tar.zst"
RESERVE_BYTES = 64 * 1024 * 1024

IngestStatus = Literal[
    "stored",
    "already-present",
    "partial",
    "sha-mismatch",
    "too-large",
    "no-space",
    "wrong-offset",
    "taken-over",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How an upload ended. `stored` and `already-present` left the artifact and an index row; `partial`, `wrong-offset`
    and `taken-over` what had arrived, to be continued; the others nothing."""

    status: IngestStatus
    artifact_id: Digest | None
    """Set for `stored` and `already-present` only."""
    size_bytes: int
    """Taken so far, those of earlier requests for the same upload included: where to go on."""
    actual_sha256: Digest | None = None
    """Of the body, where all of it was read."""
    reason: str = ""
    """In words, for `no-space`."""


@dataclass(frozen=True, slots=True)
class _Upload:
    """What the caller says about an upload, checked."""

    job_id: str
    model: str
    mode: str
    worker: str
    epoch: int
    generation: int
    expected: str
    provenance: Mapping[str, object] | None

    def __post_init__(self) -> None:
        for name in ("job_id", "model", "mode", "worker"):
            value = getattr(self, name)
            if not is_safe_name(value):
                raise ValueError(
                    f"{name} {value!r} is no name; expected [A-Za-z0-9._-]{{1,64}} without a leading dot"
                )
        if not is_digest(self.expected):
            raise ValueError(
                f"the announced sha256 is {self.expected!r}; expected 64 lower-case hexadecimal characters"
            )

    @property
    def shelf(self) -> str:
        return f"{self.model}_{self.mode}"

    def row(self, at: float, artifact_id: Digest, size_bytes: int, status: IngestStatus) -> bytes:
        """The index row; ValueError or TypeError if the provenance is not JSON."""
        row = {
            "at": at,
            "job_id": self.job_id,
            "model": self.model,
            "mode": self.mode,
            "worker": self.worker,
            "epoch": self.epoch,
            "generation": self.generation,
            "artifact_id": artifact_id,
            "size_bytes": size_bytes,
            "status": status,
            "provenance": None if self.provenance is None else dict(self.provenance),
        }
        return json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def is_valid_id(value: object) -> bool:
    """Whether `value` could be an artifact id: 64 lower-case hexadecimal characters, and nothing but a string."""
    return is_digest(value)


class ModelStore:
    """The artifacts of one receiver. Construction makes the folders and repairs what a crash left.

    reserve_bytes: an upload that would leave less free space ends as `no-space`.
    Raises BlobError if `store_root` and `incoming_root` do not lie on one file system.
    """

    def __init__(
        self,
        store_root: Path | str,
        incoming_root: Path | str,
        index_path: Path | str,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock if clock is not None else SystemClock()
        self.root = Path(store_root)
        self._blobs = LocalBlobs(
            self.root,
            incoming=Path(incoming_root),
            file_name=ARTIFACT_NAME,
            reserve_bytes=reserve_bytes,
        )
        self._index = _Index(Path(index_path))
        self._pool = Pool()
        self._partials = Partials(self._blobs)
        self._partials.sweep(self._clock.wall_s())
        failpoint("store.opened")

    def path_of(self, artifact_id: object) -> Path | None:
        """The artifact's file, None for anything that is not the id of a stored artifact."""
        return self._blobs.path_of(artifact_id)

    def size_of(self, artifact_id: object) -> int | None:
        """The artifact's size in bytes, None as in `path_of`."""
        return self._blobs.size_of(artifact_id)

    def sizes(self) -> dict[str, int]:
        """Every stored artifact with its size in bytes. Walks the shelves."""
        return self._blobs.sizes()

    def note_removed(self, artifact_id: str, size_bytes: int, why: str) -> None:
        """A row in the index, before the artifact goes. Raises NoSpace, OSError."""
        self._index.append(self._note(artifact_id, size_bytes, "removed", why))

    def note_kept(self, artifact_id: str, size_bytes: int) -> None:
        """A row in the index: it did not go after all."""
        self._index.append(self._note(artifact_id, size_bytes, "kept", "something came to need it"))

    def take_away(self, artifact_id: str) -> None:
        """Nobody finds the artifact from here on; `empty_bin` frees its space. A few system calls."""
        self._blobs.take_away(artifact_id)

    def empty_bin(self) -> None:
        """Delete what was taken away."""
        self._blobs.empty_bin()

    def _note(self, artifact_id: str, size_bytes: int, status: str, why: str) -> bytes:
        row = {
            "at": self._clock.wall_s(),
            "artifact_id": artifact_id,
            "size_bytes": size_bytes,
            "status": status,
            "why": why,
        }
        return json.dumps(row, separators=(",", ":")).encode() + b"\n"

    async def ingest_stream(
        self,
        *,
        job_id: str,
        model: str,
        mode: str,
        worker: str,
        expected_sha256: str,
        body: AsyncIterable[bytes],
        max_bytes: int,
        epoch: int = 0,
        generation: int = 1,
        provenance: Mapping[str, object] | None = None,
        offset: int | None = None,
        is_last: bool = True,
        announced_bytes: int = 0,
    ) -> IngestResult:
        """Read `body` to its end, verify it and keep it; on return with `stored` it survives a power cut.

        offset: None starts anew; else the body goes on where (job, epoch, digest) stands, which must be there.
        is_last: whether the body is the artifact's end. If not, it is kept as `partial`.
        max_bytes: of the whole artifact. announced_bytes: of this body, so that `no-space` is known beforehand.

        `already-present` is answered only after the body was read and its hash was right: a claim to have something
        proves nothing and gets no index row. `too-large` and `no-space` stop reading at once. If `body` raises or the
        task is cancelled, what arrived is kept to be continued, and the exception passes through. A request for an
        upload that another one is just sending takes over from it. All hashing and disk work is done in threads.
        Raises ValueError, before reading, on malformed names, digest or provenance.
        """
        upload = _Upload(job_id, model, mode, worker, epoch, generation, expected_sha256, provenance)
        _require_json(upload)
        try:
            async with self._partials.served(Key(job_id, epoch, expected_sha256)) as session:
                return await self._ingest(session, upload, body, max_bytes, offset, is_last, announced_bytes)
        except TakenOver:
            return IngestResult("taken-over", None, 0)

    async def offset_of(self, job_id: str, epoch: int, sha256: str | None = None) -> int:
        """How many bytes of this attempt's upload are there; the next range starts with this byte."""
        return await self._partials.offset_of(job_id, epoch, sha256)

    def interrupt(self, job_id: str) -> None:
        """End the uploads of this job that are under way, as `taken-over`."""
        self._partials.interrupt(job_id)

    def stop_receiving(self) -> None:
        """End the uploads under way, each as `taken-over`: their senders go on when they are served again."""
        self._partials.stop()

    async def expire_partials(self, is_live: Callable[[str, int], bool]) -> int:
        """Remove interrupted uploads that nobody will continue: a day old, or of an attempt that is over; how many.

        `is_live(job_id, epoch)` says whether that attempt may still upload; it is called in a thread and may block.
        """
        count = await self._partials.expire(self._clock.wall_s(), is_live)
        failpoint("store.swept")
        if count:
            event(_log, "store.partials_expired", count=count)
        return count

    async def _ingest(
        self,
        session: Session,
        upload: _Upload,
        body: AsyncIterable[bytes],
        max_bytes: int,
        offset: int | None,
        is_last: bool,
        announced_bytes: int,
    ) -> IngestResult:
        if offset is None:
            is_known = await asyncio.to_thread(self._blobs.size_of, upload.expected) is not None
            writer = await self._partials.begin(session, is_known=is_known)
        else:
            writer, found = await self._partials.go_on(session)
            if found != offset:
                session.writer = writer if found else None
                return IngestResult("wrong-offset", None, found)
        keeps = False
        try:
            if not isinstance(writer, Verifier):
                await asyncio.to_thread(self._blobs.require_space, announced_bytes)
            keeps = True
            is_whole = await self._receive(session, body, writer, max_bytes - writer.size_bytes)
            keeps = is_whole and not is_last
            if not is_whole:
                return IngestResult("too-large", None, writer.size_bytes)
            if not is_last:
                return IngestResult("partial", None, writer.size_bytes)
            return await undisturbed(asyncio.to_thread(self._finish, upload, writer))
        except NoSpace as error:
            keeps = False
            event(
                _log,
                "store.no_space",
                level=logging.WARNING,
                job_id=upload.job_id,
                worker=upload.worker,
                error=error,
            )
            return IngestResult("no-space", None, writer.size_bytes, reason=str(error))
        finally:
            if keeps:
                await undisturbed(asyncio.to_thread(writer.suspend))
                failpoint("upload.suspended")
            else:
                session.writer = None
                await undisturbed(asyncio.to_thread(writer.discard))

    async def _receive(
        self, session: Session, body: AsyncIterable[bytes], writer: BlobWriter, max_bytes: int
    ) -> bool:
        """Take the body in a task of its own, which a later request for the same upload may end. Raises TakenOver."""
        self._partials.require_latest(session)
        session.pump = asyncio.ensure_future(pour(body, writer, self._pool, max_bytes))
        try:
            return await session.pump
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and not me.cancelling():
                self._partials.require_latest(session)
            raise
        finally:
            session.pump = None

    def _finish(self, upload: _Upload, writer: BlobWriter) -> IngestResult:
        actual = writer.digest()
        if actual != upload.expected:
            return IngestResult("sha-mismatch", None, writer.size_bytes, actual)
        status: IngestStatus = "stored" if writer.commit(upload.shelf) else "already-present"
        self._index.append(upload.row(self._clock.wall_s(), actual, writer.size_bytes, status))
        event(
            _log,
            "artifact.ingested",
            status=status,
            job_id=upload.job_id,
            worker=upload.worker,
            artifact_id=actual,
            size_bytes=writer.size_bytes,
        )
        return IngestResult(status, actual, writer.size_bytes, actual)


def _require_json(upload: _Upload) -> None:
    try:
        upload.row(0.0, Digest(upload.expected), 0, "stored")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the provenance of job {upload.job_id} cannot be written as JSON: {error}"
        ) from error


class _Index:
    """`index.jsonl`: rows are only ever appended, each durable before its upload is answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        make_folders(path.parent)
        if path.exists():
            self._repair()

    def append(self, row: bytes) -> None:
        """Append one row and make it durable; on failure the file is as long as before. Raises NoSpace, OSError."""
        with self._lock, full_disk_is_no_space():
            failpoint("store.before_index_row")
            descriptor = open_append(self._path)
            try:
                self._append(descriptor, row)
            finally:
                os.close(descriptor)
            failpoint("store.index_row_synced")

    def _append(self, descriptor: int, row: bytes) -> None:
        before = os.fstat(descriptor).st_size
        try:
            write_all(descriptor, row)
            failpoint("store.index_row_written")
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, before)
            raise
        if before == 0:
            fsync_folder(self._path.parent)

    def _repair(self) -> None:
        """Cut a last row that a power cut tore. Its upload was not answered, so nobody counts on it."""
        size = self._path.stat().st_size
        keep = _whole_rows_end(self._path, size)
        if keep == size:
            return
        with open(self._path, "r+b") as file:
            file.truncate(keep)
            os.fsync(file.fileno())
        event(_log, "store.index_repaired", level=logging.WARNING, path=self._path, cut_bytes=size - keep)


def _whole_rows_end(path: Path, size: int) -> int:
    """Where the last whole row of a file of `size` bytes ends. Only the last one can be torn: each is synced alone."""
    if size == 0:
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = text.rfind(b"\n", 0, size - 1) + 1
        return size if _is_row(text[start:size]) else start


def _is_row(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
