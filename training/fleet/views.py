"""Rows as the public JSON of `GET /v1/jobs` and `GET /v1/job/{id}`. Pure."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from training.fleet.leases import LiveLease
from training.fleet.rows import AttemptRow, JobRow
from training.fleet.specs import Reference, is_leaky, stale_of

_CONTRACT = (
    "job_id", "name", "model", "mode", "priority", "status", "claimed_by", "claimed_at", "heartbeat_at",
    "completed_at", "attempts", "last_error", "artifact_id",
)  # fmt: skip
_ADDED = ("generation", "held", "paused_reason", "lapsed", "host_losses", "program_failures", "metrics")
_LISTED = (*_CONTRACT, *_ADDED)
_VALUES = operator.attrgetter(*_LISTED)


def job(row: JobRow, lease: LiveLease | None, reference: Reference) -> dict[str, Any]:
    """One entry of the list."""
    out = dict(zip(_LISTED, _VALUES(row), strict=True))
    out["stale"] = stale_of(row, reference)
    out["leaky"] = is_leaky(row)
    out["kind"] = row.kind
    if row.is_shadow:
        out |= {"of_job_id": row.of_job_id, "of_artifact_id": row.of_artifact_id}
    live = lease is not None and lease.epoch == row.epoch
    out["progress"] = asdict(lease.progress) if live and lease is not None and lease.progress else None
    return out


def job_in_full(
    row: JobRow,
    lease: LiveLease | None,
    reference: Reference,
    attempts: Sequence[AttemptRow],
    audit: Sequence[dict[str, Any]],
    estimate: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One job with its spec, all attempts, the audit trail, and when it is expected to start and end."""
    out = job(row, lease, reference)
    out |= {
        "spec": row.spec,
        "epoch": row.epoch,
        "dataset_id": row.dataset_id,
        "trainer_digest": row.trainer_digest,
        "estimate": estimate,
    }
    out["attempts_log"] = [attempt.public() for attempt in attempts]
    out["audit"] = [
        {
            "at": entry["at"],
            "actor": entry["actor"],
            "event": entry["event"],
            "from": entry["from_phase"],
            "to": entry["to_phase"],
            "epoch": entry["epoch"],
            "detail": entry["detail"],
        }
        for entry in audit
    ]
    return out
