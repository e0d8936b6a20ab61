"""`GET /v1/overview` and `GET /v1/resolve` of the real receiver, over a fleet that has something of everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories import seeded_fleet
from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import hosts


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path_factory.mktemp("fleet"), seeded_fleet.SMALL_MANIFEST) as running:
        seeded_fleet.seed_small(running.queue)
        yield running


@pytest.fixture(scope="module")
def overview(receiver: LiveReceiver) -> Any:
    found = receiver.send("GET", "/v1/overview")
    assert found.status == 200
    return found.body


class TestOverview:
    def test_it_has_the_manifest_that_is_in_force(self, overview: Any, receiver: LiveReceiver) -> None:
        assert overview["name"] == "lab-fleet"
        assert overview["manifest"]["n_jobs"] == 14
        assert overview["manifest"]["path"] == str(receiver.manifest)
        assert len(overview["manifest"]["digest"]) == 64

    def test_the_sentence_says_what_the_counts_say(self, overview: Any) -> None:
        assert overview["sentence"] == "2 running, 10 pending, 1 failed, 1 done of 14 jobs"
        assert overview["counts"] == {
            "pending": 10, "claimed": 0, "running": 2, "completed": 1, "failed": 1, "cancelled": 0,
        }  # fmt: skip

    def test_each_host_has_a_state_and_the_jobs_it_holds(self, overview: Any) -> None:
        states = {host["host"]: (host["state"], len(host["jobs"])) for host in overview["hosts"]}
        assert states == {
            "cpu-1": ("running", 1),
            "gpu-1": ("running", 1),
            "gpu-2": ("idle", 0),
            "win-2": ("drained", 0),
        }

    def test_what_runs_is_there_with_its_progress(self, overview: Any) -> None:
        assert [job["progress"]["total"] for job in overview["running"]] == [40, 40]

    def test_a_problem_names_the_command_to_type_next(self, overview: Any) -> None:
        first = overview["problems"][0]
        assert (first["severity"], first["code"]) == ("error", "job_failed")
        assert first["next"] == f"cis490-jobs show {first['job']}"

    def test_a_host_of_the_manifest_that_never_called_is_there_too(self, tmp_path: Path) -> None:
        with live_receiver(tmp_path, '[[hosts]]\nname = "far"\n') as fresh:
            found = fresh.send("GET", "/v1/overview").body
        assert [(host["host"], host["state"]) for host in found["hosts"]] == [("far", "unseen")]
        assert found["sentence"].startswith("no jobs yet")


class TestResolve:
    @pytest.mark.parametrize("word", ["gbt-oracle", "gbt-o"])
    def test_a_name_and_a_prefix_of_one_name_the_job(self, receiver: LiveReceiver, word: str) -> None:
        found = receiver.send("GET", f"/v1/resolve?job={word}")
        assert found.status == 200
        assert (found.body["name"], found.body["kind"]) == ("gbt-oracle", "job")

    def test_a_prefix_of_an_id_names_the_job(self, receiver: LiveReceiver) -> None:
        job = receiver.send("GET", "/v1/resolve?job=gru-oracle").body
        assert receiver.send("GET", f"/v1/resolve?job={job['job_id'][:9]}").body == job

    def test_a_prefix_of_several_names_is_refused_with_all_of_them(self, receiver: LiveReceiver) -> None:
        found = receiver.send("GET", "/v1/resolve?job=gru-")
        assert found.status == 404
        assert found.body["candidates"] == ["gru-realistic", "gru-oracle"]
        assert found.body["did_you_mean"] is None

    def test_a_slip_of_the_pen_is_put_right(self, receiver: LiveReceiver) -> None:
        found = receiver.send("GET", "/v1/resolve?job=gtb-oracle")
        assert (found.status, found.body["did_you_mean"]) == (404, "gbt-oracle")
        assert found.body["error"] == "no job is called 'gtb-oracle'; did you mean gbt-oracle?"

    def test_a_host_is_found_in_the_same_way(self, receiver: LiveReceiver) -> None:
        assert receiver.send("GET", "/v1/resolve?host=win").body == {"host": "win-2"}
        assert receiver.send("GET", "/v1/resolve?host=gpu").body["candidates"] == ["gpu-1", "gpu-2"]

    @pytest.mark.parametrize("query", ["", "?job=", "?job=a&host=b", "?job=a&job=b", "?job=" + "x" * 201])
    def test_what_names_nothing_at_all_is_a_bad_request(self, receiver: LiveReceiver, query: str) -> None:
        assert receiver.send("GET", f"/v1/resolve{query}").status == 400


class TestAPartOfTheList:
    def test_limit_and_offset_cut_the_list_and_total_counts_it(self, receiver: LiveReceiver) -> None:
        whole = receiver.send("GET", "/v1/jobs").body
        assert "total" not in whole
        part = receiver.send("GET", "/v1/jobs?limit=3&offset=2").body
        assert part["jobs"] == whole["jobs"][2:5]
        assert part["total"] == 14
        assert receiver.send("GET", "/v1/jobs?status=pending&limit=1").body["total"] == 10

    @pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1e9", "offset=1234567"])
    def test_what_is_no_number_is_refused(self, receiver: LiveReceiver, query: str) -> None:
        assert receiver.send("GET", f"/v1/jobs?{query}").status == 400


def test_a_host_that_is_lost_with_a_job_is_the_first_problem(tmp_path: Path) -> None:
    with live_receiver(
        tmp_path, '[[hosts]]\nname = "a"\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
    ) as running:
        running.queue.claim("a", {"cores": 4})
        hosts.drain(running.queue, "a", "moved")
        found = running.send("GET", "/v1/overview").body
    assert [host["state"] for host in found["hosts"]] == ["draining"]
    assert found["problems"] == []


STUCK = """
[[hosts]]
name = "a"
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 2
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 1
[[jobs]]
model = "gru"
mode = "oracle"
require_cuda = true
"""


def test_a_job_is_stuck_when_no_host_can_run_it_however_long_it_waits(tmp_path: Path) -> None:
    with live_receiver(tmp_path, STUCK) as running:
        running.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}})
        (stuck,) = running.send("GET", "/v1/overview").body["stuck"]
    assert (stuck["jobs"], stuck["n_jobs"], stuck["next"]) == (
        ["gru-oracle"],
        1,
        "cis490-jobs why gru-oracle",
    )
    assert stuck["reason"] == "a: no working CUDA there", "gbt-realistic only waits for a free slot"


def test_a_job_that_the_manifest_dropped_is_stuck_whatever_the_hosts(tmp_path: Path) -> None:
    with live_receiver(tmp_path, STUCK) as running:
        running.worker("POST", "/v1/job/claim", {"capability": {"cores": 4, "has_cuda": True}})
        running.manifest.write_text(STUCK.replace('"realistic"', '"realistic"\nseed = 7'), encoding="utf-8")
        assert running.operator("/v1/manifest/reload").status == 200
        stuck = running.send("GET", "/v1/overview").body["stuck"]
    assert [(one["jobs"], "no longer" in one["reason"]) for one in stuck] == [(["gbt-realistic"], True)]


def test_a_pause_of_the_fleet_stands_in_the_sentence_and_among_the_problems(tmp_path: Path) -> None:
    with live_receiver(tmp_path, STUCK) as running:
        running.operator("/v1/fleet/pause", {"reason": "the lab moves"})
        found = running.send("GET", "/v1/overview").body
    assert found["fleet_paused"] == "the lab moves"
    assert found["sentence"] == "3 pending of 3 jobs; the fleet is paused"
    assert ("fleet_paused", "cis490-jobs resume") in [(one["code"], one["next"]) for one in found["problems"]]


def test_what_a_worker_measured_stands_beside_its_host(tmp_path: Path) -> None:
    usage = {"cpu_percent": 12.5, "gpus": [{"util_percent": 80.0, "vram_used_gib": 3.5}]}
    with live_receiver(tmp_path, STUCK) as running:
        running.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}, "usage": usage})
        (host,) = running.send("GET", "/v1/overview").body["hosts"]
    assert host["usage"]["gpus"][0]["util_percent"] == 80.0
