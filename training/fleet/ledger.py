"""The database under the queue: one writing connection, transactions that nest, a mirror that is rebuilt.

Durability: SQLite in WAL mode with `synchronous=FULL`. What was committed survives kill -9 and a power cut.

Memory that mirrors the database is only read and changed by the holder of the lock, and the lock is
held until the commit, so nobody sees what may still be rolled back. After any rollback the mirror is
rebuilt (`rebuild`), and what memory alone knew is put back (`on_rollback`). The one exception is the
renewal of a lease, which may happen during a commit; `settle` tells when memory and disk agree.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cis490.database import sqlite
from cis490.failpoints import failpoint
from training.fleet.sql import MIGRATIONS, STATEMENTS

T = TypeVar("T")
MEMORY = ":memory:"
_AUDITS = frozenset(name for name in STATEMENTS if name.startswith("audit_") and name.endswith("add"))


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
        self._followers: list[Callable[[], None]] = []
        self._open = self._torn = False
        """Whether a transaction runs; whether taking one back failed half-way (the disk did not even let us read)."""
        self._half_done = False
        """A part of the request that runs has failed: nothing of that request may be kept."""
        self._audited = False
        """The running transaction has written to the audit trail."""
        self.on_audit: Callable[[], None] = lambda: None
        """Called after a commit that added audit rows, by the thread that committed and with the lock held."""
        self._connection = sqlite.connect(self._path)
        sqlite.migrate(self._connection, MIGRATIONS)
        failpoint("ledger.migrated")

    def close(self) -> None:
        """Close the database; nobody may use this object afterwards."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._connection.close()

    @abstractmethod
    def rebuild(self) -> None:
        """Make memory agree with the database again; called after every rollback."""

    @abstractmethod
    def settle(self) -> None:
        """What memory shows now is what the disk holds: a transaction was committed, or taken back whole."""

    def on_rollback(self, restore: Callable[[], None]) -> None:
        """How to take back what the running transaction is about to change in memory alone."""
        self._restorers.append(restore)

    def after_commit(self, follow: Callable[[], None]) -> None:
        """What to do in memory once the running transaction is committed, with the lock held. It must not fail.

        Nothing of it happens when the request that asked for it, or the whole transaction, is taken back.
        """
        self._followers.append(follow)

    def execute(self, statement: str, /, **values: Any) -> sqlite3.Cursor:
        """A named statement on the writing connection; the caller holds the lock."""
        if statement in _AUDITS:
            self._audited = True
        return self._connection.execute(STATEMENTS[statement], values)

    def read(self, statement: str, /, **values: Any) -> Sequence[sqlite3.Row]:
        """A named query on a connection of the reading thread's own: a long list never holds up a claim."""
        if self._path == MEMORY:
            with self._lock:
                return self.execute(statement, **values).fetchall()
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = sqlite.connect(self._path, readonly=True)
            self._readers.append(reader)  # not under the lock: a first read would wait for a commit
        return reader.execute(STATEMENTS[statement], values).fetchall()

    @property
    def folder(self) -> Path | None:
        """Where the database lies; None for one in memory."""
        return None if self._path == MEMORY else Path(self._path).parent

    def size_bytes(self) -> int:
        """Of the database with its log; 0 in memory."""
        found = 0
        for name in () if self._path == MEMORY else (self._path, f"{self._path}-wal"):
            with contextlib.suppress(FileNotFoundError):  # the log goes with the last connection
                found += os.stat(name).st_size
        return found

    def still(self) -> AbstractContextManager[object]:
        """While this is held nobody changes memory: for a look at it that needs no transaction."""
        return self._lock

    def run_batch(self, calls: Iterable[Callable[[], T]]) -> list[T | Exception]:
        """Run the calls in one transaction, a savepoint each: one that raises loses only its own work.

        Raises `QueueUnavailable` when the commit fails: then nothing of the batch has happened.
        """
        with self._lock, self._transaction():
            return [self._request(call) for call in calls]

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One event: a transaction of its own, or a part of the one that runs.

        What is raised in a part must travel on to the end of its request, which is where it is taken back. A
        request that catches it on the way is refused as a whole (AssertionError).
        """
        with self._lock:
            if not self._open:
                with self._transaction():
                    yield
                return
            try:
                yield
            except BaseException:
                self._half_done = True
                raise

    def _be_whole(self) -> None:
        if self._half_done:
            raise AssertionError("a part of this request failed, and it went on: nothing of it is kept")

    def _request(self, call: Callable[[], T]) -> T | Exception:
        """One call of a batch: its result, or what it raised, with its own work taken back."""
        mark, followers = len(self._restorers), len(self._followers)
        try:
            self._connection.execute("SAVEPOINT request")
            result = call()
            self._be_whole()
            self._connection.execute("RELEASE request")
        except Exception as error:  # whoever made that request gets it
            if not self._connection.in_transaction:  # a full disk: SQLite took the whole batch back
                raise self._unavailable(error) from error
            del self._followers[followers:]
            self._undo(mark, "ROLLBACK TO request", "RELEASE request")
            if not isinstance(error, sqlite3.Error | OSError):
                return error
            failed = self._unavailable(error)
            failed.__cause__ = error
            return failed
        return result

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._begin()
        try:
            yield
            self._be_whole()
        except BaseException:
            self._roll_back()
            raise
        try:
            failpoint("ledger.before_commit")
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            raise QueueUnavailable(
                f"{self._path}: the commit failed ({error}); nothing was changed"
            ) from error
        self._open = False
        self._restorers.clear()
        self.settle()
        followers, self._followers = self._followers, []
        for follow in followers:
            follow()
        if self._audited:
            self._audited = False
            self.on_audit()
        failpoint("ledger.committed")

    def _begin(self) -> None:
        try:
            failpoint("ledger.before_begin")
            if self._torn:
                self._roll_back()
            self._connection.execute("BEGIN")
            self._open = True
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _roll_back(self) -> None:
        self._open = False
        self._followers.clear()
        self._undo(0, "ROLLBACK")
        self.settle()

    def _undo(self, mark: int, *statements: str) -> None:
        """Take the database back, then memory. When even that fails, the next transaction begins with it."""
        self._torn, self._half_done = True, False
        for restore in reversed(self._restorers[mark:]):
            restore()
        del self._restorers[mark:]
        if self._connection.in_transaction:  # some errors (a full disk) have rolled back already
            for statement in statements:
                self._connection.execute(statement)
        self.rebuild()
        self._torn = False

    def _unavailable(self, error: Exception) -> QueueUnavailable:
        return QueueUnavailable(f"{self._path}: {error}; nothing was changed")
