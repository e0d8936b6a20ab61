"""What a queue that is moved aside knows of revocations, and an older backup does not, carried into the latter.

Without it a restored backup would let in again who was revoked since. What is unsure ends with nobody let in: a
certificate that the former queue issued without knowing of a revocation in the backup is not carried.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_CERTIFICATE = "serial, role, name, key_id, not_before, not_after, issued_at, how, revoked_at, revoked_reason"


def carry(former: Path, restored: Path) -> int | None:
    """How many revocations `restored` learned from `former`; None when they cannot be read or written."""
    try:
        with closing(sqlite3.connect(former)) as old:
            revoked = old.execute("SELECT role, name, revoked_at, reason FROM revoked_identities").fetchall()
            issued = old.execute(f"SELECT {_CERTIFICATE} FROM certificates").fetchall()
        with closing(sqlite3.connect(restored)) as new, new:
            return _merge(new, revoked, issued)
    except sqlite3.Error:
        return None


def _merge(
    new: sqlite3.Connection, revoked: list[tuple[str, str, float, str]], issued: list[tuple[object, ...]]
) -> int:
    rows = new.execute("SELECT role, name, revoked_at FROM revoked_identities")
    known = {(role, name): at for role, name, at in rows}
    learned = [row for row in revoked if row[2] > known.get(row[:2], float("-inf"))]
    for role, name, at, reason in learned:
        new.execute("INSERT OR REPLACE INTO revoked_identities VALUES (?, ?, ?, ?)", (role, name, at, reason))
        new.execute(
            "UPDATE certificates SET revoked_at = ?, revoked_reason = ? "
            "WHERE role = ? AND name = ? AND revoked_at IS NULL AND issued_at <= ?",
            (at, reason, role, name, at),
        )
        new.execute(
            "UPDATE join_tokens SET expires_at = 0 WHERE role = ? AND name = ? AND created_at <= ?",
            (role, name, at),
        )
    told = {(role, name): at for role, name, at, _ in revoked}
    marks = ", ".join("?" * len(_CERTIFICATE.split(", ")))
    for row in issued:
        who = (str(row[1]), str(row[2]))
        if known.get(who, float("-inf")) > told.get(who, float("-inf")):
            continue  # it may have been renewed by a queue that had forgotten the revocation
        new.execute(f"INSERT OR IGNORE INTO certificates ({_CERTIFICATE}) VALUES ({marks})", row)
    return len(learned)
