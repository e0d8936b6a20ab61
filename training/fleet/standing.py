"""Whose certificates no longer count: the deny list, in memory, asked on every request.

An identity that was never revoked is denied nothing. One that was revoked is known by the certificates that were
issued to it *afterwards*: these count, every other one is denied, also one that no table knows (it was issued offline,
or before a backup was restored). So the list fails closed, and holds the revoked identities alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.fleet.ledger import Ledger


@dataclass(slots=True)
class _Revoked:
    reason: str
    good: set[str] = field(default_factory=set)
    """Serials that were issued after the revocation, lower-case hex."""


_List = Mapping[tuple[str, str], _Revoked]
"""(role, name) -> what is known of it; never changed once it is in use."""


class Standing:
    """Asked from any thread without waiting; replaced as a whole, after the commit of what changed it."""

    def __init__(self, ledger: Ledger) -> None:
        """Reads the tables; `ledger` is the receiver's queue."""
        self._ledger = ledger
        with ledger.still():
            self._revoked: _List = _read(ledger)

    def is_denied(self, role: str, name: str, serial: str) -> str | None:
        """Why this certificate of this identity no longer counts; None: it does. `serial` in lower-case hex."""
        found = self._revoked.get((role, name))
        return None if found is None or serial in found.good else found.reason or "no reason was given"

    def changed(self) -> None:
        """Called in a transaction, after it wrote: what it says is in force once it is committed.

        Read inside the transaction, so that nothing can fail between the commit and its effect.
        """
        found = _read(self._ledger)
        self._ledger.after_commit(lambda: self._put(found))

    def _put(self, found: _List) -> None:
        self._revoked = found


def _read(ledger: Ledger) -> _List:
    found: dict[tuple[str, str], _Revoked] = {}
    for row in ledger.execute("identities_revoked"):
        entry = found.setdefault((row["role"], row["name"]), _Revoked(row["reason"]))
        if row["serial"] is not None:
            entry.good.add(row["serial"])
    return MappingProxyType(found)
