"""A backup opened, judged whole, and put back in its places (`ca_backup` makes them).

It is decrypted into a hidden folder first and every digest compared; only then is anything moved, and what lay in a
place before is moved aside. Raises PkiError with what to type next, and OSError.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from cis490.files import atomic_write, create_exclusive, fsync_folder, make_folders, temporary_name
from cis490.locks import holder
from cis490.pki import age
from cis490.pki import certificates as pki
from cis490.pki.authority import open_authority
from cis490.pki.certificates import PkiError
from training.fleet import ca_revocations
from training.fleet.ca_backup import (
    BLOCK_BYTES,
    DATABASE,
    FORMAT,
    MANIFEST,
    TOKEN,
    Places,
    digest,
    with_side_files,
)

_MEMBER = re.compile(
    r"ca/[a-z0-9-]{1,40}(\.pem|\.json)|training_jobs\.db|training_manifest\.toml|operator-token"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A backup that was decrypted into a folder, and is whole."""

    folder: Path
    made_at: str
    fleet: str
    root_sha256: str
    files: Mapping[str, Mapping[str, Any]]


@contextlib.contextmanager
def opened(file: Path, passphrase: str, scratch: Path) -> Iterator[Opened]:
    """Decrypt into a hidden folder in `scratch`, compare every digest, and remove it at the end. Raises PkiError."""
    folder = temporary_name(scratch / "restore")
    folder.mkdir(mode=0o700)
    try:
        with _reading(file) as source:
            _extract(source, passphrase, folder, file)
        yield _judged(folder, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[IO[bytes]]:
    try:
        source = file.open("rb")
    except OSError as error:
        raise PkiError(f"{file} cannot be read: {error.strerror}") from error
    with source:
        yield source


def _extract(source: IO[bytes], passphrase: str, folder: Path, file: Path) -> None:
    (folder / "ca").mkdir(mode=0o700)
    try:
        with tarfile.open(mode="r|", fileobj=_Reader(age.decrypt(source, passphrase))) as tar:
            for entry in tar:
                if not entry.isreg() or not (_MEMBER.fullmatch(entry.name) or entry.name == "contents.json"):
                    raise PkiError(f"{file} holds {entry.name!r}, which no backup of this program has")
                content = tar.extractfile(entry)
                assert content is not None
                descriptor = create_exclusive(folder / entry.name, 0o600)
                with os.fdopen(descriptor, "wb") as target:
                    shutil.copyfileobj(content, target, BLOCK_BYTES)
                    target.flush()
                    os.fsync(target.fileno())
    except age.AgeError as error:
        raise PkiError(f"{file}: {error}. Nothing was restored") from error
    except (tarfile.TarError, FileExistsError) as error:
        raise PkiError(f"{file} holds no backup of this program: {error}") from error


class _Reader(io.RawIOBase):
    """Pieces as a file. At its end the pieces are read out, so that a file cut short cannot pass for a whole one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._held = pieces, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        parts, length = [self._held], len(self._held)
        while size < 0 or length < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            length += len(piece)
        data = b"".join(parts)
        size = len(data) if size < 0 else size
        self._held = data[size:]
        return data[:size]


def _judged(folder: Path, file: Path) -> Opened:
    try:
        found = json.loads((folder / "contents.json").read_bytes())
        kind, files = found["format"], found["files"]
        about = Opened(folder, found["made_at"], found["fleet"], found["root_sha256"], files)
        expected = {name: (row["size_bytes"], row["sha256"]) for name, row in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PkiError(
            f"{file} holds no backup of this program: contents.json is missing or damaged"
        ) from error
    if kind != FORMAT:
        raise PkiError(f"{file} is a backup of the form {kind!r}; this program reads {FORMAT}")
    inside = [path for path in folder.rglob("*") if path.is_file() and path.name != "contents.json"]
    present = {path.relative_to(folder).as_posix(): (path.stat().st_size, digest(path)) for path in inside}
    if present != expected:
        wrong = sorted(
            {*present, *expected} - {name for name in present if present[name] == expected.get(name)}
        )
        raise PkiError(f"{file} is damaged: {', '.join(wrong)} are not what its contents.json says")
    if pki.fingerprint(open_authority(folder / "ca").root) != about.root_sha256:
        raise PkiError(f"{file} is damaged: its root is not the one that its contents.json says")
    return about


def restore(
    found: Opened, places: Places, only: frozenset[str], now: datetime, *, replace: bool = False
) -> list[str]:
    """Put `only` (ca, database, manifest, token) in their places; what lies there is moved aside, never deleted.

    Without `replace` nothing that exists is touched. Returns sentences. Raises PkiError before anything is changed.
    """
    parts = {
        "ca": ("ca", places.ca),
        "database": (DATABASE, places.db),
        "manifest": (MANIFEST, places.manifest),
    }
    parts["token"] = (TOKEN, places.token)
    chosen = {
        name: (found.folder / inside, to) for name, (inside, to) in parts.items()
        if name in only and (found.folder / inside).exists()
    }  # fmt: skip
    if "database" in chosen and (pid := holder(places.db.with_name(places.db.name + ".lock"))) is not None:
        raise PkiError(
            f"a receiver runs on {places.db} (pid {pid}): sudo systemctl stop cis490-trainer-receiver"
        )
    there = [str(to) for _, to in chosen.values() if _is_taken(to)]
    if there and not replace:
        raise PkiError(f"{', '.join(there)} exist; with --replace they are moved aside first, not deleted")
    staged = _staged(chosen)
    done, left = [], list(staged.values())
    try:
        for name, (_, to) in chosen.items():
            aside = _aside(to, now) if _is_taken(to) else None
            done.append(f"{to} is back" + (f"; what was there is {aside} now" if aside else ""))
            if name == "database":
                kept = None if aside is None else ca_revocations.carry(aside, staged[name])
                done.append(_about_revocations(kept, found.made_at))
                _give_to_owner_of(to.parent, staged[name])
            os.rename(staged[name], to)
            fsync_folder(to.parent)
            left.remove(staged[name])
    finally:
        _discard(left)
    return done


def _about_revocations(kept: int | None, made_at: str) -> str:
    if kept is None:
        return f"revocations made after {made_at} are lost: cis490-jobs hosts list, and revoke them again"
    return f"{kept} revocation{'' if kept == 1 else 's'} made since {'is' if kept == 1 else 'are'} kept"


def _is_taken(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _aside(path: Path, now: datetime) -> Path:
    aside = path.with_name(f"{path.name}.before-{now:%Y%m%dT%H%M%SZ}")
    for one in with_side_files(path):
        if one.exists():
            os.rename(one, aside.with_name(aside.name + one.name.removeprefix(path.name)))
    fsync_folder(path.parent)
    return aside


def _staged(chosen: Mapping[str, tuple[Path, Path]]) -> dict[str, Path]:
    """Copies under hidden names beside their targets, because the backup may be opened on another disk.

    All of them before anything is moved: a disk that is full must not leave a place empty, in which a receiver would
    begin a new queue.
    """
    done: dict[str, Path] = {}
    try:
        for name, (source, to) in chosen.items():
            done[name] = temporary_name(to)
            _stage(source, done[name], to)
    except BaseException:
        _discard(done.values())
        raise
    return done


def _stage(source: Path, temporary: Path, to: Path) -> None:
    try:
        make_folders(to.parent)
        _copy(source, temporary, 0o644 if to.suffix == ".toml" else 0o600)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = to.parent
        raise PkiError(f"there is no room for it in {where}; nothing was changed: df -h {where}") from error


def _copy(source: Path, to: Path, mode: int) -> None:
    if source.is_dir():
        to.mkdir(mode=0o700)
        for path in source.iterdir():
            atomic_write(to / path.name, path.read_bytes(), 0o600)
        return
    shutil.copyfile(source, to)
    to.chmod(mode)
    with to.open("rb+") as file:
        os.fsync(file.fileno())


def _discard(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _give_to_owner_of(folder: Path, path: Path) -> None:
    """The receiver is not root, and the folder of its state is its own."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)
