"""Bundles: a folder of results as one canonical `.tar.zst`, and the careful way back.

Canonical means that equal files give equal bytes: a plain ustar of regular files, sorted by name, with mode 0644 and no
times or owners, then one zstd frame made in one call at a fixed level (the digest may differ between releases of
libzstd; the tar inside does not). Names are those that every file system can hold and tell apart.

Layout of a header block: POSIX.1-1988 (ustar), as in IEEE Std 1003.1, pax utility, "ustar Interchange Format".

`extract` has its own reader because general ones know links, devices, sparse files and long-name extensions, and
each of those has been a way out of the target folder. Whatever `pack` cannot have written is refused.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cis490.digest import Digest, sha256_bytes
from cis490.files import atomic_write, create_exclusive, fsync_folder, temporary_name
from cis490.zstd import zstd

_BLOCK = 512
_COPY_BYTES = 1024 * 1024
_END = bytes(2 * _BLOCK)
_MAX_NAME_CHARS = 100
_LEVEL = 10
_WINDOW_LOG_MAX = 23  # 8 MiB of memory for reading, what zstd uses up to level 19
_SIZE = re.compile(rb"[0-7]{11}\0")
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "folder",
    b"6": "pipe",
    b"7": "contiguous file",
    b"g": "pax header for all entries",
    b"x": "pax header",
    b"K": "GNU long link name",
    b"L": "GNU long name",
    b"S": "sparse file",
    b"V": "GNU volume label",
    b"M": "GNU continuation",
    b"D": "GNU folder listing",
}
"""Header types that get a message of their own; any other but "0" fails the comparison with `_header`."""

_COMPONENT = re.compile(r'[^\x00-\x1f\x7f-\U0010ffff<>:"/\\|?*]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9])[ ]*(\..*)?", re.IGNORECASE)


class BundleError(Exception):
    """A folder that cannot be packed or an archive that is refused; the text says which entry and why."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What `pack` wrote."""

    sha256: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one bundle may hold, unpacked."""

    max_files: int = 10_000
    max_total_bytes: int = 4 * 1024**3


def pack(folder: Path, target: Path, *, limits: Limits | None = None) -> BundleInfo:
    """Write every regular file below `folder` into `target`, atomically; needs memory for about twice their size.

    Empty folders are left out. Raises BundleError, with `target` untouched, for a tree without files, a link,
    device or pipe, a name that some file system cannot hold, or more than `limits` allow.
    """
    if target.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"cannot pack {folder} into {target}: the bundle would become part of the next one")
    try:
        tar = _tar(folder, limits if limits is not None else Limits())
    except BundleError as error:
        raise BundleError(f"cannot pack {folder}: {error}") from None
    parameters: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _LEVEL,
        zstd.CompressionParameter.content_size_flag: 1,
        zstd.CompressionParameter.checksum_flag: 0,
        zstd.CompressionParameter.nb_workers: 0,
    }
    packed = zstd.compress(tar, options=parameters)
    atomic_write(target, packed)
    return BundleInfo(sha256_bytes(packed), len(packed))


def extract(archive: Path, folder: Path, *, limits: Limits | None = None) -> list[str]:
    """Unpack `archive` into the new folder `folder`; its names, as in the archive.

    `folder` must not exist or be empty, its parent must exist. The files appear all at once, durably, when every check
    has passed; on any error nothing is left. Raises BundleError for an archive that is not what `pack` writes.
    """
    folder = Path(os.path.abspath(folder))
    if os.path.lexists(folder) and not (_is_empty_folder(folder)):
        raise BundleError(f"cannot unpack {archive} into {folder}: it is there already; name a new folder")
    if not folder.parent.is_dir():
        raise BundleError(f"cannot unpack {archive} into {folder}: the folder {folder.parent} does not exist")
    temporary = temporary_name(folder)
    try:
        temporary.mkdir()
        names = _unpack(archive, temporary, limits if limits is not None else Limits())
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except BundleError as error:
        raise BundleError(f"{archive} is refused: {error}. Nothing was unpacked.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_folder(folder.parent)
    return names


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


class _Names:
    """The names of one bundle, so that no two of them meet on any file system."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}  # name without case -> name, whether it is a file

    def add(self, name: str) -> None:
        """Note the file `name`. Raises BundleError if it is not portable or meets an earlier one."""
        _require_portable(name)
        parts = name.split("/")
        for depth in range(1, len(parts)):
            self._add("/".join(parts[:depth]), is_file=False)
        self._add(name, is_file=True)

    def _add(self, path: str, *, is_file: bool) -> None:
        earlier = self._seen.get(path.lower())
        if earlier is None:
            self._seen[path.lower()] = (path, is_file)
        elif earlier[0] != path:
            raise BundleError(
                f"{path!r} and {earlier[0]!r} differ in case only, which Windows and macOS cannot hold"
            )
        elif earlier[1] != is_file:
            raise BundleError(f"{path!r} is both a file and a folder")
        elif is_file:
            raise BundleError(f"{path!r} is there twice")


def _require_portable(name: str) -> None:
    """Refuse what Linux, Windows or macOS cannot hold under this very name, or would take for a place elsewhere."""
    if len(name) > _MAX_NAME_CHARS:
        raise BundleError(
            f"the name {name!r} has {len(name)} characters; at most {_MAX_NAME_CHARS} are allowed"
        )
    for part in name.split("/"):
        if _COMPONENT.fullmatch(part) is None or part[-1] in ". " or _RESERVED.fullmatch(part) is not None:
            raise BundleError(
                f"the name {name!r} is not portable; expected a relative path of plain ASCII parts, without '..', a "
                'trailing dot or space, any of <>:"\\|?*, and names that Windows reserves, such as NUL or COM1'
            )


def _tar(folder: Path, limits: Limits) -> bytearray:
    """The canonical tar of `folder`."""
    files = sorted(_files_below(folder, ""))
    if not files:
        raise BundleError("there is no file in it")
    names, tar, total_bytes = _Names(), bytearray(), 0
    for count, name in enumerate(files, start=1):
        names.add(name)
        size_bytes = (folder / name).stat().st_size
        total_bytes += size_bytes
        _require_within(limits, count, total_bytes)
        data = (folder / name).read_bytes()
        if len(data) != size_bytes:
            raise BundleError(f"{name!r} changed while it was read; pack after the writer has finished")
        tar += _header(name, size_bytes) + data + _padding(size_bytes)
    return tar + _END


def _files_below(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            _require_portable(name)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _files_below(Path(entry.path), f"{name}/")
            elif stat.S_ISREG(mode):
                yield name
            else:
                raise BundleError(
                    f"{name!r} is a link, device or pipe; only regular files and folders are packed"
                )


def _require_within(limits: Limits, files: int, total_bytes: int) -> None:
    if files > limits.max_files:
        raise BundleError(f"it has more than {limits.max_files} files")
    if total_bytes > limits.max_total_bytes:
        raise BundleError(f"its files have more than {limits.max_total_bytes} bytes")


def _header(name: str, size_bytes: int) -> bytes:
    """The one header block that a file of this name and size has."""
    zero = b"0000000\x00"
    head = name.encode("ascii").ljust(100, b"\x00") + b"0000644\x00" + zero * 2  # name, mode, owner, group
    head += b"%011o\x00" % size_bytes + b"00000000000\x00"  # size, time
    tail = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + zero * 2 + bytes(167)  # type, ..., device, prefix
    checksum = sum(head) + sum(tail) + 8 * ord(" ")  # summed with its own field blank
    return head + b"%06o\x00 " % checksum + tail


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK)


def _entry(block: bytes) -> tuple[str, int]:
    """Name and size from a header block, which must be exactly the one that `_header` makes of them."""
    kind = _KINDS.get(block[156:157])
    if kind is not None:
        raise BundleError(
            f"the entry {block[:100].rstrip(bytes(1))!r} is a {kind}; only regular files are allowed"
        )
    if _SIZE.fullmatch(block[124:136]) is None:
        raise BundleError(
            f"the entry {block[:100].rstrip(bytes(1))!r} has the malformed size {block[124:136]!r}"
        )
    size_bytes = int(block[124:135], 8)
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise BundleError(f"the name {block[:100]!r} is not ASCII") from None
    if block != _header(name, size_bytes):
        raise BundleError(f"the header of {name!r} is damaged or was written by another program")
    return name, size_bytes


class _TarStream:
    """The tar inside an archive, decompressed only as far as it is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zstd = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        )
        self._ready = bytearray()

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes; BundleError if there are fewer."""
        while len(self._ready) < count:
            if not self._more():
                raise BundleError("its tar ends in the middle")
        taken = bytes(self._ready[:count])
        del self._ready[:count]
        return taken

    def require_end(self) -> None:
        """Refuse any further byte, inside the zstd frame or after it."""
        while not self._ready and self._more():
            pass
        if self._ready or self._zstd.unused_data or self._file.read(1):
            raise BundleError("something follows the end of its tar")

    def _more(self) -> bool:
        """Decompress up to 1 MiB more; False at the end of the frame."""
        if self._zstd.eof:
            return False
        data = self._file.read(_COPY_BYTES) if self._zstd.needs_input else b""
        if self._zstd.needs_input and not data:
            raise BundleError("its zstd frame ends in the middle")
        try:
            self._ready += self._zstd.decompress(data, max_length=_COPY_BYTES)
        except zstd.ZstdError as error:
            raise BundleError(f"it is no zstd frame that can be read: {error}") from None
        return True


def read_members(
    archive: Path, wanted: Callable[[str, int], bool], *, limits: Limits | None = None
) -> tuple[list[tuple[str, int]], dict[str, bytes]]:
    """All files of `archive` as (name, size in bytes), and the content of those that are wanted. Writes nothing.

    `wanted(name, size_bytes)` is asked once for each file, in the order of the archive, before the file is read; what
    it accepts is held in memory. The archive passes the same checks as in `extract`, to its end. Raises BundleError.
    """
    found: list[tuple[str, int]] = []
    kept: dict[str, bytes] = {}

    def take(name: str, pieces: Iterator[bytes], size_bytes: int) -> None:
        found.append((name, size_bytes))
        if wanted(name, size_bytes):
            kept[name] = b"".join(pieces)
        else:
            for _ in pieces:
                pass

    try:
        _walk(archive, take, limits if limits is not None else Limits())
    except BundleError as error:
        raise BundleError(f"{archive.name} is refused: {error}") from None
    return found, kept


def _unpack(archive: Path, folder: Path, limits: Limits) -> list[str]:
    """Write the files of `archive` below `folder`, which must be empty and ours alone; make them durable."""
    written = _walk(archive, lambda name, pieces, size_bytes: _write_file(pieces, folder / name), limits)
    for path, _, _ in os.walk(folder, topdown=False):
        fsync_folder(Path(path))
    return written


def _walk(archive: Path, take: Callable[[str, Iterator[bytes], int], None], limits: Limits) -> list[str]:
    """Check `archive` from its first byte to its last and hand each file to `take(name, pieces, size in bytes)`, which
    reads all of its pieces; the names."""
    names, seen, total_bytes = _Names(), list[str](), 0
    with open(archive, "rb") as file:
        stream = _TarStream(file)
        while (block := stream.read(_BLOCK)) != bytes(_BLOCK):
            name, size_bytes = _entry(block)
            names.add(name)
            if seen and name < seen[-1]:
                raise BundleError(f"{name!r} stands after {seen[-1]!r}; the names must be sorted")
            total_bytes += size_bytes
            _require_within(limits, len(seen) + 1, total_bytes)
            take(name, _pieces(stream, size_bytes), size_bytes)
            if any(stream.read(-size_bytes % _BLOCK)):
                raise BundleError(f"the padding after {name!r} is not zero")
            seen.append(name)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            raise BundleError("a single block of zeros stands where the tar should end")
        stream.require_end()
    if not seen:
        raise BundleError("there is no file in it")
    return seen


def _pieces(stream: _TarStream, size_bytes: int) -> Iterator[bytes]:
    """The next `size_bytes`, at most 1 MiB at a time."""
    for start in range(0, size_bytes, _COPY_BYTES):
        yield stream.read(min(_COPY_BYTES, size_bytes - start))


def _write_file(pieces: Iterator[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(create_exclusive(path), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
