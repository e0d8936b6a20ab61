"""The durable queue: one method per event, each one transaction.

`JobQueue` is synchronous and thread-safe; whoever serves many requests hands it to the one writer
thread (`training.fleet.writer`), which puts all waiting requests into one transaction through
`run_batch`. Every method works the same inside and outside a batch.

What these methods returned survives kill -9 and a power cut (see `training.fleet.ledger`). Lease
renewals are the exception: they stay in memory, and a restart grants every live lease a full period.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from cis490.failpoints import failpoint
from training.fleet import catalog, eligibility, explain, rows, shadows
from training.fleet.budgets import HOST_FAULTS
from training.fleet.eligibility import HostView, Learned, Rules
from training.fleet.host_class import device_for
from training.fleet.leases import LiveLease
from training.fleet.ledger import QueueUnavailable
from training.fleet.lifecycle import Decision, Move, Refusal, decide, status_of
from training.fleet.matching import Head
from training.fleet.queue_state import QueueState
from training.fleet.rows import AttemptEnd, AttemptRow, JobRow, Outcome
from training.fleet.situation import Situation
from training.fleet.specs import Reference, rules_of
from training.fleet.types import (
    AllowedDevice,
    Capability,
    DatasetPin,
    FailClass,
    Figure,
    HostSpec,
    Manifest,
    Policy,
    RowKind,
    Status,
)
from training.fleet.wire import MAX_ERROR_CHARS, Progress

__all__ = ["FROM_MANIFEST", "Claim", "JobQueue", "QueueUnavailable"]

MAX_LISTED = 100_000


class _FromManifest:
    """Default of `host_spec`: the policy that the manifest in force states."""


FROM_MANIFEST: Final = _FromManifest()


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer of a claim: the job and its lease, or the reason why there is none."""

    row: JobRow | None = None
    lease: LiveLease | None = None
    device: AllowedDevice = "auto"
    admitted: bool = True
    reason: str = ""


class JobQueue(QueueState):
    """See the module. A claim without a heartbeat for `stale_after_s` seconds is swept."""

    _graces: tuple[float, float] | None = None
    """The grace periods that the `ready_at` of waiting jobs were made with; None since the start."""
    job_lines: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    """Where the manifest in force states what of which job: job id -> key -> line."""

    def close(self) -> None:
        """Write what only memory knew (last heartbeats) and close the database."""
        with self._lock:
            with contextlib.suppress(QueueUnavailable, sqlite3.Error):  # they are for display only
                self.flush_heartbeats()
            super().close()

    # -- the manifest

    def apply_manifest(self, manifest: Manifest, *, trainer_digest: str | None = None) -> dict[str, int]:
        """Swap policy and jobs in one step; when it raises, the last good manifest stays in force."""
        dataset = manifest.dataset.dataset_id if manifest.dataset else None
        reference = Reference(dataset, trainer_digest)
        with self.atomic():
            before = self.policy, self.reference, self.matcher.rules, self.matcher.hosts, self._graces
            self.on_rollback(lambda: self._put_policy_back(*before))
            self.policy = manifest.policy
            if manifest.dataset is not None:
                self.execute(
                    "dataset_add", dataset_id=manifest.dataset.dataset_id, path=manifest.dataset.path
                )
            failpoint("queue.before_manifest")
            counts = self.sync_from_manifest([job.to_dict() for job in manifest.jobs], reference=reference)
            self.adopt_policy(manifest, trainer_digest=trainer_digest)
        return counts

    def _put_policy_back(
        self,
        policy: Policy,
        reference: Reference,
        rules: Rules,
        hosts: Mapping[str, HostSpec],
        graces: tuple[float, float] | None,
    ) -> None:
        self.policy, self.reference, self._graces = policy, reference, graces
        self.matcher.policy(rules, hosts)

    def adopt_policy(self, manifest: Manifest, *, trainer_digest: str | None = None) -> None:
        """Put only the manifest's policy in force; its jobs stay as the queue has them."""
        dataset = manifest.dataset.dataset_id if manifest.dataset else None
        with self.atomic():
            self.policy = manifest.policy
            self.reference = Reference(dataset, trainer_digest)
            self.matcher.policy(rules_of(manifest, trainer_digest), manifest.hosts)
            before = self.job_lines
            self.on_rollback(lambda: setattr(self, "job_lines", before))
            self.job_lines = {job.job_id: job.lines for job in manifest.jobs}
            if _graces(manifest.policy) != self._graces:
                self._graces = _graces(manifest.policy)
                self.begin_graces_anew()

    def sync_from_manifest(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        reference: Reference | None = None,
        remove_missing: bool = True,
    ) -> dict[str, int]:
        """Known jobs keep their status, new ones become pending, missing ones are held. Also resumes
        paused hosts: a reload is the operator saying that something was mended."""
        with self.atomic():
            wanted = reference or self.reference
            counts = catalog.sync(self, jobs, wanted, remove_missing=remove_missing)
            self.execute("workers_resume")
            for name, seen in list(self.matcher.seen.items()):
                if seen.paused_reason is not None:
                    self.audit_host("manifest", "resume", name, seen.paused_reason)
                self.remember(
                    name, replace(seen, paused_reason=None, failures_in_a_row=0, last_failed_job=None)
                )
            self.reference = wanted
        return counts

    def datasets(self) -> dict[str, DatasetPin]:
        """Every dataset that a manifest in force has pinned, by its id."""
        return {
            row["dataset_id"]: DatasetPin(row["dataset_id"], row["path"]) for row in self.read("datasets")
        }

    # -- worker events

    def claim_next(
        self,
        *,
        worker_hostname: str,
        capability: Capability | Mapping[str, Any] | None = None,
        host_spec: HostSpec | _FromManifest | None = FROM_MANIFEST,
    ) -> JobRow | None:
        """The best pending job that this host may run, claimed for it; None when nothing is eligible.

        Without `host_spec` the manifest in force decides, slots included. A caller that brings its own
        (None: no policy) decides for itself how many jobs a host holds, unless the spec states `slots`.
        """
        return self.claim(worker_hostname, capability, host_spec=host_spec).row

    def claim(
        self,
        host: str,
        capability: Capability | Mapping[str, Any] | None = None,
        *,
        host_spec: HostSpec | _FromManifest | None = FROM_MANIFEST,
        with_token: bool = False,
        claim_request: str | None = None,
    ) -> Claim:
        """As `claim_next`, with the lease. The same `claim_request` gets the same lease while it lives."""
        with self.atomic():
            now_s = self.clock.now_s()
            spec = self.matcher.hosts.get(host) if isinstance(host_spec, _FromManifest) else host_spec
            admitted = eligibility.admission(host, spec, self.matcher.rules)
            if isinstance(host_spec, _FromManifest) and not admitted.ok:
                return Claim(admitted=False, reason=f"{admitted.message}; {admitted.hint}")
            known = self.leases.by_request(host, claim_request) if claim_request else None
            if known is not None:
                known.deadline_s = now_s + self.stale_after_s  # the host counts its lease from this repeat
                row, view = self.row(known.job_id), self.matcher.view_as(host, spec, now_s, 0)
                return Claim(row, known, _device(row, view))
            self.saw(host, capability)
            self.matcher.ripen(now_s)
            limited = isinstance(host_spec, _FromManifest) or (spec is not None and spec.slots is not None)
            view = self.matcher.view_as(host, spec, now_s, self.leases.busy(host) if limited else 0)
            head = self.matcher.best(view, self._others(now_s))
            if head is None:
                return Claim(reason=_why_nothing(view, self.matcher.rules))
            return self._grant(head, view, with_token, claim_request)

    def heartbeat(
        self, job_id: str, host: str, *, token: str | None = None, progress: Progress | None = None
    ) -> Outcome:
        """Renew the lease. In memory, except the first one and the return from a lapse."""
        if self.renew_lease(job_id, host, token=token, progress=progress):
            return Outcome(True)
        with self.atomic():
            row, attempt, decision = self.judge(job_id, host, token, "heartbeat")
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            assert row is not None and attempt is not None
            status, lapsed = status_of(decision.target)
            new = replace(
                row, status=status, lapsed=lapsed, heartbeat_at=self.clock.wall_s(), claimed_by=host
            )
            if row.lapsed:  # the host was not lost after all
                new = replace(_not_lost(new, row), last_error=None, ready_at=None)
                self.execute("attempt_reopen", job_id=job_id, epoch=row.epoch)
            self.save(row, new, "heartbeat", f"host:{host}")
            lease = self.enter_lease(new, attempt)
            lease.progress, lease.heard_s = progress, self.clock.now_s()
            return Outcome(True, new)

    def complete(
        self,
        job_id: str,
        host: str,
        *,
        artifact_id: str,
        token: str | None = None,
        metrics: Mapping[str, Figure] | None = None,
        require_upload: bool = False,
        usage: Mapping[str, float | None] | None = None,
    ) -> Outcome:
        """The attempt's result. With `require_upload` the artifact must have been stored under this attempt."""
        with self.atomic():
            row, attempt, decision = self.judge(job_id, host, token, "complete", artifact_id=artifact_id)
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            assert row is not None and attempt is not None
            if require_upload and not self.has_upload(job_id, row.epoch, artifact_id):
                reason = f"artifact {artifact_id[:12]} was not uploaded for this attempt; PUT /v1/model/{job_id} first"
                return Outcome(False, row, 409, reason)
            wall = self.clock.wall_s()
            status, lapsed = status_of(decision.target)
            new = replace(
                row, status=status, lapsed=lapsed, artifact_id=artifact_id, completed_at=wall, claimed_by=host,
                ready_at=None, last_error=None, metrics=dict(metrics or {}),
                dataset_id=attempt.dataset_id, trainer_digest=attempt.trainer_digest,
            )  # fmt: skip
            self.end_attempt(row, AttemptEnd("completed", artifact_id=artifact_id, **_usage(usage)))
            failpoint("queue.half_completed")
            self.save(row, new, "complete", f"host:{host}")
            if not row.is_shadow:
                self.count_failure(host, None)
            return Outcome(True, new)

    def fail(
        self,
        job_id: str,
        host: str,
        *,
        error: str,
        token: str | None = None,
        fail_class: FailClass = "program",
        exit_code: int | None = None,
        usage: Mapping[str, float | None] | None = None,
    ) -> Outcome:
        """The attempt failed. By class and budget the job waits again or has failed for good."""
        if fail_class == "preempted":  # the host wanted its machine back: no budget is used
            return self.release(job_id, host, token=token, reason=error)
        with self.atomic():
            text = error[-MAX_ERROR_CHARS:]
            found = self.row(job_id)
            learned, budget = self.after_failure(found, host, fail_class) if found else (Learned(), False)
            row, attempt, decision = self.judge(job_id, host, token, "fail", budget_left=budget)
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            assert row is not None and attempt is not None
            end = AttemptEnd("failed", fail_class, text, exit_code, **_usage(usage))
            self.end_attempt(row, end)
            changed = replace(_not_lost(row), program_failures=row.program_failures + 1, last_error=text)
            new = self.put_back(changed, decision, learned)
            failpoint("queue.half_failed")
            self.save(row, new, "fail", f"host:{host}", detail=fail_class)
            if fail_class in HOST_FAULTS and not row.is_shadow:
                self.count_failure(host, job_id)
            return Outcome(True, new)

    def release(self, job_id: str, host: str, *, token: str | None = None, reason: str = "") -> Outcome:
        """Give the job back unharmed: no budget is used, and the same host is preferred for a while."""
        with self.atomic():
            row, attempt, decision = self.judge(job_id, host, token, "release")
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            assert row is not None and attempt is not None
            self.saw(host, None)  # it is there, after an absence too: a job that waits for it does so now
            self.end_attempt(row, AttemptEnd("released", error=reason[-MAX_ERROR_CHARS:] or None))
            new = self.put_back(_not_lost(row), decision, replace(row.learned, wait_for_host=host))
            failpoint("queue.half_released")
            self.save(row, new, "release", f"host:{host}", detail=reason[:200])
            return Outcome(True, new)

    def standing(self, job_id: str, host: str, token: str | None) -> Outcome:
        """May this requester upload for the job now? Ok for the holder of a live or lapsed lease, and
        for a repeat by whoever completed it."""
        with self.atomic():
            row, attempt, decision = self.judge(job_id, host, token, "complete", artifact_id=None)
            if isinstance(decision, Refusal) or row is None:
                return _refused(row, decision, job_id)
            assert attempt is not None
            of_attempt = replace(
                row, epoch=attempt.epoch, generation=attempt.generation, dataset_id=attempt.dataset_id,
                trainer_digest=attempt.trainer_digest,
            )  # fmt: skip
            return Outcome(True, of_attempt)

    def may_upload(self, job_id: str, epoch: int) -> bool:
        """May this attempt still send its artifact: is its lease live, or lapsed with nobody else in its place?
        As committed, on a connection of the calling thread's own."""
        found = self.read("job_get", job_id=job_id)
        if not found:
            return False
        row = rows.job_row(found[0])
        return row.epoch == epoch and (row.lapsed or row.status in ("claimed", "running"))

    def record_upload(self, job_id: str, epoch: int, artifact_id: str, size_bytes: int) -> None:
        """The store holds this artifact, verified and on disk, for this attempt."""
        with self.atomic():
            self.execute(
                "upload_add", job_id=job_id, epoch=epoch, artifact_id=artifact_id, size_bytes=size_bytes,
                at=self.clock.wall_s(),
            )  # fmt: skip
            self.execute("removed_forget", artifact_id=artifact_id)  # it is here again

    def has_upload(self, job_id: str, epoch: int, artifact_id: str) -> bool:
        found = self.execute("upload_has", job_id=job_id, epoch=epoch, artifact_id=artifact_id)
        return found.fetchone() is not None

    # -- operator events

    def cancel(self, job_id: str, *, actor: str = "operator") -> Outcome:
        """End the job where it is; a running attempt learns it from its next heartbeat."""
        with self.atomic():
            row = self.row(job_id)
            if row is None:
                return _unknown(job_id)
            decision = decide(row.phase, "cancel")
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            if not decision.changes:
                return Outcome(True, row)
            self.end_attempt(row, AttemptEnd("cancelled"))
            new = replace(row, status="cancelled", lapsed=False, ready_at=None)
            failpoint("queue.half_cancelled")
            self.save(row, new, "cancel", actor)
            return Outcome(True, new)

    def requeue(self, job_id: str, *, force: bool = False, actor: str = "operator") -> Outcome:
        """Try again with fresh budgets; completed work only with `force`, as a new generation."""
        with self.atomic():
            row = self.row(job_id)
            if row is None:
                return _unknown(job_id)
            if (
                row.is_shadow
            ):  # what it is compared with may have changed since: `verify` looks, this would not
                return Outcome(False, row, 409, shadows.no_requeue(row))
            decision = decide(row.phase, "requeue", force=force)
            if not isinstance(decision, Move):
                return _refused(row, decision, job_id)
            if not decision.changes:
                return Outcome(True, row)
            return Outcome(True, self.renew(row, decision, "requeue", actor))

    def renew(self, row: JobRow, decision: Move, event: str, actor: str) -> JobRow:
        """Back to pending with fresh budgets, as a new generation if the decision says so. In a transaction."""
        self.end_attempt(row, AttemptEnd("superseded"))
        failpoint("queue.half_renewed")
        fresh = replace(
            row, host_losses=0, program_failures=0, last_error=None, claimed_by=None, claimed_at=None
        )
        if decision.new_generation:
            fresh = replace(
                fresh,
                generation=row.generation + 1,
                attempts=0,
                artifact_id=None,
                completed_at=None,
                metrics={},
            )
        new = self.put_back(fresh, decision, Learned())
        self.save(row, new, event, actor)
        return new

    # -- the reaper's events

    def sweep_stale(self, now_s: float | None = None) -> int:
        """End every lease that has run out (by `now_s`, else now); ripen what waited long enough. How many ended."""
        with self.atomic():
            now_s = self.clock.now_s() if now_s is None else now_s
            swept = 0
            for lease in self.leases.expired(now_s):
                if self.leases.take_expired(lease, now_s):  # else a heartbeat came this very moment
                    swept += self._expire(lease)
            self.matcher.ripen(now_s)
            return swept

    def extend_leases(self, seconds: float) -> None:
        """The receiver was away (suspended, stalled): nobody could renew, so nobody is punished."""
        with self._lock:
            self.leases.extend(seconds, latest_s=self.clock.now_s() + self.stale_after_s)

    def flush_heartbeats(self) -> None:
        """Write the display times that only memory knows: one transaction for the whole fleet."""
        with self.atomic():
            self.note_all_heard()
            for lease in self.leases.all():
                if lease.heartbeat_at is not None:
                    self.execute("job_seen", job_id=lease.job_id, epoch=lease.epoch, at=lease.heartbeat_at)
            for host, seen in self.matcher.seen.items():
                self.execute("worker_touch", host=host, at=seen.wall_s)

    # -- reads

    def get(self, job_id: str) -> JobRow | None:
        """One job as committed, with the heartbeat that memory knows."""
        found = self.read("job_get", job_id=job_id)
        return self.with_heartbeat(rows.job_row(found[0])) if found else None

    def list_jobs(
        self, status: Status | None = None, *, kind: RowKind = "job", limit: int = MAX_LISTED, offset: int = 0
    ) -> list[JobRow]:
        """Jobs, or with `kind` shadow runs, by priority, then age: `limit` of them after the first `offset`."""
        span = {"kind": kind, "limit": limit, "offset": offset}
        if status is None:
            found = self.read("job_list", **span)
        else:
            found = self.read("job_list_by_status", status=status, **span)
        return [self.with_heartbeat(rows.job_row(row)) for row in found]

    def counts(self, *, kind: RowKind = "job") -> dict[str, int]:
        """Jobs by status; with `kind` shadow runs, which are not among them."""
        return {row["status"]: int(row["n"]) for row in self.read("job_counts", kind=kind)}

    def attempts(self, job_id: str) -> list[AttemptRow]:
        return [rows.attempt_row(row) for row in self.read("attempts", job_id=job_id)]

    def audit(self, job_id: str) -> list[dict[str, Any]]:
        return [dict(row) for row in self.read("audit_of", job_id=job_id)]

    def live_leases(self) -> dict[str, LiveLease]:
        """The live leases by job, for display (their progress); do not change them."""
        with self._lock:
            return {lease.job_id: lease for lease in self.leases.all()}

    def workers(self, host: str | None = None) -> list[dict[str, Any]]:
        """Last-seen capability of every host that ever called, or only of `host`, and how matching sees it."""
        waiting = {row["class_id"]: int(row["n"]) for row in self.read("class_waiting")}
        with self._lock:
            self.note_all_heard()
            return explain.workers(self, self.clock.now_s(), waiting, host)

    def explain(self, job_id: str) -> dict[str, Any] | None:
        """Why the job is pending, host by host and constraint by constraint; None for an unknown job."""
        with self.atomic():
            self.matcher.ripen(self.clock.now_s())
            found = self.situation(job_id)
        return None if found is None else explain.job(found)

    def situation(self, job_id: str, *, disk: str | None = None) -> Situation | None:
        """All that decides whether this job is handed out, at one instant; None for an unknown job. Writes nothing.

        `disk`: why the receiver hands out nothing at all, if it does not.
        """
        with self.still():
            row = self.row(job_id)
            if row is None:
                return None
            now_s, matcher = self.clock.now_s(), self.matcher
            requirement = matcher.requirement(row.class_id)
            if row.ready_at is not None and row.ready_at <= now_s:
                requirement = eligibility.ripened(requirement)  # as the next claim will
            hosts = tuple(self.views(now_s))
            detected = {name: seen.capability for name, seen in matcher.seen.items()}
            lines = self.job_lines.get(job_id, {})
            return Situation(row, requirement, hosts, matcher.rules, detected, disk, lines)

    def is_admitted(self, host: str) -> bool:
        """Does the manifest in force let this host take part?"""
        with self._lock:
            return eligibility.admission(host, self.matcher.hosts.get(host), self.matcher.rules).ok

    # -- inside a transaction

    def _grant(self, head: Head, view: HostView, with_token: bool, claim_request: str | None) -> Claim:
        wall, before, host = self.clock.wall_s(), head.row, view.name
        assert before is not None
        taken = self.execute("job_claim", seq=head.seq, epoch=before.epoch, host=host, at=wall)
        assert taken.rowcount == 1, f"job {before.job_id} moved while the lock was held"
        row = rows.claimed(before, host=host, at=wall)
        if before.lapsed:  # nobody may come back to that attempt now
            self.end_attempt(before, AttemptEnd("superseded"))
        token = self._new_token() if with_token else None
        seen = self.matcher.seen[host].capability
        dataset_id = row.dataset_id if row.is_shadow else self.reference.dataset_id
        self.execute(
            "attempt_add", job_id=row.job_id, epoch=row.epoch, generation=row.generation, host=host, token=token,
            claim_request=claim_request, at=wall, dataset_id=dataset_id,
            trainer_digest=seen.trainer_digest or self.reference.trainer_digest,
        )  # fmt: skip
        self.matcher.taken(row.class_id)
        failpoint("queue.half_claimed")
        self.audit_add(f"host:{host}", "claim", row.job_id, before.phase, row.phase, row.epoch)
        lease = self.grant_lease(row, host, token, claim_request, dataset_id)
        return Claim(row, lease, _device(row, view))

    def _others(self, now_s: float) -> Iterator[HostView]:
        """The fleet's hosts, put together only when somebody asks for the first one."""
        yield from self.views(now_s)

    def _expire(self, lease: LiveLease) -> bool:
        self.note_heard(lease)
        row = self.row(lease.job_id)
        losses = row.host_losses + 1 if row is not None else 0
        budget_left = losses < self.policy.max_host_losses
        decision = decide(row.phase, "expire", budget_left=budget_left) if row is not None else None
        if row is None or row.epoch != lease.epoch or not isinstance(decision, Move):
            return False  # only memory knew it: the row says that nobody holds it
        text = f"{lease.host} stopped reporting: no heartbeat for {self.stale_after_s:g} s (attempt {row.attempts})"
        self.end_attempt(row, AttemptEnd("lapsed", error=text))
        failpoint("queue.half_expired")
        changed = replace(
            row, host_losses=losses, last_error=text, heartbeat_at=lease.heartbeat_at or row.heartbeat_at
        )
        new = self.put_back(changed, decision, replace(row.learned, wait_for_host=""))
        self.save(row, replace(new, claimed_by=lease.host), "expire", "reaper", detail=lease.host)
        return True


def _device(row: JobRow | None, view: HostView) -> AllowedDevice:
    is_required = row is not None and bool(row.spec.get("require_cuda"))
    return device_for(view.capability, require_cuda=is_required)


def _graces(policy: Policy) -> tuple[float, float]:
    return policy.prefer_cuda_grace_s, policy.same_host_s


def _usage(usage: Mapping[str, float | None] | None) -> dict[str, Any]:
    known = usage or {}
    return {key: known.get(key) for key in ("duration_s", "peak_rss_mib", "cpu_s")}


def _refused(row: JobRow | None, decision: Decision | None, job_id: str) -> Outcome:
    if row is None:
        return _unknown(job_id)
    if isinstance(decision, Refusal):
        return Outcome(False, row, decision.http_status, decision.reason)
    return Outcome(True, row)  # a replay: answered as it was the first time


def _not_lost(row: JobRow, before: JobRow | None = None) -> JobRow:
    """A host that comes back after its lease lapsed was not lost: the loss is taken back."""
    lapsed = (before or row).lapsed
    return replace(row, host_losses=max(0, row.host_losses - 1)) if lapsed else row


def _unknown(job_id: str) -> Outcome:
    return Outcome(False, None, 404, f"no job {job_id[:80]}")


def _why_nothing(view: HostView, rules: Rules) -> str:
    asked = (eligibility.fleet_check(rules), *eligibility.state_checks(view))
    blocked = [check.message for check in asked if not check.ok]
    return blocked[0] if blocked else "no pending job fits this host now"
