"""The queue's memory and its rows: what every event builds on, inside a transaction.

Memory (leases, heads of classes, hosts) mirrors the database; see `training.fleet.ledger` for who may
look at it and when it is rebuilt.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cis490.clock import Clock, SystemClock
from cis490.failpoints import failpoint
from training.fleet import budgets, hosts, rows
from training.fleet.eligibility import HostView, Learned
from training.fleet.leases import LeaseBook, LiveLease, same_token
from training.fleet.ledger import Ledger
from training.fleet.lifecycle import Decision, Event, Move, Refusal, Standing, decide, status_of
from training.fleet.matching import Matcher, Seen
from training.fleet.rows import AttemptEnd, AttemptRow, JobRow
from training.fleet.specs import Reference, spec_of
from training.fleet.sql import STATEMENTS
from training.fleet.types import Capability, FailClass, Policy
from training.fleet.wire import Progress, capability_of

ALWAYS_AUDITED = ("reload", "pause", "resume")
"""Events of a job that leave an audit row though its phase stays."""


class QueueState(Ledger):
    """Rows, leases, hosts and their audit trail. `stale_after_s` is the length of a lease."""

    def __init__(
        self,
        db_path: str | Path,
        *,
        clock: Clock | None = None,
        stale_after_s: float = 600.0,
        heartbeat_s: float = 30.0,
        max_attempts: int = 3,
        live_s: float = 90.0,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.stale_after_s, self.heartbeat_s = stale_after_s, heartbeat_s
        self._new_token = new_token
        super().__init__(db_path)
        self.policy = Policy(max_failures=max_attempts, max_host_losses=max_attempts)
        self.reference = Reference()
        self.leases = LeaseBook()
        self.matcher = Matcher(self._connection, live_s=live_s)
        with self._lock:
            self._restart()

    # -- memory

    def rebuild(self) -> None:
        """Memory again from the database; deadlines of leases that are still there are kept."""
        old = {(lease.job_id, lease.epoch): lease for lease in self.leases.all()}
        self.matcher.forget()
        self.leases.clear()  # from here on a heartbeat waits for its turn
        for raw in self.execute("job_live").fetchall():
            row = rows.job_row(raw)
            attempt = self.attempt(row)
            lease = self.enter_lease(row, attempt)
            before = old.get((row.job_id, row.epoch))
            if before is not None:
                lease.deadline_s, lease.progress = before.deadline_s, before.progress
                lease.heartbeat_at, lease.heard_s = before.heartbeat_at, before.heard_s

    def settle(self) -> None:
        self.leases.settle()

    def _restart(self) -> None:
        """Start-up: every live lease gets one full period, every grace begins anew, and a host that was
        known has the time of `live_s` to call before others take what it is preferred for."""
        now_s = self.clock.now_s()
        for raw in self.execute("workers"):
            seen = Seen(
                capability_of(json.loads(raw["capability"])), now_s, raw["last_seen_at"], False,
                raw["paused_reason"], raw["failures_in_a_row"], raw["last_failed_job"],
            )  # fmt: skip
            self.matcher.seen[raw["host"]] = seen
        with self.atomic():
            self.begin_graces_anew()
        failpoint("queue.before_rebuild")
        self.rebuild()
        self.settle()

    def begin_graces_anew(self) -> None:
        """Every waiting job with a wish has its whole grace period from now: the clock of `ready_at` may be
        another boot's, or the policy has changed."""
        for class_id in self.matcher.wishing():
            self.execute("class_grace", class_id=class_id, ready_at=self.ready_at(class_id))
            self.matcher.touch(class_id)

    # -- inside a transaction

    def save(self, old: JobRow, new: JobRow, event: str, actor: str, *, detail: str = "") -> None:
        """Write the row, its audit row, and what memory must know of it."""
        values = new.columns() | {"old_status": old.status, "old_lapsed": int(old.lapsed)}
        cursor = self._connection.execute(STATEMENTS["job_save"], values)
        if cursor.rowcount != 1:
            raise AssertionError(f"job {old.job_id} moved while the lock was held")
        if "pending" in (old.status, new.status):  # only waiting jobs stand in their class
            self.matcher.touch(old.class_id)
            self.matcher.touch(new.class_id)
        if new.status not in ("claimed", "running"):
            self.end_lease(new.job_id)
        if old.phase != new.phase or old.generation != new.generation or event in ALWAYS_AUDITED:
            self.audit_add(actor, event, new.job_id, old.phase, new.phase, new.epoch, detail)

    def audit_add(
        self, actor: str, event: str, job_id: str, source: str, target: str, epoch: int, detail: str = ""
    ) -> None:
        self.execute(
            "audit_add", at=self.clock.wall_s(), actor=actor, event=event, job_id=job_id, from_phase=source,
            to_phase=target, epoch=epoch, detail=detail,
        )  # fmt: skip

    def audit_host(self, actor: str, event: str, host: str, detail: str) -> None:
        """An event about a host, or with host "" about the whole fleet."""
        self.execute(
            "audit_host_add", at=self.clock.wall_s(), actor=actor, event=event, host=host, detail=detail
        )

    def ready_at(self, class_id: int) -> float | None:
        """When a job that enters this class now loses its wish."""
        requirement = self.matcher.requirement(class_id)
        if not requirement.may_ripen:
            return None
        cuda = self.policy.prefer_cuda_grace_s if requirement.prefer_cuda else 0.0
        same = self.policy.same_host_s if requirement.wait_for_host else 0.0
        return self.clock.now_s() + max(cuda, same)

    def put_back(self, row: JobRow, decision: Move, learned: Learned) -> JobRow:
        """The row after an event that takes the job from its worker."""
        status, lapsed = status_of(decision.target)
        class_id = self.matcher.class_of(spec_of(row.spec), learned)
        ready_at = self.ready_at(class_id) if status == "pending" else None
        kept = row.claimed_by if lapsed or status == "failed" else None
        return replace(
            row,
            status=status,
            lapsed=lapsed,
            learned=learned,
            class_id=class_id,
            ready_at=ready_at,
            claimed_by=kept,
        )

    def judge(
        self,
        job_id: str,
        host: str,
        token: str | None,
        event: Event,
        *,
        artifact_id: str | None = None,
        budget_left: bool = True,
    ) -> tuple[JobRow | None, AttemptRow | None, Decision | None]:
        row = self.row(job_id)
        if row is None:
            return None, None, None
        attempt, standing = self._standing(row, host, token)
        if standing == "stranger":
            return row, None, Refusal(410, self._why_stranger(row, host, token))
        decision = decide(
            row.phase,
            event,
            standing=standing,
            outcome=attempt.outcome if attempt else None,
            same_artifact=attempt is not None and artifact_id in (None, attempt.artifact_id),
            budget_left=budget_left,
        )
        return row, attempt, decision

    def _why_stranger(self, row: JobRow, host: str, token: str | None) -> str:
        lease = self.leases.get(row.job_id)
        if lease is None:
            return f"{host} holds no lease of this job, which is {row.status}"
        if lease.host != host:
            return f"the job is held by another host, not by {host}"
        if token is None:
            return "the header X-Lease-Token is missing: this lease was claimed with a token"
        return "X-Lease-Token is not the one of the job's current lease"

    def _standing(self, row: JobRow, host: str, token: str | None) -> tuple[AttemptRow | None, Standing]:
        """Which attempt the requester speaks for. Without a token only claims made without one match."""
        mine = [
            attempt
            for attempt in map(rows.attempt_row, self.execute("attempts", job_id=row.job_id))
            if attempt.host == host and same_token(attempt.token, token)
        ]
        if not mine:
            return None, "stranger"
        latest = mine[-1]
        current = latest.epoch == row.epoch and latest.generation == row.generation
        return latest, "holder" if current and latest.outcome in (None, "lapsed") else "ended"

    def after_failure(self, row: JobRow, host: str, fail_class: FailClass) -> tuple[Learned, bool]:
        now_s = self.clock.now_s()
        learned = budgets.learn(
            row.learned, row.model, host, self.matcher.view(host, now_s, 0).capability, fail_class
        )
        again = budgets.may_retry(
            spec_of(row.spec), learned, fail_class, failures=row.program_failures + 1, policy=self.policy,
            hosts=self.views(now_s), rules=self.matcher.rules,
        )  # fmt: skip
        return learned, again

    def count_failure(self, host: str, job_id: str | None) -> None:
        """A row of failures of different jobs pauses the host; `None`: it completed one, which ends the row."""
        seen = self.matcher.seen.get(host)
        if seen is None or (job_id is None and not seen.failures_in_a_row) or job_id == seen.last_failed_job:
            return
        failures = seen.failures_in_a_row + 1 if job_id is not None else 0
        paused = budgets.pause_reason(failures, self.policy)
        if paused is not None and seen.paused_reason is None:
            self.audit_host("receiver", "pause", host, paused)
        self.execute("worker_failures", host=host, failures=failures, job_id=job_id, paused_reason=paused)
        self.remember(
            host, replace(seen, failures_in_a_row=failures, last_failed_job=job_id, paused_reason=paused)
        )

    def remember(self, host: str, seen: Seen) -> None:
        """Change what memory knows of a host, so that a rollback takes it back."""
        before = self.matcher.seen[host]
        self.on_rollback(lambda: self.matcher.seen.__setitem__(host, before))
        self.matcher.seen[host] = seen

    def saw(self, host: str, capability: Capability | Mapping[str, Any] | None) -> None:
        if capability is None:
            known = self.matcher.seen.get(host)
            capability = known.capability if known else Capability()
        found = capability if isinstance(capability, Capability) else capability_of(capability)
        wall = self.clock.wall_s()
        before = self.matcher.seen.get(host)
        if self.matcher.saw(host, found, self.clock.now_s(), wall):
            self.on_rollback(lambda: self.matcher.unsee(host, before))
            self.execute("worker_seen", host=host, capability=rows.dumps(found.to_dict()), at=wall)
            if before is None:
                hosts.forget_oldest(self, host)

    def renew_lease(
        self, job_id: str, host: str, *, token: str | None = None, progress: Progress | None = None
    ) -> bool:
        """Renew the lease in memory; False when that is not enough (see `LeaseBook.renew`). From any thread,
        waits neither for the lock nor for the disk."""
        return self.leases.renew(
            job_id, host, token, progress, now_s=self.clock.now_s(), wall_s=self.clock.wall_s(),
            lease_s=self.stale_after_s,
        )  # fmt: skip

    def end_lease(self, job_id: str) -> None:
        """Take the lease out of memory; what its heartbeats told of the host is kept."""
        lease = self.leases.get(job_id)
        if lease is not None:
            self.leases.end(job_id)
            self.note_heard(lease)

    def note_heard(self, lease: LiveLease) -> None:
        """Heartbeats only touch their lease; what matching knows of the host follows here."""
        seen = self.matcher.seen.get(lease.host)
        if seen is not None and lease.heard_s is not None and lease.heard_s > seen.at_s:
            wall_s = lease.heartbeat_at or seen.wall_s
            self.matcher.seen[lease.host] = replace(seen, at_s=lease.heard_s, wall_s=wall_s, heard=True)

    def note_all_heard(self) -> None:
        for lease in self.leases.all():
            self.note_heard(lease)

    def enter_lease(self, row: JobRow, attempt: AttemptRow) -> LiveLease:
        """Enter a live lease, with one full period from now."""
        return self.grant_lease(row, attempt.host, attempt.token, attempt.claim_request, attempt.dataset_id)

    def grant_lease(
        self, row: JobRow, host: str, token: str | None, claim_request: str | None, dataset_id: str | None
    ) -> LiveLease:
        lease = LiveLease(
            row.job_id, row.epoch, host, token, claim_request, self.clock.now_s() + self.stale_after_s, dataset_id,
            row.status == "running", row.heartbeat_at, name=row.name,
        )  # fmt: skip
        self.leases.add(lease)
        return lease

    def end_attempt(self, row: JobRow, end: AttemptEnd) -> bool:
        """Write how the row's attempt ended; False when it had ended before (or there was none)."""
        cursor = self.execute(
            "attempt_end", job_id=row.job_id, epoch=row.epoch, at=self.clock.wall_s(), **asdict(end)
        )
        return cursor.rowcount > 0

    def attempt(self, row: JobRow) -> AttemptRow:
        return rows.attempt_row(self.execute("attempt_live", job_id=row.job_id, epoch=row.epoch).fetchone())

    def row(self, job_id: str) -> JobRow | None:
        raw = self.execute("job_get", job_id=job_id).fetchone()
        return None if raw is None else rows.job_row(raw)

    def views(self, now_s: float) -> list[HostView]:
        self.note_all_heard()
        return [self.matcher.view(name, now_s, self.leases.busy(name)) for name in self.matcher.names()]

    def with_heartbeat(self, row: JobRow) -> JobRow:
        lease = self.leases.get(row.job_id)
        if lease is None or lease.epoch != row.epoch or lease.heartbeat_at is None:
            return row
        return replace(row, heartbeat_at=lease.heartbeat_at)
