"""What an answer leaves out for whom. Pure.

The text of an error may hold paths, commands and pieces of data. Whoever answers for the fleet sees it whole; a reader
sees its beginning, which says what kind of error it is; a host sees its own. docs/design/access.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.fleet.peers import Peer

READER_ERROR_CHARS = 200
FOR_OTHER_HOSTS = ("job_id", "name", "status")
"""Of a job that another host holds, or none."""


def job(peer: Peer, told: dict[str, Any]) -> dict[str, Any]:
    """An entry of `GET /v1/jobs`, or a job in full, as this peer may see it. May be the one that was given."""
    if peer.role == "host" and told["claimed_by"] != peer.name:
        return {key: told[key] for key in FOR_OTHER_HOSTS}
    if peer.role != "reader":
        return told
    out = {**told, "last_error": _cut(told["last_error"])}
    if "attempts_log" in told:
        out["attempts_log"] = [{**one, "error": _cut(one["error"])} for one in told["attempts_log"]]
    return out


def sees_host(peer: Peer, host: str) -> bool:
    """Whether this peer is told of that host: every host of itself alone."""
    return peer.role != "host" or peer.name == host


def sees_logs(peer: Peer) -> bool:
    """Whether this peer may read what trainers print: it holds what errors hold, and the data at hand."""
    return peer.role in ("open", "operator", "session")


def health(peer: Peer, found: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /v1/health` without its details: who is nobody learns that the receiver lives."""
    return {"status": found["status"]} if peer.role == "nobody" else dict(found)


def sees_details(peer: Peer) -> bool:
    """Whether this peer is told how the receiver's machine is doing."""
    return peer.role not in ("nobody", "host")


def _cut(error: str | None) -> str | None:
    if error is None or len(error) <= READER_ERROR_CHARS:
        return error
    return error[: READER_ERROR_CHARS - 1] + "…"
