"""Asks the receiver as the identity in a folder: is it taken, and was its worker seen?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.fleet.credentials import About
from training.fleet.tls_identity import Identity
from training.fleet.transport import FleetError, Refused, Transport

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What the receiver thinks of an identity."""

    kind: Literal["accepted", "refused", "unreachable"]
    text: str = ""
    """Why not; of an accepted one, what keeps it from working all the same."""


class Member:
    """Raises FleetError for all that keeps a question from being answered."""

    def __init__(self, folder: Path, wall_s: Callable[[], float]) -> None:
        """Raises CredentialsError when the folder holds no usable identity."""
        identity = Identity(folder, wall_s)
        self.about: About = identity.about
        self._wall_s = wall_s
        self._transport = Transport(identity.about.url, {}, TIMEOUT_S, identity)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def workers(self) -> list[dict[str, object]]:
        """The hosts, as much of each as this identity may see."""
        rows = self._transport.json("GET", "/v1/workers", None, {}).get("workers")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def seen_at(self) -> float | None:
        """When the receiver last heard of this host's worker, by its clock; None: never."""
        for row in self.workers():
            found = row.get("last_seen_at")
            if row.get("host") == self.about.name and isinstance(found, int | float):
                return float(found)
        return None

    def their_clock(self) -> float:
        """The receiver's clock; this one where it does not say."""
        found = self._transport.clock("/v1/health")
        return self._wall_s() if found is None else found


@contextlib.contextmanager
def member(folder: Path, wall_s: Callable[[], float] = time.time) -> Iterator[Member]:
    """Raises CredentialsError when the folder holds no usable identity."""
    found = Member(folder, wall_s)
    try:
        yield found
    finally:
        found.close()


def standing(folder: Path, wall_s: Callable[[], float] = time.time) -> Standing:
    """Ask. A host that the manifest does not name is accepted: that is mended there, not by another certificate."""
    with member(folder, wall_s) as us:
        try:
            us.workers()
        except Refused as refusal:
            said = str(refusal.body.get("error") or refusal.reason)
            if refusal.status == 401:
                return Standing("refused", said)
            return Standing("accepted" if refusal.status == 403 else "unreachable", said)
        except FleetError as error:
            return Standing("unreachable", str(error))
    return Standing("accepted")
