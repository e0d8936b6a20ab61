"""A disk in memory that knows what is safe: after a power cut any part of what was not synced may be missing.

SQLite writes to it through a VFS of apsw. Per file it keeps what was synced and, in order, what was written
since. A *moment* is that knowledge at one instant; of each moment many *images* are possible: every write
since the last sync of its file is there, or is not, or is there in some of its 512-byte sectors.

What it cannot show: a disk that lies about a sync, sectors that go bad, a file system that loses names (a new
file's name counts as safe at once, which the queue's own code sees to; a deleted file may come back). As
on the real VFS, a write leaves the bytes beside it alone (SQLITE_IOCAP_POWERSAFE_OVERWRITE).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import apsw

from cis490.database import sqlite

SECTOR_BYTES = 512
WAL_PAGES = 24
"""Checkpoint so often that every scenario has several."""

Write = tuple[int, bytes]
"""(offset, data); an offset of -1: the file was cut, to the length that the data's eight bytes say."""


@dataclass
class Stored:
    """One file."""

    live: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[Write] = field(default_factory=list)
    before: bytes | None = None
    """What an unsynced deletion may leave behind, until the new file of that name is synced."""
    new: bool = True
    """Its first sync is one of the folder too, as SQLite's own VFS does it."""


@dataclass(frozen=True)
class Remains:
    """What is known of one file at a moment."""

    synced: bytes
    pending: tuple[Write, ...]
    before: bytes | None

    def draw(self, chance: random.Random, *, keep: float) -> bytearray:
        """One possible content after the cut; each pending write is kept with the probability `keep`."""
        if self.before is not None and chance.random() < 0.5:
            return bytearray(self.before)
        content = bytearray(self.synced)
        for offset, data in self.pending:
            lot = chance.random()
            if lot < keep:
                apply(content, offset, data)
            elif lot < keep + 0.1 and offset >= 0:
                for start, part in _sectors(offset, data):
                    if chance.random() < 0.5:
                        apply(content, start, part)
        return content


Moment = Mapping[str, Remains]


def apply(content: bytearray, offset: int, data: bytes) -> None:
    if offset < 0:
        del content[int.from_bytes(data, "big") :]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes) -> Iterator[Write]:
    position = 0
    while position < len(data):
        room = SECTOR_BYTES - (offset + position) % SECTOR_BYTES
        yield offset + position, data[position : position + room]
        position += room


class Disk:
    """All files of one machine. `on_change` is called after each write, cut, sync and deletion."""

    def __init__(self, contents: Mapping[str, bytes] | None = None) -> None:
        self.files = {path: Stored(bytearray(data), bytes(data)) for path, data in (contents or {}).items()}
        self.gone: dict[str, bytes] = {}
        self.on_change: Callable[[], None] = lambda: None

    def moment(self) -> Moment:
        found = {path: Remains(f.synced, tuple(f.pending), f.before) for path, f in self.files.items()}
        return found | {path: Remains(b"", (), data) for path, data in self.gone.items()}

    def open(self, path: str) -> Stored:
        if path not in self.files:
            self.files[path] = Stored(before=self.gone.pop(path, None))
        return self.files[path]

    def sync(self, file: Stored) -> None:
        file.synced, file.pending, file.before = bytes(file.live), [], None
        if file.new:
            file.new = False
            self.gone.clear()
        self.on_change()

    def delete(self, path: str, *, synced: bool) -> None:
        """Without a sync of the folder the name may come back, with what it last had for sure."""
        file = self.files.pop(path, None)
        if file is not None and not synced:
            self.gone[path] = file.synced
        self.on_change()


class PowerVFS(apsw.VFS):
    """Lets SQLite open files of `disk`, under the name `power`."""

    def __init__(self) -> None:
        self.disk = Disk()
        super().__init__("power", base="", maxpathname=1024)

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - SQLite's names
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return pathname in self.disk.files

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.disk.delete(filename, synced=syncdir)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _File(self.disk, self.disk.open(path))


class _File:
    """An open file, as apsw wants it. Nobody shares it, so locks are always granted."""

    def __init__(self, disk: Disk, file: Stored) -> None:
        self._disk, self._file = disk, file

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.live[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._change(offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._change(-1, newsize.to_bytes(8, "big"))

    def _change(self, offset: int, data: bytes) -> None:
        apply(self._file.live, offset, data)
        self._file.pending.append((offset, data))
        self._disk.on_change()

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._file)

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.live)

    def xClose(self) -> None:  # noqa: N802
        pass

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


class Row:
    """A row as `sqlite3.Row` gives it."""

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        self._names, self._values = names, values

    def keys(self) -> list[str]:
        return list(self._names)

    def __getitem__(self, key: str | int) -> Any:
        return self._values[key if isinstance(key, int) else self._names.index(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class Result:
    """A cursor that has fetched everything already."""

    rows: list[Row]
    rowcount: int

    def fetchone(self) -> Row | None:
        return self.rows.pop(0) if self.rows else None

    def fetchall(self) -> list[Row]:
        found, self.rows = self.rows, []
        return found

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchall())


class Connection:
    """What the queue uses of `sqlite3.Connection`, on apsw."""

    def __init__(self, path: str) -> None:
        self.row_factory: object = None
        self._apsw = apsw.Connection(path, vfs="power")
        self._apsw.row_trace = lambda cursor, row: Row(
            [column[0] for column in cursor.get_description()], row
        )
        self.execute("PRAGMA locking_mode = EXCLUSIVE")  # a VFS in Python has no shared memory
        self.execute("PRAGMA temp_store = MEMORY")
        self.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")

    @property
    def in_transaction(self) -> bool:
        return self._apsw.in_transaction

    def execute(self, statement: str, values: Any = ()) -> Result:
        try:
            rows = cast(list[Row], self._apsw.cursor().execute(statement, values).fetchall())
        except apsw.ConstraintError as error:
            raise sqlite3.IntegrityError(str(error)) from error
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
        return Result(rows, self._apsw.changes())

    def executemany(self, statement: str, values: Iterable[Any]) -> Result:
        return Result([], sum(self.execute(statement, one).rowcount for one in values))

    def close(self) -> None:
        self._apsw.close()


class _Reading:
    """A reader: here the writing connection itself, which only its owner closes."""

    def __init__(self, connection: Connection) -> None:
        self.execute = connection.execute

    def close(self) -> None:
        pass


class Machine:
    """Opens databases on a disk that can be exchanged: `connect` stands in for `cis490.database.sqlite.connect`."""

    def __init__(self, synchronous: str | None = None) -> None:
        self._vfs = PowerVFS()
        self._writing: Connection | None = None
        self._synchronous = synchronous
        """Another PRAGMA synchronous than the program's own, to see the difference."""

    @property
    def disk(self) -> Disk:
        return self._vfs.disk

    def boot(self, disk: Disk) -> None:
        self._vfs.disk = disk

    def connect(self, path: str, *, readonly: bool = False) -> sqlite3.Connection:
        if readonly:
            assert self._writing is not None
            return cast(sqlite3.Connection, _Reading(self._writing))
        self._writing = Connection(path)
        connection = cast(sqlite3.Connection, self._writing)
        sqlite._set_up(connection, path, readonly=False)
        if self._synchronous is not None:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection
