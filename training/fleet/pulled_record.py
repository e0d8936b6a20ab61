"""The signed record that comes with a pulled artifact: fetched first, checked where that can be done, kept with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.fleet.exits import REFUSED, Stop
from training.fleet.provenance_root import known_root, read_root
from training.fleet.render import View
from training.fleet.tables import safe, tsv
from training.fleet.transport import Refused
from training.fleet.verb import Call

FILE_NAME = "provenance.intoto.jsonl"
"""As `provenance.FILE_NAME`, which cannot be imported where `cryptography` is missing."""


@dataclass(frozen=True, slots=True)
class PulledRecord:
    """What the receiver had to say about an artifact, and whether it was checked."""

    envelopes: Sequence[dict[str, Any]]
    verified: bool = False
    reason: str = ""
    """Why there is none, or why it was not checked."""
    made: str = ""
    """Which jobs and hosts a verified record names; shown, since which artifact is a job's the receiver said."""

    def write(self, folder: Path) -> None:
        """Leave the record in the folder, one envelope a line."""
        if self.envelopes:
            lines = (json.dumps(one, separators=(",", ":")) + "\n" for one in self.envelopes)
            (folder / FILE_NAME).write_text("".join(lines), encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        return {
            "file": FILE_NAME if self.envelopes else None,
            "verified": self.verified,
            "reason": self.reason or None,
        }

    def lines(self, view: View, folder: str) -> list[str]:
        """One more line of what `pull` prints."""
        if view.width is None:
            word = "verified" if self.verified else "not verified" if self.envelopes else "none"
            return tsv(["record", FILE_NAME if self.envelopes else "", word], [])
        if not self.envelopes:
            return ["", f"  {safe(self.reason)}"]
        if self.verified:
            return [
                "",
                f"  signed record: {FILE_NAME}, verified with your root certificate: {safe(self.made)}",
            ]
        return [
            "",
            f"  signed record: {FILE_NAME}, not verified: {safe(self.reason)}",
            f"  next: cis490-jobs verify-provenance {safe(folder)} --root root.pem",
        ]


def of_artifact(call: Call, artifact: str) -> PulledRecord:
    """Ask for the record of an artifact. Raises Stop for one that does not hold: then nothing shall be downloaded."""
    try:
        found = call.client.provenance(artifact)
    except Refused as refusal:  # an older receiver, one without a key, an artifact of before
        return PulledRecord((), reason=str(refusal.body.get("error") or refusal.reason))
    root_path = known_root(getattr(call.args, "credentials", None), call.terminal.env)
    if root_path is None:
        return PulledRecord(found, reason="there is no root certificate here")
    root = read_root(root_path, "cis490-jobs verify-provenance JOB")
    from training.fleet.provenance import ProvenanceError, verify

    try:
        records = [verify(json.dumps(one), root) for one in found]
    except ProvenanceError as fault:
        raise _useless(artifact, str(fault)) from fault
    if not records or any(one.artifact_id != artifact for one in records):
        raise _useless(artifact, "the record is of another artifact")
    made = "; ".join(f"{one.name}, by {one.host}" for one in records)
    return PulledRecord(found, verified=True, made=made)


def _useless(artifact: str, why: str) -> Stop:
    return Stop(
        REFUSED,
        f"the record of artifact {artifact[:12]} proves nothing: {safe(why)}; nothing was fetched",
        "  next: ask whoever runs the receiver; its own record: cis490-jobs verify-provenance "
        f"{artifact[:12]} --root root.pem",
        error_code="E061",
    )
