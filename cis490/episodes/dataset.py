"""Data sets: a folder `<host>/<name>.episode`, its identity, and the archive it travels in.

The identity depends on the episodes only: neither file names nor the archive's compression enter it.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Final, cast

from cis490.episodes.format import EPISODE_SUFFIX, EpisodeError, EpisodeMeta, episode_id, parse
from cis490.zstd import zstd

MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*\.episode")
MAX_EPISODES: Final = 100_000
MAX_TOTAL_BYTES: Final = 4 * 1024**3
WINDOW_LOG: Final = 25
"""32 MiB: the shipped set compresses as one piece, and a reader never needs more memory than that."""

_CHUNK: Final = 1 << 20


class DatasetError(Exception):
    """A data set or its archive is not what it should be; the message says what was found and expected."""


def dataset_id(episode_ids: Iterable[str]) -> str:
    """SHA-256 over a version line and the sorted episode ids, one a line. A repeated id is a `DatasetError`."""
    ids = sorted(episode_ids)
    for before, after in pairwise(ids):
        if before == after:
            raise DatasetError(f"episode {after} is in the data set twice; delete one of the copies")
    text = "cis490-dataset-v1\n" + "".join(f"{one}\n" for one in ids)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def episode_paths(folder: Path) -> list[Path]:
    """All `<host>/<name>.episode` files of `folder`, sorted by host and name; none is a `DatasetError`."""
    paths = sorted(p for p in folder.glob(f"*/*{EPISODE_SUFFIX}") if p.is_file())
    if not paths:
        raise DatasetError(
            f"{folder}: found no <host>/<name>{EPISODE_SUFFIX} file; is this the data set's folder?"
        )
    return paths


def iter_episodes(folder: Path) -> Iterator[tuple[Path, EpisodeMeta, bytes]]:
    """Path, meta data and payload of every episode, sorted by path. Raises `EpisodeError`, `DatasetError`."""
    for path in episode_paths(folder):
        meta, payload = parse(path.read_bytes(), str(path))
        yield path, meta, payload


def verify_folder(folder: Path, expected_id: str) -> int:
    """Number of episodes in `folder`, after reading every file and comparing the data set's id."""
    paths = episode_paths(folder)
    found = dataset_id(episode_id(path.read_bytes()) for path in paths)
    if found != expected_id:
        raise DatasetError(
            f"{folder}: its {len(paths)} episodes have dataset_id {found}, expected {expected_id}; "
            "a file was added, lost or changed: fetch the data set again"
        )
    return len(paths)


def pack(folder: Path, target: Path, *, max_total_bytes: int = MAX_TOTAL_BYTES) -> str:
    """Write the canonical archive of `folder` to `target` and return its dataset_id.

    Every episode is parsed first, so an archive never holds a damaged file. The tar is canonical (sorted names,
    no times or owners) and compressed in one call: the same episodes and libzstd version give the same bytes.
    Raises DatasetError for more than `max_total_bytes`, which `unpack` would refuse on every host.
    """
    ids: list[str] = []
    total_bytes = sum(path.stat().st_size + tarfile.BLOCKSIZE for path in episode_paths(folder))
    if total_bytes > max_total_bytes:
        raise DatasetError(
            f"{folder}: its episodes have {total_bytes} bytes, expected at most {max_total_bytes} in one archive; "
            "make several data sets of them, or keep fewer channels or samples"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in episode_paths(folder):
            name = path.relative_to(folder).as_posix()
            if not MEMBER_NAME.fullmatch(name):
                raise DatasetError(
                    f"{path}: the name cannot be packed; use letters, digits, '.', '_' and '-'"
                )
            data = path.read_bytes()
            parse(data, str(path))
            ids.append(episode_id(data))
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    found = dataset_id(ids)
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: 19,
        parameter.window_log: WINDOW_LOG,
        parameter.enable_long_distance_matching: 1,
        parameter.checksum_flag: 1,
    }
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(zstd.compress(buffer.getbuffer(), options=options))
    os.replace(partial, target)
    return found


def unpack(archive: Path, folder: Path, expected_id: str, *, max_total_bytes: int = MAX_TOTAL_BYTES) -> int:
    """Unpack `archive` into the new folder `folder`; returns the number of episodes.

    The archive is not trusted: only regular files with plain names are taken, `max_total_bytes` bounds what is
    decompressed, and the folder appears under its name only after its dataset_id was verified. Whatever goes
    wrong is a `DatasetError`, and nothing is left behind.
    """
    if folder.exists():
        raise DatasetError(f"{folder}: exists already; verify it, or delete it and unpack again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        with archive.open("rb") as raw:
            _extract(raw, partial, str(archive), max_total_bytes)
        count = verify_folder(partial, expected_id)
        partial.chmod(0o755)
        partial.rename(folder)
    except (OSError, EOFError, zstd.ZstdError, tarfile.TarError, EpisodeError) as error:
        raise DatasetError(f"{archive}: cannot be unpacked into {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


class _Stream:
    """Reads exact amounts of the decompressed archive, `limit_bytes` in all."""

    def __init__(self, source: IO[bytes], limit_bytes: int, where: str) -> None:
        self._source, self._left, self._limit, self._where = source, limit_bytes, limit_bytes, where

    def take(self, size_bytes: int) -> bytes:
        self._left -= size_bytes
        if self._left < 0:
            raise DatasetError(f"{self._where}: unpacks to more than {self._limit} bytes; refused")
        data = self._source.read(size_bytes)
        if len(data) != size_bytes:
            raise DatasetError(f"{self._where}: cannot be unpacked: it is cut short")
        return data


def _extract(raw: IO[bytes], folder: Path, where: str, max_total_bytes: int) -> None:
    """Write the members of the archive below `folder`, one after the other, until its end mark.

    Headers are read one by one instead of through `tarfile.open`, which would interpret extension headers (long
    names, sparse maps) that our archives never have and that only widen what a stranger can make us do.
    """
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    count = 0
    with zstd.ZstdFile(raw, "rb", options=options) as plain:
        stream = _Stream(cast(IO[bytes], plain), max_total_bytes, where)
        while any(header := stream.take(tarfile.BLOCKSIZE)):
            count += 1
            if count > MAX_EPISODES:
                raise DatasetError(f"{where}: holds more than {MAX_EPISODES} files; refused")
            member = tarfile.TarInfo.frombuf(header, "ascii", "surrogateescape")
            _extract_one(stream, member, folder, where)


def _extract_one(stream: _Stream, member: tarfile.TarInfo, folder: Path, where: str) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
        raise DatasetError(
            f"{where}: {member.name!r} is not a regular file (tar type {member.type!r}); refused"
        )
    if not MEMBER_NAME.fullmatch(member.name):
        raise DatasetError(
            f"{where}: holds {member.name!r}, expected only <host>/<name>{EPISODE_SUFFIX}; refused"
        )
    target = folder / member.name
    target.parent.mkdir(exist_ok=True)
    # "x": a second member of the same name is a fault, not an overwrite.
    with target.open("xb") as out:
        for start in range(0, member.size, _CHUNK):
            out.write(stream.take(min(_CHUNK, member.size - start)))
    stream.take(-member.size % tarfile.BLOCKSIZE)
