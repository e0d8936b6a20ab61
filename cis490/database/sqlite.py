"""SQLite opened so that what was committed survives a power cut, and schema changes applied once each.

WAL with `synchronous=FULL`: with NORMAL a commit that was already acknowledged can be lost with the power.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from cis490.files import create_exclusive, fsync_folder, make_folders

_MEMORY = ":memory:"
_BUSY_TIMEOUT_S = 5.0


class DatabaseError(Exception):
    """The database file cannot be used as it is; the text names the file and says what to do."""


def connect(path: str, *, readonly: bool = False) -> sqlite3.Connection:
    """Open (and create, with mode 0600, missing folders too) the database at `path`, or `:memory:`.

    Autocommit: the caller writes BEGIN and COMMIT. Rows are `sqlite3.Row`. Another process's write is waited for up
    to 5 s. The connection may be used from any thread, by one at a time. With `readonly` the file must exist
    and nothing is written to it. Raises DatabaseError.
    """
    try:
        return _connect(path, readonly)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseError(
            f"cannot open the database {path}: {error}. Check that it is a SQLite file that this user may "
            f"{'read' if readonly else 'read and write, in a folder where it may create files'}: ls -la {path}"
        ) from error


def _connect(path: str, readonly: bool) -> sqlite3.Connection:
    if path != _MEMORY and not readonly:
        _create_private(Path(path))
    mode = "memory" if path == _MEMORY else "ro" if readonly else "rw"
    name = (
        f"file::memory:?mode={mode}" if path == _MEMORY else f"{Path(path).absolute().as_uri()}?mode={mode}"
    )
    connection = sqlite3.connect(
        name, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(connection, path, readonly)
    except BaseException:
        connection.close()
        raise
    return connection


def _create_private(path: Path) -> None:
    """An empty 0600 file that SQLite then fills; its -wal and -shm files take over the mode."""
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):
        os.close(create_exclusive(path, 0o600))
        fsync_folder(path.parent)


def _set_up(connection: sqlite3.Connection, path: str, readonly: bool) -> None:
    connection.row_factory = sqlite3.Row
    if readonly:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_schema")
        return
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal" and path != _MEMORY:
        raise sqlite3.OperationalError(
            f"its file system offers journal mode {journal!r} only, not WAL; use a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of the last migration that was applied; 0 for a new database."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, migrations: Sequence[tuple[int, str]]) -> None:
    """Bring the schema up to the last of `migrations`: (number from 1 on without a gap, SQL script).

    Each runs in one transaction together with its number, so that a crash leaves the old schema or the new one.
    Raises DatabaseError, with nothing changed, if the database was written by newer code, and on a
    script that fails (the earlier ones stay applied).
    """
    numbers = [number for number, _ in migrations]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"migrations must be numbered 1, 2, 3, ...; found {numbers}")
    found = schema_version(connection)
    if found > len(numbers):
        raise DatabaseError(
            f"the database {_file_of(connection)} has schema version {found}, this program knows versions up to "
            f"{len(numbers)}: it was written by a newer program. Update this one, or restore an older backup."
        )
    for number, script in migrations[found:]:
        _apply(connection, number, script)


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if schema_version(connection) < number:  # else another process was faster
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise DatabaseError(f"migration {number} of {_file_of(connection)} failed: {error}") from error
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements one by one: `executescript` would commit the transaction around them."""
    start = 0
    for position, character in enumerate(script):
        if character == ";" and sqlite3.complete_statement(script[start : position + 1]):
            yield script[start : position + 1]
            start = position + 1
    if script[start:].strip():
        yield script[start:]


def _file_of(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    return str(row[0]) or _MEMORY
