"""`why` over HTTP: jobs and hosts of a real receiver, with suggestions that are then carried out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories.command import run
from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import explain

MANIFEST = """
[[hosts]]
name = "gpu-1"
deny_jobs = ["gru"]

[[hosts]]
name = "cpu-1"

[[hosts]]
name = "win-2"

[[jobs]]
model = "gru"
mode = "realistic"
require_cuda = true
min_vram_gib = 10

[[jobs]]
model = "gbt"
mode = "realistic"
min_ram_gib = 8

[[jobs]]
name = "gbt-two"
model = "gbt"
mode = "realistic"
seed = 1
min_ram_gib = 8
"""
CPU = {"ram_gib": 16.0, "has_cuda": False}
CUDA = {"ram_gib": 16.0, "has_cuda": True, "vram_gib": 24.0}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        assert running.operator("/v1/manifest/reload").status == 200
        yield running


def report(receiver: LiveReceiver, host: str, capability: dict[str, Any]) -> None:
    with receiver.queue.atomic():
        receiver.queue.saw(host, capability)


def id_of(receiver: LiveReceiver, name: str) -> str:
    jobs = receiver.send("GET", "/v1/jobs").body["jobs"]
    return next(str(row["job_id"]) for row in jobs if row["name"] == name)


def why(receiver: LiveReceiver, name: str) -> Any:
    return receiver.send("GET", f"/v1/job/{id_of(receiver, name)}/eligibility").body


def trained(receiver: LiveReceiver, name: str, host: str, *, took_s: float) -> None:
    """The host claims, and completes what it got."""
    got = receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host=host).body
    assert got["name"] == name
    receiver.queue.complete(got["job_id"], host, artifact_id="c" * 64, usage={"duration_s": took_s})


class TestOfAJob:
    def test_the_first_suggestion_names_the_line_and_works_once_it_is_carried_out(
        self, receiver: LiveReceiver
    ) -> None:
        report(receiver, "gpu-1", CUDA)
        first = why(receiver, "gru-realistic")["suggestions"][0]
        assert first["text"] == 'manifest line 4: remove "gru" from deny_jobs of gpu-1'
        assert (first["effort"], first["host"], first["starts"]) == (1, "gpu-1", "at once")
        assert first["command"] == "cis490-jobs reload"
        lines = receiver.manifest.read_text(encoding="utf-8").split("\n")
        assert lines[3] == 'deny_jobs = ["gru"]'
        receiver.manifest.write_text("\n".join([*lines[:3], *lines[4:]]), encoding="utf-8")
        assert receiver.operator("/v1/manifest/reload").status == 200
        assert why(receiver, "gru-realistic")["suggestions"] == []
        assert (
            receiver.worker("POST", "/v1/job/claim", {"capability": CUDA}, host="gpu-1").body["name"]
            == "gru-realistic"
        )

    def test_a_key_of_the_job_is_named_with_its_own_line(self, receiver: LiveReceiver) -> None:
        report(receiver, "win-2", CUDA | {"vram_gib": 8.0})
        lowered = [
            change
            for one in why(receiver, "gru-realistic")["suggestions"]
            for change in one["changes"]
            if change["kind"] == "lower_min_vram"
        ]
        assert MANIFEST.split("\n")[lowered[0]["line"] - 1] == "min_vram_gib = 10"
        assert (lowered[0]["from"], lowered[0]["to"]) == (10.0, 8.0)

    def test_place_in_line_and_estimate_follow_from_past_attempts(self, receiver: LiveReceiver) -> None:
        assert why(receiver, "gbt-two")["estimate"] is None
        assert why(receiver, "gbt-two")["position"] is None, "no host is there"
        trained(receiver, "gbt-realistic", "cpu-1", took_s=600.0)
        receiver.operator(f"/v1/job/{id_of(receiver, 'gbt-realistic')}/requeue", {"force": True})
        assert receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host="cpu-1").body["job_id"]
        found = why(receiver, "gbt-two")
        assert found["position"] == 1
        assert found["estimate"]["finish_at"] - found["estimate"]["start_at"] == pytest.approx(600.0)
        assert found["estimate"]["basis"] == (
            "cpu-1 is expected to be free then; 1 past attempt of gbt (realistic) on cpu-1"
        )
        running = receiver.send("GET", f"/v1/job/{id_of(receiver, 'gbt-realistic')}").body["job"]
        assert running["estimate"]["finish_at"] == pytest.approx(running["claimed_at"] + 600.0)
        assert receiver.send("GET", "/v1/overview").body["done_estimate"] is None, "gru can run nowhere"

    def test_an_attempt_that_went_on_from_a_checkpoint_is_no_basis(self, receiver: LiveReceiver) -> None:
        got = receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host="cpu-1").body
        receiver.queue.release(got["job_id"], "cpu-1")
        trained(receiver, "gbt-realistic", "cpu-1", took_s=5.0)
        assert (
            receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host="cpu-1").body["name"]
            == "gbt-two"
        )
        assert why(receiver, "gbt-two")["estimate"] is None

    def test_an_unknown_job_is_refused(self, receiver: LiveReceiver) -> None:
        assert receiver.send("GET", f"/v1/job/{'0' * 64}/eligibility").status == 404


class TestOfAHost:
    def test_jobs_of_equal_requirements_are_judged_once(self, receiver: LiveReceiver) -> None:
        report(receiver, "gpu-1", CUDA)
        found = receiver.send("GET", "/v1/host/gpu-1/eligibility").body
        told = [(one["n_jobs"], one["jobs"], one["eligible"]) for one in found["classes"]]
        assert told == [(2, ["gbt-realistic", "gbt-two"], True), (1, ["gru-realistic"], False)]
        assert (
            found["summary"]
            == "gpu-1 is free, 3 jobs wait, and 2 of them can start here: it claims the best one next"
        )

    @pytest.mark.parametrize(
        ("host", "words", "command"),
        [
            (
                "win-2",
                "the manifest names win-2, but no worker there has ever reported; 3 jobs wait",
                "start the worker",
            ),
            (
                "cpu-1",
                "cpu-1 is drained and takes no more jobs: new fans; 3 jobs wait",
                "cis490-jobs undrain cpu-1",
            ),
        ],
    )
    def test_why_it_takes_nothing_comes_with_the_next_command(
        self, receiver: LiveReceiver, host: str, words: str, command: str
    ) -> None:
        report(receiver, "cpu-1", CPU)
        receiver.operator("/v1/host/cpu-1/drain", {"reason": "new fans"})
        found = receiver.send("GET", f"/v1/host/{host}/eligibility").body
        assert found["summary"] == words
        assert found["next"].startswith(command)
        assert not any(one["eligible"] for one in found["classes"])

    def test_a_busy_host_shows_what_it_runs(self, receiver: LiveReceiver) -> None:
        receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host="cpu-1")
        found = receiver.send("GET", "/v1/host/cpu-1/eligibility").body
        assert [row["name"] for row in found["running"]] == ["gbt-realistic"]
        assert found["summary"] == "cpu-1 is busy: 1 of 1 slots; 2 jobs wait"

    @pytest.mark.parametrize(("word", "meant"), [("gpu1", "gpu-1"), ("zzz", None), ("%20", None)])
    def test_an_unknown_host_is_refused_with_what_may_have_been_meant(
        self, receiver: LiveReceiver, word: str, meant: str | None
    ) -> None:
        found = receiver.send("GET", f"/v1/host/{word}/eligibility")
        assert (found.status, found.body["did_you_mean"]) == (404, meant)

    def test_the_command_asks_for_a_host_of_that_name(self, receiver: LiveReceiver) -> None:
        done = run(receiver.url, "why", "--host", "gpu1")
        assert done.code == 2
        assert "gpu-1" in done.err


class TestStuck:
    def test_jobs_that_no_host_can_run_are_grouped_by_the_reason(self, receiver: LiveReceiver) -> None:
        report(receiver, "cpu-1", CPU)
        (entry,) = explain.stuck(receiver.queue, receiver.queue.clock.now_s())
        assert (entry["n_jobs"], entry["jobs"]) == (1, ["gru-realistic"])
        assert entry["next"] == "cis490-jobs why gru-realistic"

    def test_a_job_that_only_waits_for_a_busy_host_is_not_stuck(self, receiver: LiveReceiver) -> None:
        receiver.worker("POST", "/v1/job/claim", {"capability": CPU}, host="cpu-1")
        names = [
            name
            for entry in explain.stuck(receiver.queue, receiver.queue.clock.now_s())
            for name in entry["jobs"]
        ]
        assert "gbt-two" not in names

    def test_a_host_that_is_drained_or_gone_runs_nothing(self, receiver: LiveReceiver) -> None:
        report(receiver, "cpu-1", CPU)
        receiver.operator("/v1/host/cpu-1/drain", {"reason": "new fans"})
        reasons = {
            entry["reason"]: entry["n_jobs"]
            for entry in explain.stuck(receiver.queue, receiver.queue.clock.now_s())
        }
        assert reasons["cpu-1 is drained and takes no more jobs: new fans"] == 2

    def test_a_job_that_the_manifest_dropped_is_told_too(self, receiver: LiveReceiver) -> None:
        report(receiver, "cpu-1", CPU)
        receiver.manifest.write_text(MANIFEST[: MANIFEST.index("[[jobs]]\nname")], encoding="utf-8")
        receiver.operator("/v1/manifest/reload")
        reasons = {
            entry["reason"]: entry["jobs"]
            for entry in explain.stuck(receiver.queue, receiver.queue.clock.now_s())
        }
        assert reasons["the manifest no longer has this job: it is held"] == ["gbt-two"]


def test_where_there_is_one_host_the_sentence_says_so(tmp_path: Path) -> None:
    text = '[[hosts]]\nname = "pi"\ndeny_jobs = ["gbt"]\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
    with live_receiver(tmp_path, text) as receiver:
        (job,) = receiver.queue.list_jobs()
        found = receiver.send("GET", f"/v1/job/{job.job_id}/eligibility").body
    assert found["summary"].startswith("gbt-oracle cannot start on pi, the only host: gbt is denied by ")
