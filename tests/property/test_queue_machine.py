"""The queue against a small reference model, under any sequence of events, lapses and restarts.

The model keeps per job what the design promises and nothing else; after every step the queue must
agree with it, and the invariants must hold: one live lease per job, no stale holder accepted, one
accepted result per generation, the row is the fold of its audit trail.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from cis490.clock import ManualClock
from tests.factories.fleet import ARTIFACT, cpu_host, job, job_id, manifest
from training.fleet import steering
from training.fleet.lifecycle import Phase
from training.fleet.queue import JobQueue

NAMES = ("x", "y", "z")
HOSTS = ("a", "b", "c")
MAX_LOSSES = MAX_FAILURES = 3
LEASE_S = 600.0


@dataclass
class Grant:
    """A lease somebody was given, whatever has become of it since."""

    name: str
    host: str
    token: str
    epoch: int


@dataclass
class Model:
    """What must be true of one job."""

    phase: Phase = "pending"
    epoch: int = 0
    holder: Grant | None = None
    deadline_s: float = 0.0
    losses: int = 0
    failures: int = 0
    generation: int = 1
    results: list[tuple[int, str]] = field(default_factory=list)
    paused: bool = False

    @property
    def live(self) -> bool:
        return self.phase in ("claimed", "running")


class QueueMachine(RuleBasedStateMachine):
    grants: Bundle[Grant] = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.queue = self._open()
        self.models = {name: Model() for name in NAMES}
        self.fleet_paused = False

    def _open(self) -> JobQueue:
        return JobQueue(self.folder / "q.db", clock=self.clock, stale_after_s=LEASE_S)

    def teardown(self) -> None:
        self.queue.close()
        shutil.rmtree(self.folder)

    @initialize()
    def reload(self) -> None:
        jobs = [job(name, priority=index) for index, name in enumerate(NAMES)]
        wanted = manifest(
            *jobs, max_failures=MAX_FAILURES, max_host_losses=MAX_LOSSES, pause_after_failures=0
        )
        self.queue.apply_manifest(wanted)

    @rule(target=grants, host=st.sampled_from(HOSTS))
    def claim(self, host: str) -> Grant | MultipleResults[Grant]:
        found = self.queue.claim(host, cpu_host(), with_token=True)
        waiting = [
            name
            for name, model in self.models.items()
            if model.phase in ("pending", "pending_lapsed") and not model.paused and not self.fleet_paused
        ]
        busy = any(
            model.live and model.holder and model.holder.host == host for model in self.models.values()
        )
        if found.row is None:
            assert busy or all(self._waits_for_other(name, host) for name in waiting), (host, waiting)
            return multiple()
        assert not busy
        assert found.lease is not None
        assert found.lease.token is not None
        grant = Grant(found.row.name, host, found.lease.token, found.row.epoch)
        model = self.models[grant.name]
        assert model.phase in ("pending", "pending_lapsed")
        assert not model.paused
        assert not self.fleet_paused
        assert grant.epoch == model.epoch + 1, "epochs grow by one and are never reused"
        model.phase, model.epoch, model.holder = "claimed", grant.epoch, grant
        model.deadline_s = self.clock.now_s() + LEASE_S
        return grant

    def _waits_for_other(self, name: str, host: str) -> bool:
        row = self.queue.get(job_id(name))
        assert row is not None
        return row.learned.wait_for_host not in ("", host) or host in row.learned.failed_hosts

    def _holds(self, grant: Grant) -> bool:
        model = self.models[grant.name]
        return model.holder is grant and model.phase in (
            "claimed",
            "running",
            "pending_lapsed",
            "failed_lapsed",
        )

    @rule(grant=grants)
    def heartbeat(self, grant: Grant) -> None:
        done = self.queue.heartbeat(job_id(grant.name), grant.host, token=grant.token)
        assert bool(done) == self._holds(grant)
        if done:
            model = self.models[grant.name]
            if not model.live:
                model.losses -= 1
            model.phase, model.deadline_s = "running", self.clock.now_s() + LEASE_S

    @rule(grant=grants)
    def complete(self, grant: Grant) -> None:
        model = self.models[grant.name]
        replay = (grant.epoch, ARTIFACT) in model.results
        done = self.queue.complete(job_id(grant.name), grant.host, artifact_id=ARTIFACT, token=grant.token)
        assert bool(done) == (self._holds(grant) or replay)
        if self._holds(grant):
            model.results.append((grant.epoch, ARTIFACT))
            model.phase, model.holder = "completed", None

    @rule(grant=grants, fail_class=st.sampled_from(["program", "bad_config", "timeout"]))
    def fail(self, grant: Grant, fail_class: str) -> None:
        held, model = self._holds(grant), self.models[grant.name]
        done = self.queue.fail(
            job_id(grant.name), grant.host, error="x", token=grant.token, fail_class=fail_class,  # type: ignore[arg-type]
        )  # fmt: skip
        assert not held or done
        if held:
            model.losses -= not model.live
            model.failures += 1
            final = fail_class == "bad_config" or model.failures >= MAX_FAILURES
            model.phase, model.holder = ("failed" if final else "pending"), None

    @rule(grant=grants)
    def release(self, grant: Grant) -> None:
        held = self._holds(grant)
        done = self.queue.release(job_id(grant.name), grant.host, token=grant.token)
        assert not held or done
        if held:
            model = self.models[grant.name]
            model.losses -= not model.live
            model.phase, model.holder = "pending", None

    @rule(grant=consumes(grants))
    def a_forged_token_never_works(self, grant: Grant) -> None:
        for host, token in ((grant.host, grant.token + "x"), (grant.host, None), ("other", grant.token)):
            assert not self.queue.heartbeat(job_id(grant.name), host, token=token)
            assert not self.queue.complete(job_id(grant.name), host, artifact_id=ARTIFACT, token=token)

    @rule(name=st.sampled_from(NAMES))
    def cancel(self, name: str) -> None:
        model = self.models[name]
        allowed = model.phase not in ("completed", "failed", "failed_lapsed")
        assert bool(self.queue.cancel(job_id(name))) == allowed
        if allowed:
            model.phase, model.holder = "cancelled", None

    @rule(name=st.sampled_from(NAMES), force=st.booleans())
    def requeue(self, name: str, force: bool) -> None:
        model = self.models[name]
        allowed = not model.live and (model.phase != "completed" or force)
        assert bool(self.queue.requeue(job_id(name), force=force)) == allowed
        if allowed and model.phase not in ("pending", "pending_lapsed"):
            model.generation += model.phase == "completed"
            model.phase, model.holder, model.losses, model.failures = "pending", None, 0, 0

    @rule(name=st.sampled_from(NAMES), reason=st.sampled_from(["x", "y"]))
    def pause(self, name: str, reason: str) -> None:
        model = self.models[name]
        allowed = model.live or model.phase in ("pending", "pending_lapsed")
        assert bool(steering.pause_job(self.queue, job_id(name), reason)) == allowed
        model.paused = model.paused or allowed

    @rule(name=st.sampled_from(NAMES))
    def resume(self, name: str) -> None:
        assert steering.resume_job(self.queue, job_id(name))
        self.models[name].paused = False

    @rule(reason=st.sampled_from(["x", None]))
    def the_fleet_is_paused_or_resumed(self, reason: str | None) -> None:
        steering.resume_fleet(self.queue) if reason is None else steering.pause_fleet(self.queue, reason)
        self.fleet_paused = reason is not None

    @rule(seconds=st.sampled_from([1.0, 299.0, 601.0]))
    def time_passes_and_the_reaper_runs(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.queue.sweep_stale()
        for model in self.models.values():
            if model.live and model.deadline_s <= self.clock.now_s():
                model.losses += 1
                model.phase = "failed_lapsed" if model.losses >= MAX_LOSSES else "pending_lapsed"

    @rule(seconds=st.integers(-(10**9), 10**9))
    def the_wall_clock_jumps(self, seconds: int) -> None:
        self.clock.step_wall(seconds)

    @rule()
    def restart(self) -> None:
        self.queue.close()
        self.queue = self._open()
        self.reload()
        for model in self.models.values():
            model.deadline_s = self.clock.now_s() + LEASE_S

    @invariant()
    def the_queue_agrees_with_the_model(self) -> None:
        for name, model in self.models.items():
            row = self.queue.get(job_id(name))
            if row is None:  # before the first reload
                continue
            assert (row.phase, row.epoch, row.generation) == (model.phase, model.epoch, model.generation), (
                name
            )
            assert (row.host_losses, row.program_failures) == (model.losses, model.failures), name
            assert (row.paused_reason is not None) == model.paused, name
            lease = self.queue.live_leases().get(row.job_id)
            assert (lease is not None) == model.live
            if lease is not None:
                assert model.holder is not None
                assert (lease.host, lease.token, lease.epoch) == (
                    model.holder.host,
                    model.holder.token,
                    model.epoch,
                )

    @invariant()
    def the_row_is_the_fold_of_its_trail(self) -> None:
        for name in NAMES:
            row = self.queue.get(job_id(name))
            if row is None:
                continue
            phase = ""
            for entry in self.queue.audit(row.job_id):
                assert entry["from_phase"] == phase or entry["event"] == "reload"
                phase = entry["to_phase"]
            assert phase == row.phase


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
