"""What a plan says: effects of host lines, and warnings that are never wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import ARTIFACT, cpu_host, cuda_host, job, job_id, manifest
from training.fleet import plan, render_plan
from training.fleet.queue import JobQueue
from training.fleet.render import View
from training.fleet.types import Capability, DatasetPin, HostSpec, Manifest, Policy

OLD = "1" * 64
NEW = "2" * 64


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    made = JobQueue(":memory:", clock=ManualClock())
    yield made
    made.close()


def planned(
    queue: JobQueue, wanted: Manifest, *, in_force: Manifest | None = None, trainer: str | None = None
) -> Mapping[str, Any]:
    return plan.make(plan.look(queue, wanted, in_force), wanted, trainer).body


def warned(body: Mapping[str, Any], code: str) -> list[str]:
    return [item["text"] for item in body["warnings"] if item["code"] == code]


def hosts(*names: str, **fields: Any) -> dict[str, HostSpec]:
    return {name: HostSpec(name, lines={"": 3, "deny_jobs": 4}, **fields) for name in names}


def effect(body: Mapping[str, Any], host: str) -> str:
    return next(str(item["effect"]) for item in body["hosts"] if item["name"] == host)


class TestNobodyCanRunIt:
    def test_a_job_that_every_enrolled_host_lacks_something_for(self, queue: JobQueue) -> None:
        queue.claim("pi", cpu_host(ram_gib=8.0))
        body = planned(queue, manifest(job("wide", min_ram_gib=64.0, line=9)))
        (item,) = body["warnings"]
        assert (item["code"], item["line"]) == ("W001", 9)
        assert item["text"] == "wide: no enrolled host can run it; closest is pi: 56.0 GiB of RAM short"
        assert item["hint"] == "lower min_ram_gib to 8"

    def test_jobs_that_ask_for_the_same_are_one_warning(self, queue: JobQueue) -> None:
        queue.claim("pi", cpu_host())
        wanted = manifest(*(job(f"j{n}", require_cuda=True, line=n) for n in range(1, 8)))
        (item,) = planned(queue, wanted)["warnings"]
        assert item["text"].startswith("j1, j2, j3, j4, j5 and 2 more: no enrolled host can run them")
        assert item["line"] == 1

    def test_a_host_that_never_called_is_not_said_to_be_unable(self, queue: JobQueue) -> None:
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(job("deep", require_cuda=True), hosts=hosts("pi", "box")))
        assert warned(body, "W001") == []
        assert warned(body, "W002") == [
            "deep: no host that has called can run it; box may, but has never called"
        ]

    def test_a_host_that_never_called_but_is_denied_the_model_is_no_hope(self, queue: JobQueue) -> None:
        queue.claim("pi", cpu_host())
        body = planned(
            queue,
            manifest(job("deep", require_cuda=True), hosts=hosts("pi") | hosts("box", deny_jobs=("gbt",))),
        )
        assert len(warned(body, "W001")) == 1

    def test_what_a_silent_host_declares_counts(self, queue: JobQueue) -> None:
        declared = hosts("box", capability=Capability(has_cuda=True, vram_gib=24.0))
        assert planned(queue, manifest(job("deep", require_cuda=True), hosts=declared))["warnings"] == []

    def test_without_any_host_that_is_what_it_says(self, queue: JobQueue) -> None:
        (item,) = planned(queue, manifest(job("x")))["warnings"]
        assert item["text"] == "x: no enrolled host can run it: none is in the manifest and none has called"

    @pytest.mark.parametrize("end", ["complete", "cancel", "running"])
    def test_of_a_job_that_is_done_or_running_nothing_is_said(self, queue: JobQueue, end: str) -> None:
        queue.apply_manifest(manifest(job("x")))
        queue.claim("pi", cpu_host())
        if end == "complete":
            queue.complete(job_id("x"), "pi", artifact_id=ARTIFACT)
        elif end == "cancel":
            queue.cancel(job_id("x"))
        assert warned(planned(queue, manifest(job("x", require_cuda=True))), "W001") == []


GPU: dict[str, Any] = {
    "ram_gib": 32.0,
    "has_cuda": True,
    "vram_gib": 24.0,
    "models": ["gbt"],
    "trainer_digest": OLD,
}


class TestHostsThatDifferInOneThing:
    """Hosts are judged by kind; what a check looks at must make another kind."""

    @pytest.mark.parametrize(
        ("worse", "wish"),
        [
            ({"ram_gib": 8.0}, {"min_ram_gib": 16.0}),
            ({"vram_gib": 8.0}, {"min_vram_gib": 16.0}),
            ({"has_cuda": False}, {"require_cuda": True}),
            ({"models": ["mlp"]}, {}),
            ({"trainer_digest": NEW}, {}),
        ],
    )
    def test_by_what_they_report(self, queue: JobQueue, worse: dict[str, Any], wish: dict[str, Any]) -> None:
        queue.claim("a", Capability(**GPU | worse))
        queue.claim("b", Capability(**GPU))
        queue.claim("c", Capability(**GPU))
        body = planned(queue, manifest(job("x", **wish)), trainer=OLD)
        assert body["jobs"][0]["hosts"] == ["b", "c"]

    @pytest.mark.parametrize("policy", [{"deny_jobs": ("gbt",)}, {"allow_jobs": ("mlp",)}])
    def test_by_what_the_manifest_says(self, queue: JobQueue, policy: dict[str, Any]) -> None:
        for name in "abcd":
            queue.claim(name, Capability(**GPU))
        body = planned(queue, manifest(job("x"), hosts=hosts("a", **policy) | hosts("b", "c")))
        assert body["jobs"][0]["hosts"] == ["b", "c"], "a may not, and d is not in the manifest"

    def test_by_the_jobs_own_list(self, queue: JobQueue) -> None:
        for name in "abc":
            queue.claim(name, Capability(**GPU))
        body = planned(queue, manifest(job("x", allowed_hosts=("b", "elsewhere"))))
        assert body["jobs"][0]["hosts"] == ["b"]


class TestEffectsOfHostLines:
    def test_a_denial_that_goes(self, queue: JobQueue) -> None:
        first = manifest(job("x"), job("y", model="mlp"), hosts=hosts("pi", deny_jobs=("gbt",)))
        queue.apply_manifest(first)
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(*first.jobs, hosts=hosts("pi")), in_force=first)
        (host,) = body["hosts"]
        assert host["changed"] == [{"key": "deny_jobs", "from": ["gbt"], "to": [], "line": 4}]
        assert host["effect"] == "x becomes eligible there"

    def test_a_denial_that_comes_lets_what_runs_go_on(self, queue: JobQueue) -> None:
        first = manifest(job("x"), job("z"), hosts=hosts("pi"))
        queue.apply_manifest(first)
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(*first.jobs, hosts=hosts("pi", deny_jobs=("gbt",))), in_force=first)
        assert effect(body, "pi") == "x and z are no longer eligible there; the 1 it runs goes on"

    def test_a_new_host_that_called_already_under_open_rules_gains_nothing(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x")))
        queue.claim("pi", cpu_host(models=[]))
        queue.claim("box", cpu_host())
        body = planned(queue, manifest(job("x"), hosts=hosts("pi", "box")))
        assert {item["name"]: item["effect"] for item in body["hosts"]} == {"pi": "", "box": ""}

    def test_a_host_that_goes_while_it_runs_a_job(self, queue: JobQueue) -> None:
        first = manifest(job("x"), hosts=hosts("pi", "box"))
        queue.apply_manifest(first)
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(job("x"), hosts=hosts("box")), in_force=first)
        assert effect(body, "pi") == "x is no longer eligible there; the 1 it runs goes on"
        assert warned(body, "W004") == [
            "pi is not in the manifest, so it gets no more jobs; it runs 1 job that goes on"
        ]

    def test_other_lines_alone_are_no_change(self, queue: JobQueue) -> None:
        first = manifest(job("x", line=9), hosts=hosts("pi"))
        queue.apply_manifest(first)
        moved = {"pi": HostSpec("pi", lines={"": 7})}
        body = planned(queue, manifest(job("x", line=12), hosts=moved), in_force=first)
        assert (body["changes"], body["hosts"], body["n_moved"]) == (0, [], 1)
        assert body["counts"]["unchanged"] == 1


class TestWhatGoesOn:
    def test_a_running_attempt_goes_on_under_the_old_id(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x")))
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(job("x", job_id=job_id("new"), line=5)))
        (told,) = body["jobs"]
        assert (told["action"], told["old_job_id"], told["running"]["host"]) == ("replace", job_id("x"), "pi")
        assert warned(body, "W003") == [
            f"x: the attempt on pi goes on under the old id {job_id('x')[:12]}, and its result counts for that"
        ]

    def test_a_waiting_job_that_goes_is_no_warning(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), job("y")))
        queue.claim("pi", cpu_host())
        body = planned(queue, manifest(job("x")))
        assert warned(body, "W003") == []
        assert "held" in body["jobs"][0]["note"]

    def test_a_paused_host_gets_jobs_again(self, queue: JobQueue) -> None:
        first = manifest(job("x"), pause_after_failures=1)
        queue.apply_manifest(first)
        queue.claim("pi", cpu_host())
        queue.fail(job_id("x"), "pi", error="x")
        body = planned(queue, first, in_force=first)
        assert warned(body, "W006") == ["pi is paused (1 jobs failed on it in a row); every reload ends that"]

    def test_a_manifest_that_names_no_host_any_more_lets_everybody_in(self, queue: JobQueue) -> None:
        first = manifest(job("x"), hosts=hosts("box", "pi"))
        queue.apply_manifest(first)
        assert warned(planned(queue, manifest(job("x")), in_force=first), "W008") == [
            "no host is named any more (box and pi went): every host that calls is then given jobs"
        ]
        assert warned(planned(queue, manifest(job("x"), hosts=hosts("box")), in_force=first), "W008") == []

    def test_stale_results_that_stay_are_named_and_those_trained_again_are_not(self, queue: JobQueue) -> None:
        pin = replace(manifest(job("x"), job("y", on_change="retrain")), dataset=DatasetPin(OLD, "/a"))
        queue.apply_manifest(pin)
        for name in "xy":
            queue.claim("pi", cpu_host())
            queue.complete(job_id(name), "pi", artifact_id=ARTIFACT)
        body = planned(queue, replace(pin, dataset=DatasetPin(NEW, "/b")), in_force=pin)
        assert warned(body, "W007") == ["x: completed, and stays so although the data has changed"]
        assert [(item["action"], item["name"]) for item in body["jobs"]] == [("retrain", "y")]
        assert body["dataset"] == {"from": OLD, "to": NEW}

    def test_names_that_differ_in_capitals_alone(self, queue: JobQueue) -> None:
        queue.claim("PI", cpu_host())
        body = planned(queue, manifest(job("a", line=1), job("A", line=4), hosts=hosts("pi")))
        assert sorted(warned(body, "W005")) == [
            "the host PI has called, and the manifest names pi: they differ in capitals alone",
            "the names of the jobs a and A differ in capitals alone",
        ]

    def test_a_manifest_in_force_planned_again_has_nothing_to_do_and_nothing_to_warn_of(
        self, queue: JobQueue
    ) -> None:
        first = manifest(job("x"), hosts=hosts("pi"))
        queue.apply_manifest(first)
        queue.claim("pi", cuda_host())
        body = planned(queue, first, in_force=first)
        assert (body["changes"], body["jobs"], body["hosts"], body["warnings"]) == (0, [], [], [])


class TestTheRest:
    def test_changed_rules_are_listed(self, queue: JobQueue) -> None:
        first = manifest(job("x"))
        queue.apply_manifest(first)
        body = planned(queue, replace(first, policy=Policy(max_failures=9), name="other"), in_force=first)
        assert body["policy"] == [{"key": "max_failures", "from": 3, "to": 9}]
        assert body["other"] == [{"key": "name", "from": "test", "to": "other"}]
        assert body["changes"] == 2

    def test_another_trainer_is_a_change(self, queue: JobQueue) -> None:
        first = manifest(job("x"))
        queue.apply_manifest(first, trainer_digest=OLD)
        body = planned(queue, first, in_force=first, trainer=NEW)
        assert (body["trainer"], body["changes"]) == ({"from": OLD, "to": NEW}, 1)

    def test_hyper_parameters_are_compared_one_by_one(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x", hyper={"a": 1, "b": [1]})))
        body = planned(queue, manifest(job("x", job_id=job_id("n"), hyper={"b": [2], "c": 3})))
        assert body["jobs"][0]["changed"] == [
            {"key": "hyper.b", "from": [1], "to": [2]},
            {"key": "hyper.c", "from": None, "to": 3},
            {"key": "hyper.a", "from": 1, "to": None},
        ]

    @pytest.mark.parametrize("comes_back", [True, False])
    def test_a_job_that_was_away_and_waits_again_moves_the_plan(
        self, queue: JobQueue, comes_back: bool
    ) -> None:
        """It stands where it stood, but another attempt has been there since."""
        first = manifest(job("x"))
        queue.apply_manifest(first)
        made = plan.make(plan.look(queue, first, first), first, None)
        if comes_back:
            queue.claim("pi", cpu_host())
            queue.release(job_id("x"), "pi")
        done = plan.put_in_force(queue, first, None, made, first)
        assert isinstance(done, plan.Refusal) == comes_back
        if isinstance(done, plan.Refusal):
            assert done.sentences == ("x was given back by pi at 22:13 UTC",)

    def test_more_sentences_than_anybody_reads_are_counted(self, queue: JobQueue) -> None:
        jobs = [job(f"j{n}") for n in range(30)]
        first = manifest(*jobs)
        queue.apply_manifest(first)
        made = plan.make(plan.look(queue, first, first), first, None)
        for spec in jobs:
            queue.cancel(spec.job_id)
        done = plan.put_in_force(queue, first, None, made, first)
        assert isinstance(done, plan.Refusal)
        assert len(done.sentences) == plan.MOST_SENTENCES + 1
        assert done.sentences[-1] == "and 20 more jobs moved"
        assert done.sentences[0].startswith("j0 was cancelled at ")

    def test_the_screen_fits_80_columns_but_for_lines_to_type(self, queue: JobQueue) -> None:
        first = manifest(
            job("a-job-with-a-rather-long-name"), job("gone"), hosts=hosts("pi", deny_jobs=("gbt",))
        )
        queue.apply_manifest(first)
        queue.claim("pi", cpu_host())
        wanted = manifest(
            job("a-job-with-a-rather-long-name", job_id=job_id("n"), min_ram_gib=99.0, line=12),
            hosts=hosts("pi"),
        )
        body = planned(queue, replace(wanted, path="/etc/cis490/training_manifest.toml"), in_force=first)
        lines = render_plan.plan(View(1.7e9, 80), body)
        assert [
            line for line in lines if len(line) > 80 and "cis490-jobs" not in line and "hint" not in line
        ] == []
        full = render_plan.plan(View(1.7e9, 80), planned(queue, first, in_force=first), full=True)
        assert any("gone" in line for line in full)
