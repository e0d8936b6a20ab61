"""Shadow runs: a completed job is trained once more, by the normal lifecycle, to compare what comes out.

A shadow run has a row of its own. It is leased, retried, uploaded and completed like a job, but it stands in no
manifest, is counted nowhere, and nothing that happens to it touches the job, its status, artifact or metrics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from training.fleet import eligibility, identity, rows
from training.fleet.eligibility import Learned, Rules
from training.fleet.host_class import HostClass, as_used, host_class, is_same_class
from training.fleet.rows import JobRow, dumps
from training.fleet.specs import spec_of, stale_of
from training.fleet.types import Capability, HostSpec, JobSpec

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

PRIORITY = -1_000_000
"""Below whatever a manifest sensibly states: all else that waits for a host goes first."""
MAX_NAME_CHARS = 64
_ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Started:
    """A shadow run that waits now, with the hosts that may do it; or why there is none (`row` is None)."""

    row: JobRow | None = None
    hosts: tuple[str, ...] = ()
    http_status: int = 200
    reason: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of a refusal: `shadow_job_id` of the run that is open, `stale`."""


def start(queue: JobQueue, job_id: str, *, actor: str = "operator") -> Started:
    """Let a completed job be trained once more; one transaction."""
    with queue.atomic():
        row = queue.row(job_id)
        if row is None:
            return Started(http_status=404, reason=f"no job {job_id[:80]}")
        earlier = [rows.job_row(raw) for raw in queue.execute("shadows_of", job_id=job_id)]
        refusal = _refusal(row, earlier, stale_of(row, queue.reference))
        if refusal is not None:
            return refusal
        maker = queue.attempt(row).host
        seen = {name: one.capability for name, one in queue.matcher.seen.items()}
        if maker not in seen:
            return _no(
                f"{row.name} was trained on {maker}, which is not known any more: no host is known to be like it"
            )
        spec = spec_of(row.spec)
        able = hosts_for(spec, maker, seen, queue.matcher.hosts, queue.matcher.rules)
        if not able:
            like = _class_of(maker, row.model, seen, queue.matcher.hosts)
            return _no(
                f"no known host like {maker} ({like}), which trained {row.name}, may train it: see allowed_hosts of "
                "the job, allow_jobs and deny_jobs of the hosts"
            )
        number = _free_number(queue, row, len(earlier) + 1)
        return Started(_add(queue, row, spec, number, able, actor), able)


def hosts_for(
    spec: JobSpec, maker: str, seen: Mapping[str, Capability], policies: Mapping[str, HostSpec], rules: Rules
) -> tuple[str, ...]:
    """The hosts that may verify what `maker` trained: of its class, and allowed by the job and the manifest. Pure.

    `seen` is what each host that ever called reported of itself.
    """
    like = _class_of(maker, spec.model, seen, policies)
    requirement = eligibility.requirement_of(spec)
    return tuple(
        name
        for name in sorted(seen)
        if is_same_class(maker, like, name, _class_of(name, spec.model, seen, policies))
        and eligibility.policy_allows(requirement, name, policies.get(name), rules)
    )


def _class_of(
    name: str, model: str, seen: Mapping[str, Capability], policies: Mapping[str, HostSpec]
) -> HostClass:
    return host_class(as_used(seen[name], policies.get(name)), model)


def shadow_id(job_id: str, artifact_id: str, number: int) -> str:
    """Of the `number`-th run that verifies this artifact of this job: no job of a manifest can have it."""
    return hashlib.sha256(identity.canonical_json(["shadow", job_id, artifact_id, number])).hexdigest()


def _free_number(queue: JobQueue, row: JobRow, number: int) -> int:
    """The first number from `number` on whose run left no trace: retention may have removed earlier runs, and a new one
    must not be taken for one of them."""
    while queue.execute(
        "shadow_id_was_used", job_id=shadow_id(row.job_id, row.artifact_id or "", number)
    ).fetchone():
        number += 1
    return number


def shadow_name(name: str, number: int) -> str:
    """`gbt-realistic.verify-1`: a legal name; a long one of a job is cut."""
    end = f".verify-{number}"
    return name[: MAX_NAME_CHARS - len(end)] + end


def shadow_spec(spec: JobSpec, job_id: str, name: str, hosts: tuple[str, ...]) -> JobSpec:
    """The same training, only on these hosts and after everything else. Pure."""
    return replace(
        spec, job_id=job_id, name=name, priority=PRIORITY, allowed_hosts=hosts, prefer_cuda=False, on_change="keep",
        line=None,
    )  # fmt: skip


def no_requeue(row: JobRow) -> str:
    """Why a shadow run is not queued again."""
    command = f"cis490-jobs verify {(row.of_job_id or '')[:12]} --again"
    return f"{row.name} is a verification run; another one is started with: {command}"


def _refusal(row: JobRow, earlier: Iterable[JobRow], stale: list[str]) -> Started | None:
    if row.is_shadow:
        return _no(f"{row.name} is itself a verification run; verify its job: {row.of_job_id}")
    if row.status != "completed":
        return _no(f"{row.name} is {row.status}: only what is completed can be verified")
    if stale:
        return _no(
            f"{row.name} was trained with other data or another trainer than would be used now ({', '.join(stale)}): a "
            f"comparison would say nothing; train it anew: cis490-jobs requeue {row.name} --force",
            stale=stale,
        )
    open_ones = (one for one in earlier if one.status not in _ENDED)
    running = next((one for one in open_ones if one.of_artifact_id == row.artifact_id), None)
    if running is not None:
        return _no(
            f"{running.name} is {running.status}: it verifies {row.name} already",
            shadow_job_id=running.job_id,
        )
    return None


def _no(reason: str, **told: Any) -> Started:
    return Started(http_status=409, reason=reason, told=told)


def _add(
    queue: JobQueue, row: JobRow, spec: JobSpec, number: int, able: tuple[str, ...], actor: str
) -> JobRow:
    artifact_id = row.artifact_id or ""
    job_id, name = shadow_id(row.job_id, artifact_id, number), shadow_name(row.name, number)
    shadow = shadow_spec(spec, job_id, name, able)
    class_id = queue.matcher.class_of(shadow, Learned())
    queue.execute(
        "shadow_add", job_id=job_id, name=name, model=row.model, mode=row.mode, spec=dumps(shadow.to_dict()),
        priority=shadow.priority, class_id=class_id, dataset_id=row.dataset_id, of_job_id=row.job_id,
        of_artifact_id=artifact_id,
    )  # fmt: skip
    queue.matcher.touch(class_id)
    queue.audit_add(actor, "verify", job_id, "", "pending", 0, f"of {row.name}, artifact {artifact_id[:12]}")
    queue.audit_add(actor, "verify", row.job_id, row.phase, row.phase, row.epoch, f"by {name}")
    made = queue.row(job_id)
    assert made is not None
    return made
