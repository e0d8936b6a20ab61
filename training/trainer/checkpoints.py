"""Checkpoints: what a training needs to go on where it was interrupted, as files that a power cut cannot halve.

One checkpoint is one file `checkpoint-<n>` in a folder that belongs to one job on one host:

    line 1   CIS490-CHECKPOINT 1
    line 2   JSON: the training's identity, the names and sizes of the files, the sha256 of all of it
    rest     the files one after the other

The two newest are kept, so that one that was damaged does not cost the whole training. A checkpoint counts for
exactly one training: same job, data, trainer, libraries and device. Anything else would go on with the numbers of
another training and give bytes that nobody can repeat.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from cis490.failpoints import failpoint
from cis490.files import atomic_write
from training.trainer.options import Json

MAGIC = b"CIS490-CHECKPOINT 1\n"
KEPT = 2
EVERY_S = 30.0
MOST_SHARE = 0.05
"""Saving may take this share of the time at most: a large state is saved less often than every `EVERY_S`."""

_NAME = re.compile(r"checkpoint-(\d{1,9})")
_UNFINISHED = re.compile(r"\.checkpoint-\d{1,9}\.[0-9a-f]{16}\.tmp")
"""What a process leaves that was killed while it wrote one; see `cis490.files.temporary_name`."""

_MAX_HEADER_BYTES = 65_536


class Unusable(Exception):
    """A checkpoint that cannot be gone on from, and why."""


def identity_of(training: Mapping[str, Json]) -> str:
    """sha256 (64 hex digits) over everything that decides a training's bytes."""
    text = json.dumps(training, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def encode(identity: str, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a checkpoint."""
    names = sorted(files)
    payload = [files[name] for name in names]
    sizes = [(name, len(files[name])) for name in names]
    header = {"identity": identity, "files": sizes, "sha256": _digest(identity, sizes, payload)}
    return b"".join([MAGIC, json.dumps(header, sort_keys=True).encode(), b"\n", *payload])


def decode(data: bytes, identity: str) -> dict[str, bytes]:
    """The files of a checkpoint. Raises Unusable for one of another training, or that is not as it was written."""
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + _MAX_HEADER_BYTES)
    if not data.startswith(MAGIC) or end < 0:
        raise Unusable("it is no checkpoint of this version")
    try:
        header = json.loads(data[len(MAGIC) : end])
        found, digest = header["identity"], header["sha256"]
        sizes = [(str(name), int(size)) for name, size in cast(list[tuple[str, int]], header["files"])]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Unusable(f"its head cannot be read ({error!r})") from error
    if found != identity:
        raise Unusable("it belongs to another training (another job, data set, trainer, library or device)")
    payload = memoryview(data)[end + 1 :]
    if _digest(identity, sizes, [payload]) != digest or sum(size for _, size in sizes) != len(payload):
        raise Unusable("it was damaged after it was written")
    files: dict[str, bytes] = {}
    at = 0
    for name, size in sizes:
        files[name] = bytes(payload[at : at + size])
        at += size
    return files


def _digest(identity: str, sizes: Sequence[tuple[str, int]], payload: Iterable[bytes | memoryview]) -> str:
    """Names and sizes count too: a flipped bit in a name would hand one array out as another."""
    digest = hashlib.sha256(json.dumps([identity, sizes]).encode() + b"\n")
    for part in payload:
        digest.update(part)
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one training in `folder`. `warn` gets a sentence for a person; nothing that goes wrong
    here ends a training, for without a checkpoint it is merely longer."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        warn: Callable[[str], None],
        clock: Callable[[], float],
        every_s: float = EVERY_S,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._warn = warn
        self._clock = clock
        self._every_s = every_s
        self._due_s = clock() + every_s
        self._has_failed = False

    def newest(self) -> dict[str, bytes] | None:
        """The files of the newest usable checkpoint. Others are reported and passed over."""
        for number, path in sorted(self._found().items(), reverse=True):
            try:
                files = decode(path.read_bytes(), self._identity)
            except (OSError, Unusable) as error:
                self._warn(f"checkpoint {number} in {self._folder} is not used: {error}")
                continue
            failpoint("trainer.checkpoint_read")
            return files
        return None

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return self._clock() >= self._due_s

    def save(self, files: Mapping[str, bytes]) -> bool:
        """Write one; whether it is on disk now. A disk that is full, or too little memory, is reported once."""
        began_s = self._clock()
        found = self._found()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            failpoint("trainer.before_checkpoint")
            target = self._folder / f"checkpoint-{max(found, default=0) + 1}"
            atomic_write(target, encode(self._identity, files), 0o600)
            failpoint("trainer.checkpoint_written")
            is_saved = True
        except (OSError, MemoryError) as error:
            self._report(error)
            is_saved = False
        if is_saved:
            with contextlib.suppress(OSError):  # what stays costs room, and is tried again after the next one
                for path in (*(found[n] for n in sorted(found)[: -(KEPT - 1) or None]), *self._unfinished()):
                    path.unlink(missing_ok=True)
        now_s = self._clock()
        self._due_s = now_s + max(self._every_s, (now_s - began_s) / MOST_SHARE)
        return is_saved

    def give_up(self, error: MemoryError) -> None:
        """There was not even room for the state: reported once, and tried again when the next one is due."""
        self._report(error)
        self._due_s = self._clock() + self._every_s

    def _report(self, error: OSError | MemoryError) -> None:
        if not self._has_failed:
            why = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
            self._warn(f"no checkpoint can be written to {self._folder} ({why}); training goes on without")
        self._has_failed = True

    def clear(self) -> None:
        """The training is complete: its checkpoints have served."""
        for path in (*self._found().values(), *self._unfinished()):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._warn(f"{path} cannot be deleted: {error}")

    def _found(self) -> dict[int, Path]:
        matches = ((_NAME.fullmatch(path.name), path) for path in self._paths())
        return {int(match[1]): path for match, path in matches if match}

    def _unfinished(self) -> list[Path]:
        return [path for path in self._paths() if _UNFINISHED.fullmatch(path.name)]

    def _paths(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except OSError:
            return []
