"""What each waiting job waits for, in one line of `list`: `GET /v1/jobs?reasons=1` of the real receiver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.factories import seeded_fleet
from tests.factories.command import Result, run
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver

MANIFEST = """
name = "waiting"

[[hosts]]
name = "cpu-1"
allow_jobs = ["gbt", "mlp"]

[[hosts]]
name = "gpu-2"
deny_jobs = ["gbt", "mlp"]

[[jobs]]
name = "first"
model = "gbt"
mode = "oracle"
priority = 50

[[jobs]]
name = "second"
model = "gbt"
mode = "realistic"
priority = 40

[[jobs]]
name = "third"
model = "mlp"
mode = "realistic"
priority = 30

[[jobs]]
name = "large"
model = "tcn"
mode = "realistic"
priority = 20
require_cuda = true
min_vram_gib = 32

[[jobs]]
name = "wide"
model = "cnn"
mode = "realistic"
priority = 10
prefer_cuda = true
"""


def calls(running: LiveReceiver, *hosts: str) -> None:
    with running.queue.atomic():
        for host in hosts:
            running.queue.saw(host, seeded_fleet.MACHINES[host])


def on_terminal(running: LiveReceiver, *words: str) -> Result:
    return run(running.url, *words, token=TOKEN)


def piped(running: LiveReceiver, *words: str) -> Result:
    return run(running.url, *words, token=TOKEN, terminal=False)


def reasons(running: LiveReceiver, query: str = "?reasons=1") -> dict[str, Any]:
    found = running.send("GET", f"/v1/jobs{query}")
    assert found.status == 200, found.body
    return {job["name"]: job.get("waits_for") for job in found.body["jobs"]}


@pytest.fixture
def running(tmp_path: Path) -> Any:
    with live_receiver(tmp_path, MANIFEST) as found:
        yield found


def test_a_job_is_next_in_line_or_waits_behind_others_on_the_host_where_it_is_best(
    running: LiveReceiver,
) -> None:
    calls(running, "cpu-1")
    found = reasons(running)
    assert found["first"] == "next in line on cpu-1"
    assert found["third"] == "waiting for cpu-1 (2 jobs go first)"


def test_a_host_that_has_no_slot_free_is_busy(running: LiveReceiver) -> None:
    calls(running, "cpu-1")
    claimed = running.worker(
        "POST", "/v1/job/claim", {"capability": seeded_fleet.MACHINES["cpu-1"]}, host="cpu-1"
    )
    assert claimed.body["name"] == "first"
    found = reasons(running)
    assert found["first"] is None, "what runs waits for nothing"
    assert found["second"] == "waiting for cpu-1 (busy)"
    assert found["third"] == "waiting for cpu-1 (busy, 1 job goes first)"


def test_a_job_that_no_host_can_run_says_what_keeps_it_from_the_closest(running: LiveReceiver) -> None:
    calls(running, "cpu-1", "gpu-2")
    assert reasons(running)["large"] == "no host: gpu-2: 8.3 GiB of VRAM short"


def test_a_job_with_a_wish_waits_for_the_host_that_meets_it(running: LiveReceiver) -> None:
    calls(running, "gpu-2")
    assert reasons(running)["wide"] == "next in line on gpu-2"


def test_pauses_and_jobs_that_the_manifest_dropped_are_reasons_of_their_own(running: LiveReceiver) -> None:
    calls(running, "cpu-1")
    job_id = running.send("GET", "/v1/resolve?job=first").body["job_id"]
    assert running.operator(f"/v1/job/{job_id}/pause", {"reason": "bad data"}).status == 200
    assert reasons(running)["first"] == "paused: bad data"
    assert reasons(running)["second"] == "next in line on cpu-1"
    assert running.operator("/v1/fleet/pause", {"reason": "new disk"}).status == 200
    assert reasons(running)["second"] == "the fleet is paused: new disk"
    dropped = "\n".join(MANIFEST.split("\n\n")[:-1]) + "\n"
    running.manifest.write_text(dropped, encoding="utf-8")
    assert running.operator("/v1/manifest/reload").status == 200
    assert reasons(running)["wide"] == "the manifest no longer has this job: it is held"


def test_only_who_asks_pays_for_them(running: LiveReceiver) -> None:
    calls(running, "cpu-1")
    assert set(reasons(running, "").values()) == {None}
    assert running.send("GET", "/v1/jobs?reasons=maybe").status == 400


def test_classes_are_judged_and_not_jobs(tmp_path: Path) -> None:
    jobs = "".join(
        f'[[jobs]]\nname = "j{at}"\nmodel = "gbt"\nmode = "oracle"\nseed = {at}\n' for at in range(60)
    )
    with live_receiver(tmp_path, f'name = "many"\n[[hosts]]\nname = "cpu-1"\n{jobs}') as running:
        calls(running, "cpu-1")
        before = running.queue.matcher.judged
        assert len(reasons(running)) == 60
        assert running.queue.matcher.judged - before <= 1


def test_list_shows_the_reasons_whole_when_only_waiting_jobs_are_listed(running: LiveReceiver) -> None:
    calls(running, "cpu-1", "gpu-2")
    lines = on_terminal(running, "list", "--status", "pending").out.splitlines()
    assert lines[0].split() == ["NAME", "PRIO", "ATTEMPTS", "REASON"]
    (large,) = (line for line in lines if line.startswith("large"))
    assert large.endswith("no host: gpu-2: 8.3 GiB of VRAM short")
    assert max(map(len, lines)) <= 80


def test_in_a_pipe_the_reason_is_the_last_column(running: LiveReceiver) -> None:
    calls(running, "cpu-1")
    header, first, *_ = (line.split("\t") for line in piped(running, "list").out.splitlines())
    assert header[-2:] == ["JOB_ID", "REASON"]
    assert (first[0], first[-1]) == ("first", "next in line on cpu-1")


def test_status_counts_paused_jobs_and_says_how_they_go_on(running: LiveReceiver) -> None:
    calls(running, "cpu-1", "gpu-2")
    for name in ("first", "second"):
        job_id = running.send("GET", f"/v1/resolve?job={name}").body["job_id"]
        running.operator(f"/v1/job/{job_id}/pause", {"reason": "bad data"})
    (paused,) = (
        one for one in running.send("GET", "/v1/overview").body["stuck"] if "paused" in one["reason"]
    )
    assert (paused["jobs"], paused["n_jobs"]) == (["first", "second"], 2)
    assert paused["next"] == "cis490-jobs resume first"
    screen = on_terminal(running, "status").out
    assert "first, second wait: paused by an operator (bad data)" in screen
