"""Keys, queue and manifest in one encrypted file (`ca_restore` puts them back). Models are not in it: every
one can be trained again.

The file is a tar in age's format (`cis490.pki.age`): without this program, `age -d FILE | tar x` opens it.

    contents.json               what it is, when it was made, and size and sha256 of each file
    ca/                         the authority's folder
    training_jobs.db            the queue, as of one moment
    training_manifest.toml
    operator-token

Whatever is missing at the time is left out and said. Raises PkiError with what to type next, and OSError.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cis490.database.sqlite import connect
from cis490.files import (
    atomic_write,
    create_exclusive,
    free_bytes,
    fsync_folder,
    temporary_name,
)
from cis490.locks import Held, hold, holder
from cis490.pki import age
from cis490.pki.authority import Authority, open_authority
from cis490.pki.certificates import PkiError
from training.fleet.ca_files import safe_stem

FORMAT = "cis490-backup-1"
DATABASE, MANIFEST, TOKEN = "training_jobs.db", "training_manifest.toml", "operator-token"
STAMP = "last-backup.json"
"""Beside the database: when the last backup was made, for `cis490-jobs doctor`."""
_MEMBER = re.compile(
    r"ca/[a-z0-9-]{1,40}(\.pem|\.json)|training_jobs\.db|training_manifest\.toml|operator-token"
)
_MAX_SMALL_BYTES = 4 * 1024**2
BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Places:
    """What is backed up, and where it is put back."""

    ca: Path
    db: Path
    manifest: Path
    token: Path


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup."""

    path: Path
    size_bytes: int
    files: tuple[str, ...]
    missing: tuple[str, ...]
    removed: tuple[Path, ...]


def file_name(fleet: str, now: datetime) -> str:
    """Names that sort by time."""
    return f"{_prefix(fleet)}{now:%Y%m%dT%H%M%SZ}.age"


def _prefix(fleet: str) -> str:
    return f"cis490-{safe_stem(fleet)}-"


def backup(
    places: Places,
    out: Path,
    passphrase: str,
    now: datetime,
    *,
    keep: int = 0,
    log2_work: int = age.LOG2_WORK,
) -> Made:
    """Write one encrypted file: `out`, or one with the time in its name if `out` is a folder, whose newest `keep` stay.

    The receiver may run meanwhile. The copy of the database lies beside the database until it is encrypted: it may
    hold what the original holds, so it must not lie on the stick that `out` is on.
    """
    authority = open_authority(places.ca)
    scratch = places.db.parent if places.db.exists() else out.parent
    with _alone(scratch / "backup.lock"):
        _sweep(scratch, ".backup-*.tmp*")
        target = out / file_name(authority.fleet.name, now) if out.is_dir() else out
        if not target.parent.is_dir():
            raise PkiError(
                f"there is no folder {target.parent} for the backup: sudo install -d -m 0700 {target.parent}"
            )
        _sweep(target.parent, f".{_prefix(authority.fleet.name)}*.tmp")
        copy = scratch / f".backup-{secrets.token_hex(8)}.tmp"
        try:
            files, missing = _gather(places, copy)
            _check_room(target.parent, sum(size for size, _, _ in files.values()))
            contents = _contents(authority, now, files)
            _write(target, _tar(contents, files, now), passphrase, log2_work)
        finally:
            for path in with_side_files(copy):
                path.unlink(missing_ok=True)
        size = target.stat().st_size
        stamp = {"at": now.timestamp(), "file": str(target), "size_bytes": size}
        if places.db.parent.is_dir():
            note = places.db.with_name(STAMP)
            atomic_write(note, (json.dumps(stamp) + "\n").encode(), 0o644)
            note.chmod(0o644)  # whatever the umask: the doctor need not be root
        removed = _thin_out(target, _prefix(authority.fleet.name), keep) if out.is_dir() else ()
    return Made(target, size, tuple(files), tuple(missing), removed)


_Files = dict[str, tuple[int, str, bytes | Path]]
"""Name in the tar -> size, sha256, and the content or where it lies."""


def _gather(places: Places, copy: Path) -> tuple[_Files, list[str]]:
    found: _Files = {}
    for path in sorted((*places.ca.glob("*.pem"), places.ca / "fleet.json")):
        _add(found, f"ca/{path.name}", path)
    missing = []
    for name, path in ((MANIFEST, places.manifest), (TOKEN, places.token)):
        if path.is_file():
            _add(found, name, path)
        else:
            missing.append(str(path))
    if not places.db.exists():
        return found, [str(places.db), *missing]
    _check_room(copy.parent, places.db.stat().st_size)
    copy_database(places.db, copy)
    found[DATABASE] = (copy.stat().st_size, digest(copy), copy)
    return found, missing


def _add(found: _Files, name: str, path: Path) -> None:
    data = path.read_bytes()
    found[name] = (len(data), hashlib.sha256(data).hexdigest(), data)


def copy_database(db: Path, copy: Path) -> None:
    """A whole, self-contained copy as of one moment in `copy`, mode 0600. Changes nothing beside `db`.

    While the receiver runs, SQLite copies under its own locks. While it does not, SQLite would have to make side files
    that belong to root and lock the receiver out; so the files are copied as they are and settled in the copy.
    """
    os.close(create_exclusive(copy, 0o600))
    try:
        if holder(db.with_name(db.name + ".lock")) is not None:
            with closing(connect(str(db), readonly=True)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)  # in one step: between two a commit of the receiver would begin it anew
        else:
            _copy_at_rest(db, copy)
        with closing(sqlite3.connect(copy)) as settled:
            settled.execute("PRAGMA journal_mode=DELETE")
            faults = [row[0] for row in settled.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        raise PkiError(f"{db} cannot be copied: {error}. cis490-jobs doctor looks for the cause") from error
    if faults != ["ok"]:
        raise PkiError(f"{db} is damaged: {faults[0]}. Restore an older backup; this one was not made")


def _copy_at_rest(db: Path, copy: Path) -> None:
    wal = db.with_name(db.name + "-wal")
    before = _shape(db), _shape(wal)
    shutil.copyfile(db, copy)
    if wal.exists():
        shutil.copyfile(wal, copy.with_name(copy.name + "-wal"))
    if (_shape(db), _shape(wal)) != before:
        raise PkiError(f"{db} changed while it was copied: the receiver has just started. Try once more")


def _shape(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def with_side_files(path: Path) -> tuple[Path, ...]:
    """The database at `path` and what SQLite may have beside it."""
    return tuple(path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal"))


def _contents(authority: Authority, now: datetime, files: _Files) -> bytes:
    about = {
        "format": FORMAT,
        "made_at": now.isoformat(),
        "fleet": authority.fleet.name,
        "root_sha256": authority.root_fingerprint,
        "files": {name: {"size_bytes": size, "sha256": sha} for name, (size, sha, _) in files.items()},
    }
    return (json.dumps(about, indent=2) + "\n").encode()


def _tar(contents: bytes, files: _Files, now: datetime) -> Iterator[bytes]:
    """The tar in pieces; nothing larger than a block is in memory."""
    members: dict[str, tuple[int, bytes | Path]] = {"contents.json": (len(contents), contents)}
    members |= {name: (size, data) for name, (size, _, data) in files.items()}
    for name, (size, data) in members.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, 0o600, int(now.timestamp())
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with open(data, "rb") if isinstance(data, Path) else io.BytesIO(data) as source:
            while block := source.read(BLOCK_BYTES):
                yield block
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar


def _write(target: Path, data: Iterable[bytes], passphrase: str, log2_work: int) -> None:
    temporary = temporary_name(target)
    descriptor = create_exclusive(temporary, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in age.encrypt(data, passphrase, secrets.token_bytes, log2_work=log2_work):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)


def _thin_out(target: Path, prefix: str, keep: int) -> tuple[Path, ...]:
    """Remove all but the newest `keep` backups of this fleet; 0 removes none."""
    pattern = re.compile(re.escape(prefix) + r"\d{8}T\d{6}Z\.age")
    found = sorted(
        path for path in target.parent.iterdir() if pattern.fullmatch(path.name) and path != target
    )
    gone = found[: max(0, len(found) - (keep - 1))] if keep > 0 else []
    for path in gone:
        path.unlink()
    return tuple(gone)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        with hold(path):
            yield
    except Held as error:
        raise PkiError(f"another backup is being made (pid {error.pid})") from error


def _sweep(folder: Path, pattern: str) -> None:
    """What an interrupted backup left."""
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _check_room(folder: Path, needed: int) -> None:
    if (left := free_bytes(folder)) < needed + needed // 10 + _MAX_SMALL_BYTES:
        raise PkiError(
            f"{folder} has {left // 1024**2} MiB free, and the copy needs {needed // 1024**2 + 5}: df -h {folder}"
        )


def digest(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
