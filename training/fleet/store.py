"""Artifacts by digest: `<store root>/<model>_<mode>/<sha256>/bundle.tar.zst` and one row per ingest in `index.jsonl`.

The store hashes what it receives itself; nobody's word puts a name or a row here. It never unpacks a bundle.
"""

import asyncio
import hashlib
import json
import logging
import mmap
import os
import threading
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cis490.blobs import Blobs, BlobWriter, NoSpace, full_disk_is_no_space
from cis490.blobs.local import LocalBlobs
from cis490.clock import Clock, SystemClock
from cis490.digest import BLOCK_BYTES, Digest, is_digest
from cis490.files import fsync_folder, is_safe_name, make_folders
from cis490.logs import event

ARTIFACT_NAME = "bundle.tar.zst"
RESERVE_BYTES = 64 * 1024 * 1024

IngestStatus = Literal["stored", "already-present", "sha-mismatch", "too-large", "no-space"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How an upload ended. Only `stored` and `already-present` left something: the artifact and an index row."""

    status: IngestStatus
    artifact_id: Digest | None
    """Set for `stored` and `already-present` only."""
    size_bytes: int
    """Of the body as far as it was taken."""
    actual_sha256: Digest | None = None
    """Of the body, where all of it was read."""


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
        self._blobs = LocalBlobs(
            Path(store_root),
            incoming=Path(incoming_root),
            file_name=ARTIFACT_NAME,
            reserve_bytes=reserve_bytes,
        )
        self._index = _Index(Path(index_path))

    def path_of(self, artifact_id: object) -> Path | None:
        """The artifact's file, None for anything that is not the id of a stored artifact."""
        return self._blobs.path_of(artifact_id)

    def size_of(self, artifact_id: object) -> int | None:
        """The artifact's size in bytes, None as in `path_of`."""
        return self._blobs.size_of(artifact_id)

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
    ) -> IngestResult:
        """Read `body` to its end, verify it and keep it; on return with `stored` it survives a power cut.

        `already-present` is answered only after the body was read and its hash was right: a claim to have something
        proves nothing and gets no index row. `too-large` and `no-space` stop reading at once. If `body` raises
        or the task is cancelled, nothing stays behind and the exception passes through. All hashing and disk work is
        done in threads, in order. Raises ValueError, before reading, on malformed names, digest or provenance.
        """
        upload = _Upload(job_id, model, mode, worker, epoch, generation, expected_sha256, provenance)
        _require_json(upload)
        is_known = await asyncio.to_thread(self._blobs.size_of, upload.expected) is not None
        sink: BlobWriter = _Verifier(self._blobs) if is_known else self._blobs.create()
        try:
            if not await _pour(body, sink, max_bytes):
                return IngestResult("too-large", None, sink.size_bytes)
            return await asyncio.to_thread(self._finish, upload, sink)
        except NoSpace as error:
            event(_log, "store.no_space", level=logging.WARNING, job_id=job_id, worker=worker, error=error)
            return IngestResult("no-space", None, sink.size_bytes)
        finally:
            # Shielded: a second cancellation must not keep the clean-up from being run.
            await asyncio.shield(asyncio.to_thread(sink.discard))

    def _finish(self, upload: _Upload, sink: BlobWriter) -> IngestResult:
        actual = sink.digest()
        if actual != upload.expected:
            return IngestResult("sha-mismatch", None, sink.size_bytes, actual)
        status: IngestStatus = "stored" if sink.commit(upload.shelf) else "already-present"
        self._index.append(upload.row(self._clock.wall_s(), actual, sink.size_bytes, status))
        event(
            _log,
            "artifact.ingested",
            status=status,
            job_id=upload.job_id,
            worker=upload.worker,
            artifact_id=actual,
            size_bytes=sink.size_bytes,
        )
        return IngestResult(status, actual, sink.size_bytes, actual)


def _require_json(upload: _Upload) -> None:
    try:
        upload.row(0.0, Digest(upload.expected), 0, "stored")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the provenance of job {upload.job_id} cannot be written as JSON: {error}"
        ) from error


async def _pour(body: AsyncIterable[bytes], sink: BlobWriter, max_bytes: int) -> bool:
    """Hand `body` to `sink` in blocks of about 1 MiB, one at a time; False once it exceeds `max_bytes`."""
    block = bytearray()
    total = 0
    async for chunk in body:
        total += len(chunk)
        if total > max_bytes:
            return False
        block += chunk
        if len(block) >= BLOCK_BYTES:
            await asyncio.to_thread(sink.write, block)
            block = bytearray()
    if block:
        await asyncio.to_thread(sink.write, block)
    return True


class _Verifier:
    """A sink that only hashes: for a body whose announced digest is in the store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, block: bytes | bytearray) -> None:
        self._hash.update(block)
        self.size_bytes += len(block)

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def commit(self, shelf: str) -> bool:
        self._blobs.place(self.digest(), shelf)
        return False

    def discard(self) -> None:
        pass


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
        with self._lock, full_disk_is_no_space(), open(self._path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(row) != len(row):
                    raise NoSpace(f"the disk is full: no room for a row in {self._path}")
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
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
