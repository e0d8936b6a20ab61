"""The screen of `status` and `watch`, made from what the receiver's own overview says of a fleet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.factories.fake_api import Json, job, worker
from training.fleet import render_status
from training.fleet.overview import Facts, overview
from training.fleet.render import View

NOW_S = 1_700_000_000.0
SCREEN = View(NOW_S, 80, 24)
PIPE = View(NOW_S, None)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def failed(name: str = "gru-oracle", **changes: Any) -> Json:
    error = "CUDA out of memory\nlong tail"
    return job(name, status="failed", attempts=3, program_failures=3, last_error=error) | changes


def running(name: str = "gbt-realistic", host: str = "pi", **changes: Any) -> Json:
    progress = {"step": 412, "total": 1000, "unit": "round", "loss": 0.18234}
    return job(name, status="running", claimed_by=host, claimed_at=NOW_S - 130, progress=progress) | changes


def shown(
    *jobs: Json, workers: Sequence[Json] = (), view: View = SCREEN, everything: bool = False, **facts: Any
) -> list[str]:
    known = Facts(NOW_S, NOW_S - 3700, jobs, (), [*workers], name="lab", digest="3f9a" * 16, **facts)
    return render_status.status(view, overview(known), everything=everything)


def gpu_host(name: str = "gpu-1", **changes: Any) -> Json:
    has = {
        "gpus": [{"name": "NVIDIA GeForce RTX 4090", "vram_gib": 23.99}],
        "vram_gib": 23.99,
        "has_cuda": True,
    }
    return worker(name, effective=has) | changes


class TestTheHead:
    def test_it_names_the_fleet_its_manifest_and_how_long_the_receiver_is_up(self) -> None:
        first = shown()[0]
        assert first.split("  ")[:3] == ["lab", "manifest 3f9a3f9a", "receiver up 1 h 01 min"]
        assert (len(first), first[-12:]) == (80, "22:13:20 UTC")

    def test_it_says_how_many_jobs_are_in_which_state(self) -> None:
        lines = shown(job("a-oracle"), job("b-oracle"), failed())
        assert lines[1] == "2 pending   1 FAILED   of 3 jobs"

    def test_an_empty_fleet_says_what_to_do_first(self) -> None:
        lines = shown()
        assert "no jobs yet: add [[jobs]] to the manifest, then: cis490-jobs reload" in lines
        assert "  next: python -m training.fleet.worker   (on a host that shall train)" in lines

    def test_the_estimate_stands_there_with_its_basis_and_is_left_out_without_one(self) -> None:
        done = {"at": NOW_S + 3600, "basis": "median of 22 past attempts"}
        assert "all done about 23:13 UTC (median of 22 past attempts)" in shown(job(), done_estimate=done)
        assert not [line for line in shown(job()) if "all done" in line]

    def test_a_pause_of_the_fleet_is_in_capitals_with_its_reason(self) -> None:
        assert "the fleet is PAUSED, no job is handed out: the lab moves" in shown(
            job(), fleet_paused="the lab moves"
        )


class TestHosts:
    def test_a_running_job_stands_beside_its_host_with_a_bar(self) -> None:
        lines = shown(running(), workers=[worker("pi", busy=1)])
        assert lines[4] == "pi    running  -    -     gbt-realistic  [####------] 412/1000 round"

    def test_a_gpu_shows_its_load_and_its_memory(self) -> None:
        usage = {"gpu-1": {"gpus": [{"util_percent": 87.3, "vram_used_gib": 14.08}]}}
        lines = shown(running(host="gpu-1"), workers=[gpu_host(busy=1)], usage=usage)
        assert "RTX 4090 87%  14.1/24" in lines[4]
        assert "RTX 4090  24 GiB" in shown(workers=[gpu_host()])[4]

    def test_a_host_with_two_jobs_has_a_line_for_each(self) -> None:
        lines = shown(running("a-oracle"), running("b-oracle"), workers=[worker("pi", busy=2, slots=2)])
        assert [line.split()[0] for line in lines[4:6]] == ["pi", "b-oracle"]

    def test_states_that_need_a_person_are_in_capitals_and_say_why(self) -> None:
        hosts = [
            worker("old", live=False, last_seen_at=NOW_S - 480),
            worker("bad", paused_reason="3 jobs failed in a row"),
            worker("off", drained_reason="its fan is loud"),
        ]
        lines = shown(job(), workers=hosts)
        assert re.fullmatch(r"old +LOST .* seen 8 min ago", lines[4])
        assert re.fullmatch(r"bad +PAUSED .* 3 jobs failed in a row", lines[5])
        assert re.fullmatch(r"off +drained .* its fan is loud", lines[6])

    def test_a_host_that_never_called_is_there_too(self) -> None:
        assert re.fullmatch(r"far +unseen .* never called", shown(manifest_hosts=["far"])[4])

    def test_long_names_are_cut_before_the_progress_is(self) -> None:
        lines = shown(
            running("transformer-realistic-with-a-very-long-name-indeed", "a-host-with-quite-a-long-name"),
            workers=[gpu_host("a-host-with-quite-a-long-name", busy=1)],
        )
        assert len(lines[4]) <= 80
        assert lines[4].endswith("[##---] 41%")


class TestProblems:
    def test_a_failed_job_shows_its_actual_error_and_the_next_command(self) -> None:
        lines = shown(failed(), workers=[worker()])
        assert lines[-2:] == [
            "x gru-oracle failed after 3 attempts: CUDA out of memory",
            "    next: cis490-jobs show gru-oracle",
        ]

    def test_of_a_traceback_the_line_that_names_the_error_is_shown(self) -> None:
        error = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: 3 classes expected\n'
        text = "\n".join(shown(failed(last_error=error)))
        assert "ValueError: 3 classes expected" in text
        assert "Traceback" not in text

    def test_a_job_that_failed_but_will_be_tried_again_is_a_warning(self) -> None:
        row = failed(status="pending", attempts=1, program_failures=1)
        assert "! gru-oracle waits for another try after 1 attempt: CUDA out of memory" in shown(row)

    def test_an_error_comes_before_a_warning(self) -> None:
        signs = [
            line[0] for line in shown(failed("a-x", status="pending"), failed()) if line[:2] in ("x ", "! ")
        ]
        assert signs == ["x", "!"]

    def test_a_host_that_is_lost_with_a_job_names_the_job(self) -> None:
        lost = worker("pi", live=False, busy=1, last_seen_at=NOW_S - 480)
        assert "x pi does not answer (last seen 8 min ago) and holds gbt-realistic" in shown(
            running(), workers=[lost]
        )

    def test_a_host_that_is_idle_while_nothing_may_run_there_is_named(self) -> None:
        lines = shown(job(), workers=[worker("pi", eligible_jobs=0)])
        assert lines[-2:] == [
            "! pi is idle: 1 job waits, and it may not run there",
            "    next: cis490-jobs why --host pi",
        ]

    def test_jobs_that_no_host_can_run_share_the_line_of_their_reason(self) -> None:
        stuck = {
            "reason": "pi: no working CUDA there", "n_jobs": 7, "jobs": ["a", "b", "c", "d", "e"],
            "next": "cis490-jobs why a",
        }  # fmt: skip
        text = " ".join(" ".join(shown(stuck=[stuck])).split())
        assert "! a, b, c, d, e and 2 more wait, and no host can run them: pi: no working CUDA there" in text

    def test_a_receiver_in_trouble_says_so_in_its_own_words(self) -> None:
        lines = shown(trouble={"disk": "the disk is full"})
        assert lines[-2:] == ["x the disk is full", "    next: df -h   (on the receiver's machine)"]


class TestItFitsAScreen:
    @pytest.mark.parametrize("color", [False, True])
    def test_eight_hosts_and_many_problems_fit_80_by_24(self, color: bool) -> None:
        hosts = [gpu_host(f"gpu-host-{at}", busy=1) for at in range(8)]
        jobs = [running(f"transformer{at}-realistic", f"gpu-host-{at}") for at in range(8)]
        errors = [failed(f"m{at}-oracle", last_error="the error " * 40) for at in range(20)]
        lines = shown(*jobs, *errors, workers=hosts, view=SCREEN._replace(color=color))
        plain = [ESCAPE.sub("", line) for line in lines]
        assert len(plain) <= 24
        assert max(map(len, plain)) <= 80
        assert plain[-1] == "  and 17 more problems: cis490-jobs status --all"

    def test_of_a_hundred_hosts_those_that_need_a_person_stay(self) -> None:
        hosts = [worker(f"host-{at:03}") for at in range(100)]
        hosts[77] |= {"live": False}
        lines = shown(job(), workers=hosts)
        assert len(lines) <= 24
        assert [line for line in lines if line.startswith("host-077")]
        assert [line for line in lines if line.endswith("more hosts: cis490-jobs status --all")]

    def test_with_all_nothing_is_left_out(self) -> None:
        lines = shown(*[failed(f"m{at}-oracle") for at in range(30)], everything=True)
        assert sum(line.startswith("x ") for line in lines) == 30

    def test_a_wide_screen_shows_what_is_left_to_do(self) -> None:
        estimates = {running()["job_id"]: {"finish_at": NOW_S + 1500, "basis": "x"}}
        lines = shown(running(), workers=[worker("pi", busy=1)], view=View(NOW_S, 120), estimates=estimates)
        assert lines[4].endswith("[####------] 412/1000 round, loss 0.1823, 25 min left")


class TestColour:
    def test_each_state_that_is_coloured_is_a_word_too(self) -> None:
        painted = shown(failed(), workers=[worker("pi", live=False)], view=SCREEN._replace(color=True))
        plain = shown(failed(), workers=[worker("pi", live=False)])
        assert [ESCAPE.sub("", line) for line in painted] == plain
        assert "\x1b[1;31m1 FAILED\x1b[0m" in painted[1]
        assert "\x1b[1;31mLOST\x1b[0m" in "\n".join(painted)

    def test_without_colour_no_escape_sequence_is_printed(self) -> None:
        assert not [line for line in shown(failed(), workers=[worker()]) if "\x1b" in line]


def test_piped_every_line_has_the_same_five_columns() -> None:
    stuck = {"reason": "no CUDA", "n_jobs": 2, "jobs": ["a", "b"], "next": "cis490-jobs why a"}
    lines = shown(failed(), running(), workers=[worker()], view=PIPE, stuck=[stuck], manifest_hosts=["far"])
    rows = [line.split("\t") for line in lines]
    assert rows[0] == ["WHAT", "NAME", "STATE", "DETAIL", "NEXT"]
    assert {len(row) for row in rows} == {5}
    assert {row[0] for row in rows[1:]} == {"count", "host", "job", "error", "stuck"}
    assert ["stuck", "a,b", "pending", "2 jobs: no CUDA", "cis490-jobs why a"] in rows
