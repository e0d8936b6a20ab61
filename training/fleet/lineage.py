"""Where an artifact comes from: job, attempt, host, data, code, and the artifacts beside it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet import leaderboard, rows
from training.fleet.rows import AttemptRow, JobRow
from training.fleet.specs import Reference, is_leaky, stale_of

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

MAX_SIBLINGS = 50


def trace(queue: JobQueue, artifact_id: str, stored_bytes: int | None) -> dict[str, Any] | None:
    """The answer of `GET /v1/model/{id}/lineage`; None for an artifact that no attempt has completed a job with.

    `stored_bytes`: the artifact's size in the store, None when it is not (any more) there. Call it in a thread.
    """
    attempts = [
        rows.attempt_row(raw) for raw in queue.read("attempts_with_artifact", artifact_id=artifact_id)
    ]
    found = [(attempt, row) for attempt in attempts if (row := _job(queue, attempt.job_id)) is not None]
    if not found:
        return None
    # the newest of a job rather than of a verification run: the same bytes may have come out of both
    attempt, row = max(found, key=lambda pair: (not pair[1].is_shadow, pair[0].claimed_at))
    worker = next((one for one in queue.workers() if one["host"] == attempt.host), None)
    size_bytes, uploaded_at = _upload(queue, artifact_id, attempt)
    return {
        "artifact": {
            "artifact_id": artifact_id, "size_bytes": size_bytes or stored_bytes, "stored": stored_bytes is not None,
            "uploaded_at": uploaded_at,
        },
        "job": {**public(row), "is_current": row.artifact_id == artifact_id, "stale": stale_of(row, queue.reference)},
        "attempt": attempt.public(),
        "host": _host(attempt.host, worker),
        "data": _data(queue, attempt),
        "code": _code(attempt, worker, queue.reference),
        "siblings": _siblings(queue, artifact_id, row, found)[:MAX_SIBLINGS],
    }  # fmt: skip


def public(row: JobRow) -> dict[str, Any]:
    """What identifies a job and what it trains."""
    spec = row.spec
    return {
        "job_id": row.job_id, "name": row.name, "kind": row.kind, "model": row.model, "mode": row.mode,
        "status": row.status, "held": row.held, "leaky": is_leaky(row), "line": spec.get("line"),
        "hyper": spec.get("hyper") or {}, "seed": spec.get("seed", 0), "split_recipe": spec.get("split_recipe"),
        "train_hosts": list(spec.get("train_hosts") or ()), "of_job_id": row.of_job_id,
        "of_artifact_id": row.of_artifact_id,
    }  # fmt: skip


def _job(queue: JobQueue, job_id: str) -> JobRow | None:
    found = queue.read("job_get", job_id=job_id)
    return rows.job_row(found[0]) if found else None


def _upload(queue: JobQueue, artifact_id: str, attempt: AttemptRow) -> tuple[int | None, float | None]:
    for raw in queue.read("uploads_of", artifact_id=artifact_id):
        if (raw["job_id"], raw["epoch"]) == (attempt.job_id, attempt.epoch):
            return raw["size_bytes"], raw["at"]
    return None, None


def _host(name: str, worker: dict[str, Any] | None) -> dict[str, Any]:
    """The host as it is known now: it may have changed since."""
    if worker is None:
        return {"host": name, "known": False}
    return {
        "host": name, "known": True, "live": worker["live"], "last_seen_at": worker["last_seen_at"],
        "capability_now": worker["effective"],
    }  # fmt: skip


def _data(queue: JobQueue, attempt: AttemptRow) -> dict[str, Any]:
    pin = queue.datasets().get(attempt.dataset_id or "")
    now = queue.reference.dataset_id
    return {
        "dataset_id": attempt.dataset_id,
        "is_current": None if None in (now, attempt.dataset_id) else attempt.dataset_id == now,
        "path": pin.path if pin else None,
    }


def _code(attempt: AttemptRow, worker: dict[str, Any] | None, reference: Reference) -> dict[str, Any]:
    """The digest is of the attempt; the commit is what its host reports now, and only where the digest is the same."""
    digest, now = attempt.trainer_digest, reference.trainer_digest
    capability = worker["capability"] if worker else {}
    same = digest is not None and capability.get("trainer_digest") == digest
    return {
        "trainer_digest": digest,
        "is_current": None if None in (now, digest) else digest == now,
        "git_commit": capability.get("git_commit") if same else None,
        "python_version": capability.get("python_version") if same else None,
        "torch_version": capability.get("torch_version") if same else None,
    }


def _siblings(
    queue: JobQueue, artifact_id: str, row: JobRow, found: Sequence[tuple[AttemptRow, JobRow]]
) -> list[dict[str, Any]]:
    """Artifacts that say something about this one, each with why."""
    out = [
        _sibling("the same bytes", other, attempt.artifact_id, attempt.host, attempt.ended_at)
        for attempt, other in found
        if other.job_id != row.job_id
    ]
    for raw in queue.read("shadows_of_artifact", artifact_id=artifact_id):
        shadow = rows.job_row(raw)
        out.append(
            _sibling("verification run", shadow, shadow.artifact_id, shadow.claimed_by, shadow.completed_at)
        )
    if row.is_shadow:
        original = _job(queue, row.of_job_id or "")
        if original is not None:
            out.append(_sibling("verified by this run", original, row.of_artifact_id, None, None))
        return out
    for raw in queue.read("attempts", job_id=row.job_id):
        attempt = rows.attempt_row(raw)
        if attempt.outcome == "completed" and attempt.artifact_id != artifact_id:
            word = "later" if attempt.artifact_id == row.artifact_id else "earlier"
            out.append(
                _sibling(
                    f"{word} result of this job", row, attempt.artifact_id, attempt.host, attempt.ended_at
                )
            )
    return out + _twins(row, queue.list_jobs("completed"))


def _twins(row: JobRow, completed: Iterable[JobRow]) -> list[dict[str, Any]]:
    apart = leaderboard.apart_from_mode(row)
    return [
        _sibling(
            f"the same in {other.mode} mode", other, other.artifact_id, other.claimed_by, other.completed_at
        )
        for other in completed
        if other.job_id != row.job_id
        and other.model == row.model
        and leaderboard.apart_from_mode(other) == apart
    ]


def _sibling(
    relation: str, row: JobRow, artifact_id: str | None, host: str | None, at: float | None
) -> dict[str, Any]:
    return {
        "relation": relation, "job_id": row.job_id, "name": row.name, "kind": row.kind, "status": row.status,
        "artifact_id": artifact_id, "host": host, "at": at,
    }  # fmt: skip
