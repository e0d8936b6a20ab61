"""How SQLite is opened, and that a migration happens once or not at all."""

import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cis490.database.sqlite import DatabaseError, connect, migrate, schema_version

ONE = (1, "CREATE TABLE colour (name TEXT PRIMARY KEY); INSERT INTO colour VALUES ('red;')")
TWO = (
    2,
    """
    CREATE TABLE log (what TEXT);
    CREATE TRIGGER colour_added AFTER INSERT ON colour BEGIN
        INSERT INTO log VALUES (new.name);
        INSERT INTO log VALUES ('second; statement');
    END;
    -- and a comment at the end
    """,
)
BROKEN = (3, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);")

Connect = Callable[..., sqlite3.Connection]


@pytest.fixture
def opened() -> Iterator[Connect]:
    """`connect`, with every connection closed at the end of the test."""
    connections: list[sqlite3.Connection] = []

    def open_one(path: Path | str, *, readonly: bool = False) -> sqlite3.Connection:
        connections.append(connect(str(path), readonly=readonly))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_connection_is_set_up_to_survive_a_power_cut(tmp_path: Path, opened: Connect) -> None:
    connection = opened(tmp_path / "jobs.db")
    found = {
        name: pragma(connection, name)
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    assert connection.isolation_level is None


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_the_file_and_its_journal_are_for_the_owner_alone(tmp_path: Path, opened: Connect) -> None:
    opened(tmp_path / "db" / "jobs.db").execute("CREATE TABLE t (x)")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "db").iterdir()}
    assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600}


@pytest.mark.parametrize("name", ["a b.db", "what?.db", "50%25.db", "#1.db"])
def test_any_file_name_is_taken_as_it_stands(tmp_path: Path, opened: Connect, name: str) -> None:
    opened(tmp_path / name).execute("CREATE TABLE t (x)")
    assert (tmp_path / name).stat().st_size > 0 or (tmp_path / f"{name}-wal").stat().st_size > 0


def test_rows_are_read_by_name(opened: Connect) -> None:
    assert opened(":memory:").execute("SELECT 7 AS answer").fetchone()["answer"] == 7


def test_databases_in_memory_are_separate(opened: Connect) -> None:
    opened(":memory:").execute("CREATE TABLE t (x)")
    assert opened(":memory:").execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0


def test_a_reader_sees_commits_and_cannot_write(tmp_path: Path, opened: Connect) -> None:
    migrate(opened(tmp_path / "jobs.db"), [ONE])
    reader = opened(tmp_path / "jobs.db", readonly=True)
    assert [row["name"] for row in reader.execute("SELECT name FROM colour")] == ["red;"]
    with pytest.raises(sqlite3.OperationalError, match=r"readonly|read-only"):
        reader.execute("DELETE FROM colour")


def test_a_reader_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"cannot open the database .*jobs\.db"):
        connect(str(tmp_path / "jobs.db"), readonly=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("readonly", [False, True])
def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path, readonly: bool) -> None:
    (tmp_path / "notes.txt").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseError, match=r"notes\.txt: file is not a database"):
        connect(str(tmp_path / "notes.txt"), readonly=readonly)
    assert (tmp_path / "notes.txt").read_bytes() == b"not a database at all" * 100


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot open the database"):
        connect(str(tmp_path))


def test_migrations_are_applied_in_order_and_once(tmp_path: Path, opened: Connect) -> None:
    connection = opened(tmp_path / "jobs.db")
    migrate(connection, [ONE])
    migrate(connection, [ONE, TWO])
    migrate(connection, [ONE, TWO])
    connection.execute("INSERT INTO colour VALUES ('blue')")
    assert schema_version(connection) == 2
    assert [row[0] for row in connection.execute("SELECT what FROM log")] == ["blue", "second; statement"]


def test_a_failing_migration_leaves_the_version_before_it(opened: Connect) -> None:
    connection = opened(":memory:")
    with pytest.raises(DatabaseError, match="migration 3 of :memory: failed: no such table: nowhere"):
        migrate(connection, [ONE, TWO, BROKEN])
    assert schema_version(connection) == 2
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone()[0] == 0


def test_a_database_of_a_newer_program_is_refused_and_unchanged(tmp_path: Path, opened: Connect) -> None:
    connection = opened(tmp_path / "jobs.db")
    migrate(connection, [ONE, TWO])
    with pytest.raises(
        DatabaseError, match=r"jobs\.db has schema version 2, this program knows versions up to 1"
    ):
        migrate(connection, [ONE])
    assert schema_version(connection) == 2


def test_two_processes_that_migrate_at_once_do_it_once(tmp_path: Path, opened: Connect) -> None:
    """Both find version 0; the second gets the lock only when the first has finished."""
    first, second = opened(tmp_path / "jobs.db"), opened(tmp_path / "jobs.db")
    assert schema_version(first) == schema_version(second) == 0

    def be_faster(statement: str) -> None:
        if statement.startswith("BEGIN"):
            second.set_trace_callback(None)
            migrate(first, [ONE])

    second.set_trace_callback(be_faster)
    migrate(second, [ONE])
    assert schema_version(first) == schema_version(second) == 1
    assert second.execute("SELECT count(*) FROM colour").fetchone()[0] == 1


def test_migration_numbers_have_no_gap(opened: Connect) -> None:
    with pytest.raises(ValueError, match=r"numbered 1, 2, 3, \.\.\.; found \[1, 3\]"):
        migrate(opened(":memory:"), [ONE, BROKEN])
