"""May this machine leave the fleet: is a result of its work still here that the receiver has not got?"""

from __future__ import annotations

import json
from pathlib import Path


def undelivered(state_dir: Path) -> list[str]:
    """The jobs whose results lie in the state folder, by name. OSError when it cannot be read.

    A packed result without a lease is none: the worker removes it at its next start. Changes nothing.
    """
    leases = state_dir / "leases"
    if not leases.exists():
        return []
    return [_name(path) for path in sorted(leases.glob("*.json")) if _is_owed(path, state_dir)]


def _is_owed(lease: Path, state_dir: Path) -> bool:
    key = lease.stem
    if (state_dir / "spool" / f"{key}.tar.zst").exists() or (state_dir / "jobs" / key / "end.json").exists():
        return True  # packed, or the trainer has ended and the worker had no time to pack
    try:
        ending = json.loads(lease.read_bytes())["ending"]
    except (ValueError, TypeError, KeyError):
        return False  # the worker cannot read it either, and nothing belongs to it
    return isinstance(ending, dict) and ending.get("kind") == "complete"


def _name(lease: Path) -> str:
    try:
        return str(json.loads(lease.read_bytes())["name"])
    except (ValueError, TypeError, KeyError):
        return lease.stem
