"""A plan and the reload after it never disagree: random manifests and job states, through the real queue.

The prediction is compared with what the rows show afterwards, not with what the reload says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.clock import ManualClock
from tests.property.fleets import HOSTS, capabilities, fleets
from training.fleet import plan
from training.fleet.eligibility import HostView, fits, policy_allows, requirement_of
from training.fleet.queue import JobQueue
from training.fleet.rows import JobRow
from training.fleet.specs import spec_of
from training.fleet.types import Capability, DatasetPin, JobSpec, Manifest

TRAINERS = ("t" * 64, "u" * 64)
pins = st.sampled_from([None, DatasetPin("1" * 64, "/one"), DatasetPin("2" * 64, "/two")])


reports = st.tuples(*[capabilities()] * len(HOSTS))
"""What each host reports of itself."""


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest whose jobs may share ids and names with those of another one, in all combinations."""
    found = draw(fleets())
    renamed: list[JobSpec] = []
    for number, spec in enumerate(found.jobs):
        wish = draw(st.sampled_from(["keep", "retrain"]))
        name = draw(st.sampled_from([spec.name, f"other{number}", "j0", "j1"]))
        taken = {item.name for item in renamed}
        line = draw(st.sampled_from([None, 3, 9]))
        job_id = draw(st.sampled_from([spec.job_id, f"{number}" * 64]))
        hyper = draw(st.sampled_from([{}, {"epochs": 3}]))
        name = spec.name if name in taken else name
        if name in taken:
            name = f"free{number}"
        renamed.append(
            replace(spec, on_change=wish, name=name, line=line, job_id=job_id, hyper=hyper)  # type: ignore[arg-type]
        )
    digest = draw(st.sampled_from(["a", "b"])) * 64
    return replace(found, jobs=tuple(renamed), dataset=draw(pins), digest=digest)


def live_a_little(
    data: st.DataObject, queue: JobQueue, clock: ManualClock, reported: Sequence[Capability]
) -> None:
    """Whatever may happen to jobs before somebody plans."""
    for _ in range(data.draw(st.integers(0, 8))):
        kind = data.draw(
            st.sampled_from(
                ["claim", "beat", "complete", "fail", "oom", "release", "sweep", "cancel", "requeue"]
            )
        )
        leases, rows = queue.leases.all(), queue.list_jobs()
        if kind == "claim":
            host = data.draw(st.sampled_from(HOSTS))
            queue.claim(host, reported[HOSTS.index(host)])
        elif kind == "sweep":
            clock.advance(101)
            queue.sweep_stale()
        elif kind == "cancel" and rows:
            queue.cancel(data.draw(st.sampled_from(rows)).job_id)
        elif kind == "requeue" and rows:
            queue.requeue(data.draw(st.sampled_from(rows)).job_id, force=True)
        elif leases and kind == "beat":
            queue.heartbeat(leases[0].job_id, leases[0].host)
        elif leases and kind == "complete":
            queue.complete(leases[0].job_id, leases[0].host, artifact_id="c" * 64)
        elif leases and kind == "release":
            queue.release(leases[0].job_id, leases[0].host)
        elif leases and kind in ("fail", "oom"):
            queue.fail(
                leases[0].job_id, leases[0].host, error="x", fail_class="oom" if kind == "oom" else "program"
            )


def observed(before: dict[str, JobRow], after: dict[str, JobRow], wanted: Manifest) -> dict[str, str]:
    """What has happened to each job, told from the rows alone."""
    out: dict[str, str] = {}
    for job_id, now in after.items():
        was = before.get(job_id)
        if was is None:
            out[job_id] = "added"
        elif now.held and not was.held:
            out[job_id] = "removed"
        elif now.generation > was.generation:
            out[job_id] = "retrained"
        elif was.held and not now.held:
            out[job_id] = "returned"
        elif {**was.spec, "line": 0} != {**now.spec, "line": 0}:
            out[job_id] = "updated"
        elif was.spec["line"] != now.spec["line"]:
            out[job_id] = "moved"
    return out


def predicted(body: dict[str, Any]) -> dict[str, str]:
    words = {
        "add": "added",
        "update": "updated",
        "remove": "removed",
        "retrain": "retrained",
        "return": "returned",
    }
    out: dict[str, str] = {}
    for job in body["jobs"]:
        action = job["action"]
        if action == "replace":
            action = "add" if job["status"] is None else "return"
        out[job["job_id"]] = "moved" if action == "move" else words[action]
        if job["old_job_id"] is not None:
            out[job["old_job_id"]] = "removed"
    return out


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(), first=manifests(), second=manifests(), third=manifests(), reported=reports,
    trainers=st.tuples(*[st.sampled_from(TRAINERS)] * 3),
)  # fmt: skip
def test_a_reload_does_what_its_plan_has_said(
    data: st.DataObject,
    first: Manifest,
    second: Manifest,
    third: Manifest,
    reported: Sequence[Capability],
    trainers: tuple[str, ...],
) -> None:
    clock = ManualClock()
    queue = JobQueue(":memory:", clock=clock, stale_after_s=100.0)
    in_force = None
    try:
        for manifest, trainer in zip((first, second, third), trainers, strict=True):
            made = plan.make(plan.look(queue, manifest, in_force), manifest, trainer)
            before = {row.job_id: row for row in queue.list_jobs()}
            counts = plan.put_in_force(queue, manifest, trainer, made, in_force)
            after = {row.job_id: row for row in queue.list_jobs()}

            assert counts == made.body["counts"]
            assert predicted(made.body) == observed(before, after, manifest)
            told = Counter(observed(before, after, manifest).values())
            assert {"added": told["added"], "removed": told["removed"], "retrained": told["retrained"]} == {
                key: made.body["counts"][key] for key in ("added", "removed", "retrained")
            }
            assert made.body["n_unchanged"] + made.body["n_moved"] == made.body["counts"]["unchanged"]

            again = plan.make(plan.look(queue, manifest, manifest), manifest, trainer)
            assert (again.body["changes"], again.body["n_moved"]) == (0, 0), "nothing is left to do"
            in_force = manifest
            live_a_little(data, queue, clock, reported)
    finally:
        queue.close()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), first=manifests(), second=manifests(), reported=reports)
def test_the_hosts_of_a_planned_job_are_those_that_fit_it_afterwards(
    data: st.DataObject, first: Manifest, second: Manifest, reported: Sequence[Capability]
) -> None:
    clock = ManualClock()
    queue = JobQueue(":memory:", clock=clock, stale_after_s=100.0)
    try:
        queue.apply_manifest(first, trainer_digest=TRAINERS[0])
        live_a_little(data, queue, clock, reported)
        made = plan.make(plan.look(queue, second, first), second, TRAINERS[0])
        assert isinstance(plan.put_in_force(queue, second, TRAINERS[0], made, first), dict)

        views, rules = queue.views(clock.now_s()), queue.matcher.rules
        for job in made.body["jobs"]:
            if job["action"] == "remove":
                continue
            row = queue.get(job["job_id"])
            assert row is not None
            requirement = requirement_of(spec_of(row.spec), row.learned)
            able = [view.name for view in views if fits(requirement, view, rules)]
            assert job["hosts"] == able
        _warnings_hold(queue, made.body["warnings"], views)
    finally:
        queue.close()


def _warnings_hold(queue: JobQueue, warnings: list[dict[str, Any]], views: list[HostView]) -> None:
    """A job that waits and fits no host is warned of, and no other; W002 only where a silent host may help."""
    told = {
        name: item["code"] for item in warnings if item["code"] in ("W001", "W002") for name in item["jobs"]
    }
    rules, seen = queue.matcher.rules, queue.matcher.seen
    for row in queue.list_jobs("pending"):
        if row.held:
            continue
        requirement = requirement_of(spec_of(row.spec), row.learned)
        able = [view for view in views if fits(requirement, view, rules)]
        assert (row.name in told) == (not able)
        if row.name in told:
            silent = [view for view in views if view.name not in seen]
            hopes = [view for view in silent if policy_allows(requirement, view.name, view.spec, rules)]
            assert told[row.name] == ("W002" if hopes else "W001")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), first=manifests(), second=manifests(), reported=reports)
def test_a_plan_holds_exactly_while_no_job_moves(
    data: st.DataObject, first: Manifest, second: Manifest, reported: Sequence[Capability]
) -> None:
    """That a claimed job runs, or that a host calls in vain, moves nothing."""
    clock = ManualClock()
    queue = JobQueue(":memory:", clock=clock, stale_after_s=100.0)
    try:
        queue.apply_manifest(first, trainer_digest=TRAINERS[0])
        live_a_little(data, queue, clock, reported)
        made = plan.make(plan.look(queue, second, first), second, TRAINERS[0])
        places = _places(queue)
        live_a_little(data, queue, clock, reported)
        moved = _places(queue) != places
        before = queue.list_jobs()

        done = plan.put_in_force(queue, second, TRAINERS[0], made, first)

        assert isinstance(done, plan.Refusal) == moved
        if isinstance(done, plan.Refusal):
            assert done.code == plan.E_QUEUE
            assert queue.list_jobs() == before, "nothing was changed"
            assert done.fresh is not None
            if done.does_the_same:
                counts = plan.put_in_force(queue, second, TRAINERS[0], done.fresh, first)
                assert counts == made.body["counts"]
    finally:
        queue.close()


def _places(queue: JobQueue) -> list[tuple[object, ...]]:
    active = ("claimed", "running")
    return sorted(
        (row.job_id, "active" if row.status in active else row.status, row.generation, row.held, row.epoch)
        for row in queue.list_jobs()
    )
