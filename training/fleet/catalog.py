"""The manifest's jobs and the queue's rows: what a reload adds, changes, holds and retrains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from training.fleet.eligibility import Learned, requirement_of
from training.fleet.lifecycle import Move, decide
from training.fleet.rows import JobRow, dumps
from training.fleet.specs import Reference, spec_of, stale_of
from training.fleet.types import JobSpec

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue


def sync(
    queue: JobQueue, jobs: Iterable[Mapping[str, Any]], reference: Reference, *, remove_missing: bool
) -> dict[str, int]:
    """Bring the rows in line with the manifest's jobs, inside the queue's transaction."""
    counts = dict.fromkeys(("added", "updated", "unchanged", "removed", "retrained"), 0)
    wanted: set[str] = set()
    for raw in jobs:
        spec = spec_of(raw)
        wanted.add(spec.job_id)
        row = queue.row(spec.job_id)
        counts[_add(queue, spec) if row is None else _update(queue, row, spec, reference)] += 1
    if remove_missing:
        counts["removed"] = _hold_missing(queue, wanted)
    return counts


def _add(queue: JobQueue, spec: JobSpec) -> str:
    class_id = queue.matcher.class_of(spec, Learned())
    queue.execute(
        "job_add", job_id=spec.job_id, name=spec.name, model=spec.model, mode=spec.mode,
        spec=dumps(spec.to_dict()), priority=spec.priority, class_id=class_id, ready_at=queue.ready_at(class_id),
    )  # fmt: skip
    queue.matcher.touch(class_id)
    queue.audit_add("manifest", "reload", spec.job_id, "", "pending", 0, "added")
    return "added"


def _update(queue: JobQueue, row: JobRow, spec: JobSpec, reference: Reference) -> str:
    fresh = spec.to_dict()
    new = replace(row, name=spec.name, spec=fresh, priority=spec.priority, held=False)
    if requirement_of(spec_of(row.spec), row.learned) != requirement_of(spec, row.learned):
        class_id = queue.matcher.class_of(spec, row.learned)
        ready_at = queue.ready_at(class_id) if row.status == "pending" else None
        new = replace(new, class_id=class_id, ready_at=ready_at)
    changed = dumps(fresh | {"line": None}) != dumps(row.spec | {"line": None}) or row.held
    if changed:
        queue.save(row, new, "reload", "manifest", detail="returned" if row.held else "updated")
    elif fresh != row.spec:
        queue.save(row, new, "moved in the file", "manifest")
    if spec.on_change == "retrain" and stale_of(row, reference):
        decision = decide(new.phase, "requeue", force=True)
        if isinstance(decision, Move):
            queue.renew(new, decision, "retrain", "manifest")
            return "retrained"
    return "updated" if changed else "unchanged"


def _hold_missing(queue: JobQueue, wanted: set[str]) -> int:
    known = [row["job_id"] for row in queue.execute("job_ids_in_manifest")]
    missing = [job_id for job_id in known if job_id not in wanted]
    for job_id in missing:
        row = queue.row(job_id)
        if row is not None:
            queue.save(
                row, replace(row, held=True), "reload", "manifest", detail="no longer in the manifest: held"
            )
    return len(missing)
