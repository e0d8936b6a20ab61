"""The database under the queue: one writing connection, transactions that nest, a mirror that is rebuilt.

Durability: SQLite in WAL mode with `synchronous=FULL`. What was committed survives kill -9 and a power cut.

Memory that mirrors the database is only read and changed by the holder of the lock, and the lock is
held until the commit, so nobody sees what may still be rolled back. After any rollback the mirror is
rebuilt (`rebuild`), and what memory alone knew is put back (`on_rollback`).
"""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cis490.database import sqlite
from training.fleet.sql import MIGRATIONS, STATEMENTS

T = TypeVar("T")
MEMORY = ":memory:"


class QueueUnavailable(Exception):
    """A write failed: nothing of the request was kept. The caller answers 503 and the worker tries again."""


class Ledger(ABC):
    """Transactions over the fleet's database. Thread-safe: one lock, held for a whole transaction."""

    def __init__(self, db_path: str | Path) -> None:
        self._path = str(db_path)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._restorers: list[Callable[[], None]] = []
        self._connection = sqlite.connect(self._path)
        sqlite.migrate(self._connection, MIGRATIONS)

    def close(self) -> None:
        """Close the database; nobody may use this object afterwards."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._connection.close()

    @abstractmethod
    def rebuild(self) -> None:
        """Make memory agree with the database again; called after every rollback."""

    def on_rollback(self, restore: Callable[[], None]) -> None:
        """How to take back what the running transaction is about to change in memory alone."""
        self._restorers.append(restore)

    def execute(self, statement: str, /, **values: Any) -> sqlite3.Cursor:
        """A named statement on the writing connection; the caller holds the lock."""
        return self._connection.execute(STATEMENTS[statement], values)

    def read(self, statement: str, /, **values: Any) -> Sequence[sqlite3.Row]:
        """A named query on a connection of the reading thread's own: a long list never holds up a claim."""
        if self._path == MEMORY:
            with self._lock:
                return self.execute(statement, **values).fetchall()
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = sqlite.connect(self._path, readonly=True)
            with self._lock:
                self._readers.append(reader)
        return reader.execute(STATEMENTS[statement], values).fetchall()

    def run_batch(self, calls: Iterable[Callable[[], T]]) -> list[T | Exception]:
        """Run the calls in one transaction, a savepoint each: one that raises loses only its own work.

        Raises `QueueUnavailable` when the commit fails: then nothing of the batch has happened.
        """
        results: list[T | Exception] = []
        with self._lock, self._transaction():
            for call in calls:
                try:
                    with self._transaction("request"):
                        results.append(call())
                except sqlite3.Error as error:
                    failed = QueueUnavailable(f"{self._path}: {error}; nothing was changed")
                    if not self._connection.in_transaction:  # a full disk: SQLite took the whole batch back
                        raise failed from error
                    results.append(failed)
                except Exception as error:  # noqa: BLE001 - whoever made that request gets it
                    results.append(error)
        return results

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One event: a transaction of its own, or a savepoint in the one that runs."""
        with self._lock, self._transaction("event" if self._connection.in_transaction else None):
            yield

    @contextmanager
    def _transaction(self, savepoint: str | None = None) -> Iterator[None]:
        mark = len(self._restorers)
        self._connection.execute(f"SAVEPOINT {savepoint}" if savepoint else "BEGIN")
        try:
            yield
        except BaseException:
            self._undo(savepoint, mark)
            raise
        try:
            self._connection.execute(f"RELEASE {savepoint}" if savepoint else "COMMIT")
        except sqlite3.Error as error:
            self._undo(savepoint, mark)
            raise QueueUnavailable(
                f"{self._path}: the commit failed ({error}); nothing was changed"
            ) from error
        if savepoint is None:
            self._restorers.clear()

    def _undo(self, savepoint: str | None, mark: int) -> None:
        if self._connection.in_transaction:  # some errors (a full disk) have rolled back already
            self._connection.execute(f"ROLLBACK TO {savepoint}" if savepoint else "ROLLBACK")
            if savepoint:
                self._connection.execute(f"RELEASE {savepoint}")
        for restore in reversed(self._restorers[mark:]):
            restore()
        del self._restorers[mark:]
        self.rebuild()
