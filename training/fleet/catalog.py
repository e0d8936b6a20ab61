"""The manifest's jobs and the queue's rows: what a reload does to each job.

`steps_of` decides, and nothing else does: `sync` carries its list out, and `training.fleet.plan` shows the same
list to the operator beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Literal

from training.fleet import rows
from training.fleet.eligibility import Learned, requirement_of
from training.fleet.lifecycle import Move, decide
from training.fleet.rows import JobRow, dumps
from training.fleet.specs import Reference, spec_of, stale_of
from training.fleet.types import JobSpec

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

Action = Literal["add", "update", "replace", "remove", "return", "retrain", "move", "keep"]
"""`add`: a new job. `replace`: a new one takes the name of one that is no longer in the manifest, which is held.
`update`: the same job with other fields. `return`: it was held and is in the manifest again. `remove`: held from now
on. `retrain`: its finished result is stale, and it wants a fresh one. `move`: it stands in another line, no more.
`keep`: nothing happens."""
COUNTS = ("added", "updated", "unchanged", "removed", "retrained")


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one job."""

    action: Action
    spec: JobSpec | None
    """As the manifest has it; None: the manifest no longer has it."""
    row: JobRow | None
    """As the queue has it; None: it is new."""
    replaced: JobRow | None = None
    """The job of the same name that is held from now on; only with `replace`."""
    changed: bool = False
    """Does the row change in more than its line?"""

    @property
    def job_id(self) -> str:
        return self.spec.job_id if self.spec is not None else self.row.job_id if self.row is not None else ""

    @property
    def counted(self) -> str:
        """The word of `COUNTS` under which a reload counts it (beside `removed` for what it replaces)."""
        if self.spec is None:
            return "removed"
        if self.row is None:
            return "added"
        if self.action == "retrain":
            return "retrained"
        return "updated" if self.changed else "unchanged"


def steps_of(
    wanted: Iterable[JobSpec],
    known: Mapping[str, JobRow],
    reference: Reference,
    *,
    remove_missing: bool = True,
) -> list[Step]:
    """What becomes of each job, in the manifest's order, those that are no longer there last. Pure.

    `known` has every job that is not held, and the held ones that the manifest names, by id.
    """
    specs = {spec.job_id: spec for spec in wanted}
    gone = [row for row in known.values() if not row.held and row.job_id not in specs and not row.is_shadow]
    missing = sorted(gone, key=lambda row: row.seq) if remove_missing else []
    free_names = {row.name: row for row in reversed(missing)}
    steps: list[Step] = []
    for spec in specs.values():
        row = known.get(spec.job_id)
        # a job that keeps its place under another name replaces nothing
        fresh = row is None or row.held
        steps.append(_step(spec, row, free_names.pop(spec.name, None) if fresh else None, reference))
    taken = {step.replaced.job_id for step in steps if step.replaced is not None}
    return steps + [Step("remove", None, row) for row in missing if row.job_id not in taken]


def _step(spec: JobSpec, row: JobRow | None, replaced: JobRow | None, reference: Reference) -> Step:
    if row is None:
        return Step("replace" if replaced is not None else "add", spec, None, replaced, changed=True)
    differs, moved = _differs(spec, row)
    changed = differs or row.held
    action: Action
    if spec.on_change == "retrain" and stale_of(row, reference) and _may_renew(row):
        action = "retrain"
    elif row.held:
        action = "return"
    else:
        action = "update" if differs else "move" if moved else "keep"
    if replaced is not None and action == "return":
        action = "replace"
    return Step(action, spec, row, replaced, changed)


def _differs(spec: JobSpec, row: JobRow) -> tuple[bool, bool]:
    """Does the job differ in more than its line; does its line?"""
    old = row.spec
    if len(old) == _N_KEYS and _same(spec, old):
        return False, spec.line != old["line"]
    fresh = spec.to_dict()
    line = fresh.pop("line", None)
    return fresh != {key: value for key, value in old.items() if key != "line"}, line != old.get("line")


_LISTS = ("train_hosts", "allowed_hosts")
_PLAIN = tuple(name for name in JobSpec.__slots__ if name not in (*_LISTS, "line", "lines"))
_N_KEYS = len(_PLAIN) + len(_LISTS) + 1
"""Keys of `JobSpec.to_dict`."""
_of_spec, _of_row = attrgetter(*_PLAIN), itemgetter(*_PLAIN)


def _same(spec: JobSpec, old: Mapping[str, Any]) -> bool:
    """Equal but for the line? Most jobs of most manifests are, so this takes a fifth of comparing whole objects."""
    try:
        return bool(_of_spec(spec) == _of_row(old)) and all(
            list(getattr(spec, name)) == old[name] for name in _LISTS
        )
    except KeyError:
        return False  # written by another version


def _may_renew(row: JobRow) -> bool:
    return isinstance(decide(row.phase, "requeue", force=True), Move)


def counts_of(steps: Iterable[Step]) -> dict[str, int]:
    """What a reload that takes these steps answers."""
    counts = dict.fromkeys(COUNTS, 0)
    for step in steps:
        counts[step.counted] += 1
        if step.replaced is not None:
            counts["removed"] += 1
    return counts


def known_rows(queue: JobQueue, wanted: Iterable[JobSpec]) -> dict[str, JobRow]:
    """The rows that `steps_of` looks at, inside the queue's transaction."""
    known = {row["job_id"]: rows.job_row(row) for row in queue.execute("jobs_in_manifest")}
    for spec in wanted:
        if spec.job_id not in known and (row := queue.row(spec.job_id)) is not None:
            known[spec.job_id] = row
    return known


def sync(
    queue: JobQueue, jobs: Iterable[Mapping[str, Any]], reference: Reference, *, remove_missing: bool
) -> dict[str, int]:
    """Bring the rows in line with the manifest's jobs, inside the queue's transaction."""
    wanted = [spec_of(raw) for raw in jobs]
    steps = steps_of(wanted, known_rows(queue, wanted), reference, remove_missing=remove_missing)
    _carry_out(queue, steps)
    return counts_of(steps)


def _carry_out(queue: JobQueue, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.spec is None:
            _hold(queue, step.row)
        elif step.row is None:
            _add(queue, step.spec)
        elif step.action != "keep":
            _update(queue, step.row, step.spec, step)
        _hold(queue, step.replaced)


def _add(queue: JobQueue, spec: JobSpec) -> None:
    class_id = queue.matcher.class_of(spec, Learned())
    queue.execute(
        "job_add", job_id=spec.job_id, name=spec.name, model=spec.model, mode=spec.mode,
        spec=dumps(spec.to_dict()), priority=spec.priority, class_id=class_id, ready_at=queue.ready_at(class_id),
    )  # fmt: skip
    queue.matcher.touch(class_id)
    queue.audit_add("manifest", "reload", spec.job_id, "", "pending", 0, "added")


def _update(queue: JobQueue, row: JobRow, spec: JobSpec, step: Step) -> None:
    fresh = spec.to_dict()
    new = replace(row, name=spec.name, spec=fresh, priority=spec.priority, held=False)
    if requirement_of(spec_of(row.spec), row.learned) != requirement_of(spec, row.learned):
        class_id = queue.matcher.class_of(spec, row.learned)
        ready_at = queue.ready_at(class_id) if row.status == "pending" else None
        new = replace(new, class_id=class_id, ready_at=ready_at)
    if step.changed:
        queue.save(row, new, "reload", "manifest", detail="returned" if row.held else "updated")
    elif fresh != row.spec:
        queue.save(row, new, "moved in the file", "manifest")
    if step.action == "retrain":
        decision = decide(new.phase, "requeue", force=True)
        assert isinstance(decision, Move), "what may not be renewed is no `retrain`"
        queue.renew(new, decision, "retrain", "manifest")


def _hold(queue: JobQueue, row: JobRow | None) -> None:
    if row is not None and not row.held:
        held = replace(row, held=True)
        queue.save(row, held, "reload", "manifest", detail="no longer in the manifest: held")
