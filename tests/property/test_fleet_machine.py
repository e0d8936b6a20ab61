"""Any history of a fleet: `why`, claim and the queue's memory agree after every step.

Histories are made of reloads (other jobs, hosts, policy), changed capabilities, hosts that die and return, jumps of
the wall clock, suspends, drains, pauses by failures, graces that end, lapses, and restarts from disk. After each step

- for every host that ever called, a claim would be refused exactly when `explain` lists a blocker for every job;
- what it would get is the best job without one: by priority, then age;
- memory (heads, fits, leases, graces, hosts) is what a queue opened on a copy of the database would compute.

That all three might be wrong alike is what the tests of single features below are for: they know the right answer.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, cuda_host, job, job_id, manifest
from tests.property.fleets import HOSTS, capabilities, fleets
from training.fleet import eligibility, hosts, reaper, steering
from training.fleet.matching import Matcher
from training.fleet.queue import JobQueue
from training.fleet.turns import whose_turn
from training.fleet.types import Capability, FailClass, HostSpec, JobSpec, Manifest

TRAINER = "t" * 64
LEASE_S, LIVE_S, SWEEP_S = 100.0, 90.0, 60.0
host_names = st.sampled_from(HOSTS)
pick = st.integers(0, 10)


def scratch() -> Path:
    """A new folder, in memory where there is such a file system: a real disk's fsync is not what is tried here."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None))


def opened(path: Path, clock: ManualClock) -> JobQueue:
    return JobQueue(path, clock=clock, stale_after_s=LEASE_S, live_s=LIVE_S, max_attempts=3)


class FleetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch()
        self.clock = ManualClock()
        self.queue = opened(self.folder / "q.db", self.clock)
        self.manifest = Manifest(name="f", hosts={}, jobs=())
        self.reports: dict[str, Capability] = {}
        self.drained: set[str] = set()

    def teardown(self) -> None:
        self.queue.close()
        shutil.rmtree(self.folder)

    @initialize(wanted=fleets())
    def start(self, wanted: Manifest) -> None:
        self.reload(wanted)

    # -- what the operator does

    @rule(wanted=fleets())
    def reload(self, wanted: Manifest) -> None:
        self.manifest = wanted
        self.queue.apply_manifest(wanted, trainer_digest=TRAINER)

    @rule(at=pick, priority=st.integers(0, 3), wish=st.booleans())
    def reload_with_one_more_job(self, at: int, priority: int, wish: bool) -> None:
        """Much like one that is there, so that it enters a class whose head is known."""
        jobs = self.manifest.jobs
        like, name = jobs[at % len(jobs)], f"more{len(jobs)}"
        more = replace(like, name=name, job_id=job_id(name), priority=priority, prefer_cuda=wish)
        self.reload(replace(self.manifest, jobs=(*jobs, more)))

    @rule(host=host_names, reason=st.sampled_from(["moves", "is broken"]))
    def drain(self, host: str, reason: str) -> None:
        if hosts.drain(self.queue, host, reason):
            self.drained.add(host)

    @rule(host=host_names)
    def undrain(self, host: str) -> None:
        hosts.undrain(self.queue, host)
        self.drained.discard(host)

    @rule(reason=st.sampled_from(["x", None, None]))
    def the_fleet_is_paused_or_resumed(self, reason: str | None) -> None:
        steering.resume_fleet(self.queue) if reason is None else steering.pause_fleet(self.queue, reason)

    @rule(at=pick, resumes=st.booleans())
    def a_job_is_paused_or_resumed(self, at: int, resumes: bool) -> None:
        listed = self.queue.list_jobs()
        one = listed[at % len(listed)].job_id
        steering.resume_job(self.queue, one) if resumes else steering.pause_job(self.queue, one, "x")

    @rule(host=host_names)
    def a_host_is_resumed(self, host: str) -> None:
        hosts.resume(self.queue, host)

    @rule(at=pick)
    def cancel(self, at: int) -> None:
        listed = self.queue.list_jobs()
        self.queue.cancel(listed[at % len(listed)].job_id)

    @rule(at=pick, force=st.booleans())
    def requeue(self, at: int, force: bool) -> None:
        listed = self.queue.list_jobs()
        self.queue.requeue(listed[at % len(listed)].job_id, force=force)

    # -- what the workers do

    @rule(host=host_names, capability=capabilities())
    def capability_changes(self, host: str, capability: Capability) -> None:
        self.reports[host] = capability

    @rule(host=host_names)
    def claim(self, host: str) -> None:
        wanted = self.open_to(host) if host in self.queue.matcher.seen and self.same_report(host) else None
        found = self.queue.claim(host, self.reports.get(host, cpu_host()), with_token=True)
        if wanted is not None:
            assert (found.row.job_id if found.row else None) == (wanted[0] if wanted else None)
        assert found.row is None or host not in self.drained

    @rule(host=host_names)
    def claims_all_it_can(self, host: str) -> None:
        for _ in range(3):
            self.claim(host)

    @rule(at=pick)
    def heartbeat(self, at: int) -> None:
        if leases := self.queue.leases.all():
            lease = leases[at % len(leases)]
            assert self.queue.heartbeat(lease.job_id, lease.host, token=lease.token)

    @rule(at=pick, why=st.sampled_from(["program", "program", "oom", "bad_config", "preempted"]))
    def fail(self, at: int, why: FailClass) -> None:
        if leases := self.queue.leases.all():
            lease = leases[at % len(leases)]
            assert self.queue.fail(lease.job_id, lease.host, error="x", token=lease.token, fail_class=why)

    @rule(at=pick, released=st.booleans())
    def finish(self, at: int, released: bool) -> None:
        if leases := self.queue.leases.all():
            lease = leases[at % len(leases)]
            if released:
                assert self.queue.release(lease.job_id, lease.host, token=lease.token)
            else:
                assert self.queue.complete(lease.job_id, lease.host, artifact_id="c" * 64, token=lease.token)

    # -- what time does

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 91.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def leases_lapse(self) -> None:
        self.clock.advance(LEASE_S)
        reaper.tick(self.queue, 0.0, self.clock.now_s())
        assert len(self.queue.leases) == 0

    @rule(seconds=st.sampled_from([200.0, 50_000.0]))
    def the_machine_sleeps_and_no_lease_is_lost(self, seconds: float) -> None:
        before = len(self.queue.leases)
        self.clock.advance(seconds)
        late = [
            lease for lease in self.queue.leases.all() if lease.deadline_s <= self.clock.now_s() - seconds
        ]
        reaper.tick(self.queue, reaper.overslept_s(SWEEP_S + seconds, SWEEP_S), self.clock.now_s())
        assert len(self.queue.leases) == before - len(late)

    @rule(seconds=st.integers(-(10**9), 10**9))
    def the_wall_clock_jumps_and_nothing_changes(self, seconds: int) -> None:
        before = self.open_jobs()
        self.clock.step_wall(seconds)
        assert self.open_jobs() == before
        assert not self.queue.sweep_stale() or self.queue.leases.expired(self.clock.now_s()) == []

    @rule()
    def restart(self) -> None:
        self.queue.close()
        self.queue = opened(self.folder / "q.db", self.clock)
        self.queue.apply_manifest(self.manifest, trainer_digest=TRAINER)

    # -- what must hold

    def same_report(self, host: str) -> bool:
        return self.queue.matcher.seen[host].capability == self.reports.get(host, cpu_host())

    def open_to(self, host: str) -> list[str]:
        """By `explain`: the jobs that nothing keeps from this host, best first."""
        return self.open_jobs().get(host, [])

    def open_jobs(self) -> dict[str, list[str]]:
        """The same for every host. That a host is silent keeps nothing from it: one that claims is live."""
        found: dict[str, list[str]] = {}
        for row in self.queue.list_jobs("pending"):
            told = self.queue.explain(row.job_id)
            assert told is not None
            for entry in told["hosts"]:
                blockers = [check for check in (*told["job_checks"], *entry["checks"]) if not check["ok"]]
                assert entry["eligible"] == all(check["ok"] for check in entry["checks"])
                if all(check["constraint"] == "live" for check in blockers):
                    found.setdefault(entry["host"], []).append(row.job_id)
        return found

    @invariant()
    def a_claim_would_be_refused_exactly_when_why_lists_a_blocker(self) -> None:
        now_s, matcher, open_jobs = self.clock.now_s(), self.queue.matcher, self.open_jobs()
        for host, seen in matcher.seen.items():
            wanted = open_jobs.get(host, [])
            view = matcher.view_as(
                host, matcher.hosts.get(host), now_s, self.queue.leases.busy(host), seen.capability
            )
            best = matcher.best(view, self.queue.views(now_s))
            assert (best.row.job_id if best and best.row else None) == (wanted[0] if wanted else None), host
            assert bool(whose_turn(self.queue, [(host, seen.capability)]).called) == bool(wanted), host
            assert not wanted or (host not in self.drained and seen.paused_reason is None)
        assert set(matcher.drained) == self.drained

    @invariant()
    def memory_is_what_a_queue_opened_on_a_copy_would_compute(self) -> None:
        copy = self.folder / "copy.db"
        with sqlite3.connect(copy) as target:
            self.queue._connection.backup(target)
        target.row_factory = sqlite3.Row
        matcher = self.queue.matcher
        fresh = Matcher(target, live_s=LIVE_S)
        assert dict(matcher.heads()) == dict(fresh.heads())
        for class_id, ahead in matcher._ahead.items():
            following = fresh.following(class_id, len(ahead))
            assert [one.order for one in reversed(ahead)] == [one.order for one in following]
            assert all(one.row == self.queue.row(one.row.job_id) for one in ahead if one.row)
        assert {key: matcher.next_ripe(key) for key in matcher.wishing()} == {
            key: fresh.next_ripe(key) for key in fresh.wishing()
        }
        assert matcher.drained == fresh.drained
        assert matcher.rules.paused_reason == fresh.rules.paused_reason
        target.close()
        self._fits_are_true()
        again = opened(copy, self.clock)
        assert live_leases(self.queue) == live_leases(again)
        kept = {
            host: (s.capability, s.paused_reason, s.failures_in_a_row) for host, s in matcher.seen.items()
        }
        assert kept == {
            host: (s.capability, s.paused_reason, s.failures_in_a_row)
            for host, s in again.matcher.seen.items()
        }
        again.close()
        for left in self.folder.glob("copy.db*"):
            left.unlink()

    def _fits_are_true(self) -> None:
        """What is cached of who fits what, judged once more."""
        matcher = self.queue.matcher
        for host, cached in matcher._fits.items():
            if cached.spec is not matcher.hosts.get(host):
                continue  # of an earlier manifest: replaced when the host is looked at
            view = eligibility.HostView(host, cached.spec, cached.effective)
            assert cached.effective == eligibility.effective(cached.detected, cached.spec)[0]
            for class_id in cached.known:
                fits = eligibility.fits(matcher.requirement(class_id), view, matcher.rules)
                assert (class_id in cached.fits) == fits, (host, matcher.requirement(class_id))


def live_leases(queue: JobQueue) -> dict[str, tuple[int, str, str | None, bool]]:
    return {x.job_id: (x.epoch, x.host, x.token, x.running) for x in queue.leases.all()}


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- one feature each, with an answer of its own

steps = st.lists(
    st.sampled_from(["call", "drain", "undrain", "pause", "resume", "die", "return", "wait", "other report"]),
    max_size=8,
)


class Wish:
    """One job that prefers CUDA, one host without, one or two with it. Knows by itself who may have the job."""

    GRACE_S = 60.0

    def __init__(self, gpus: int) -> None:
        self.clock = ManualClock()
        self.queue = opened(Path(":memory:"), self.clock)
        self.gpus = [f"gpu{n}" for n in range(gpus)]
        self.called = dict.fromkeys(self.gpus, -1e9)
        self.drained: set[str] = set()
        self.paused: set[str] = set()
        self.without_cuda: set[str] = set()
        self.job = job("wish", prefer_cuda=True)
        self.bad = [
            job(f"bad-{gpu}-{n}", priority=9, allowed_hosts=(gpu,)) for gpu in self.gpus for n in range(2)
        ]
        self.began_s = self.clock.now_s()
        self.load([self.job])

    def load(self, jobs: list[JobSpec]) -> None:
        wanted = manifest(
            *jobs, prefer_cuda_grace_s=self.GRACE_S, pause_after_failures=2, max_failures=1,
            hosts={name: HostSpec(name) for name in ("cpu", *self.gpus)},
        )  # fmt: skip
        self.queue.apply_manifest(wanted)

    def do(self, step: str, gpu: str) -> None:
        if step in ("call", "return", "other report"):
            if step == "other report":
                self.without_cuda ^= {gpu}
            with self.queue.atomic():  # it calls, and takes nothing
                self.queue.saw(gpu, cpu_host() if gpu in self.without_cuda else cuda_host())
            self.called[gpu] = self.clock.now_s()
        elif step == "drain":
            hosts.drain(self.queue, gpu, "x")
            self.drained.add(gpu)
        elif step == "undrain":
            hosts.undrain(self.queue, gpu)
            self.drained.discard(gpu)
        elif step == "pause" and self.called[gpu] > 0:
            for n in range(2):
                with self.queue.atomic():
                    self.queue.count_failure(gpu, f"bad{n}")
            self.paused.add(gpu)
        elif step == "resume":
            self.load([self.job])
            self.paused.clear()
        elif step in ("die", "wait"):
            self.clock.advance(LIVE_S + 1 if step == "die" else 20.0)

    def open_to_the_cpu(self) -> bool:
        """The answer, from what happened alone."""
        now_s = self.clock.now_s()
        return now_s - self.began_s >= self.GRACE_S or not any(
            now_s - self.called[gpu] <= LIVE_S for gpu in self.gpus
            if gpu not in self.drained | self.paused | self.without_cuda
        )  # fmt: skip


def check_wish(gpus: int, kinds: list[str], at: list[int]) -> None:
    world = Wish(gpus)
    try:
        for step, which in zip(kinds, at, strict=True):
            world.do(step, world.gpus[which % gpus])
            wanted = world.open_to_the_cpu()
            assert bool(whose_turn(world.queue, [("cpu", cpu_host())]).called) == wanted, step
        assert (world.queue.claim("cpu", cpu_host()).row is not None) == world.open_to_the_cpu()
    finally:
        world.queue.close()


@given(gpus=st.integers(1, 2), data=st.data(), kinds=steps)
def test_prefer_cuda_holds_a_job_back_for_live_undrained_unpaused_cuda_hosts_and_no_longer_than_its_grace(
    gpus: int, data: st.DataObject, kinds: list[str]
) -> None:
    check_wish(gpus, kinds, data.draw(st.lists(st.integers(0, 1), min_size=len(kinds), max_size=len(kinds))))


@given(before_s=st.floats(0, 59.9), after_s=st.floats(0, 100))
def test_prefer_cuda_ripening_opens_the_job_at_the_end_of_its_grace_and_not_before(
    before_s: float, after_s: float
) -> None:
    world = Wish(1)
    world.do("call", "gpu0")
    world.clock.advance(before_s)
    assert not world.queue.claim("cpu", cpu_host()).row
    world.clock.advance(60.0 - before_s + 0.001 + after_s)
    world.do("call", "gpu0")  # live all the time
    row = world.queue.claim("cpu", cpu_host()).row
    assert row is not None
    assert row.name == "wish"
    world.queue.close()


@given(kinds=st.lists(st.sampled_from(["drain", "undrain", "call", "restart", "reload"]), max_size=8))
def test_drain_is_what_the_last_word_said_whatever_else_happened(kinds: list[str]) -> None:
    folder = scratch()
    clock, drained = ManualClock(), False
    wanted = manifest(job("x"), hosts={"a": HostSpec("a")})
    queue = opened(folder / "q.db", clock)
    queue.apply_manifest(wanted)
    for kind in kinds:
        if kind == "restart":
            queue.close()
            queue = opened(folder / "q.db", clock)
        if kind in ("restart", "reload"):
            queue.apply_manifest(wanted)
        if kind in ("drain", "undrain"):
            drained = kind == "drain"
            assert hosts.drain(queue, "a", "moves") if drained else hosts.undrain(queue, "a")
        row = queue.claim("a", cpu_host()).row
        assert (row is None) == drained
        if row is not None:
            queue.cancel(row.job_id)
            queue.requeue(row.job_id)
    queue.close()
    shutil.rmtree(folder)


@given(
    limit=st.integers(1, 3),
    results=st.lists(
        st.sampled_from(["fail", "same job fails", "complete", "reload", "bad_config"]), max_size=8
    ),
)
def test_pause_comes_after_failures_of_different_jobs_in_a_row_and_ends_with_a_reload(
    limit: int, results: list[str]
) -> None:
    queue = opened(Path(":memory:"), ManualClock())
    wanted = manifest(*(job(f"j{n}") for n in range(12)), pause_after_failures=limit, max_failures=1)
    queue.apply_manifest(wanted)
    in_a_row: list[str] = []
    for result in results:
        if result == "reload":
            queue.apply_manifest(wanted)
            in_a_row = []
            continue
        row = queue.claim("a", cpu_host()).row
        assert (row is None) == (len(in_a_row) >= limit)
        if row is None:
            continue
        if result == "complete":
            queue.complete(row.job_id, "a", artifact_id="c" * 64)
            in_a_row = []
        elif result == "bad_config":  # never the host's fault
            queue.fail(row.job_id, "a", error="x", fail_class="bad_config")
        else:
            queue.fail(row.job_id, "a", error="x")
            if result == "same job fails":
                queue.requeue(row.job_id)
            in_a_row.append(row.name)
            if len(in_a_row) > 1 and in_a_row[-1] == in_a_row[-2]:
                in_a_row.pop()
    queue.close()


@given(
    changes=st.lists(
        st.sampled_from(["allow", "deny", "capability", "job needs more", "job needs less", "trainer"]),
        max_size=6,
    ),
    named=st.booleans(),
)
def test_cache_invalidation_every_change_of_policy_capability_and_job_counts_at_the_next_claim(
    changes: list[str], named: bool
) -> None:
    queue = opened(Path(":memory:"), ManualClock())
    denied, ram_gib, needs_gib, trainer = False, 16.0, 8.0, TRAINER
    for change in ["nothing", *changes]:
        match change:
            case "allow" | "deny":
                denied = change == "deny"
            case "capability":
                ram_gib = 24.0 - ram_gib
            case "job needs more" | "job needs less":
                needs_gib = 12.0 if change == "job needs more" else 4.0
            case "trainer":
                trainer = "u" * 64 if trainer == TRAINER else TRAINER
        spec = HostSpec("a", deny_jobs=("gbt",) if denied else ())
        if change != "capability":
            queue.apply_manifest(
                manifest(job("x", min_ram_gib=needs_gib), hosts={"a": spec} if named else {}),
                trainer_digest=trainer,
            )
        row = queue.claim("a", cpu_host(ram_gib=ram_gib, trainer_digest=TRAINER)).row
        assert (row is not None) == (not (named and denied) and ram_gib >= needs_gib and trainer == TRAINER)
        if row is not None:
            queue.cancel(row.job_id)
        queue.requeue(job_id("x"))
    queue.close()
