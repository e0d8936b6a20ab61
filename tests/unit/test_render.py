"""The operator's screens, made from answers as the receiver gives them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories.fake_api import (
    Json,
    check,
    eligibility,
    host_eligibility,
    host_verdict,
    in_full,
    job,
    waiting,
    worker,
)
from training.fleet import render, render_job, render_plan, render_status, render_why
from training.fleet.overview import Facts, overview
from training.fleet.render import View

NOW_S = 1_700_000_000.0
SCREEN = View(NOW_S, 80)
PIPE = View(NOW_S, None)

CUDA_NO = check(
    "require_cuda", False, "CUDA", "no CUDA", message="no working CUDA there", hint="set require_cuda = false"
)
BUSY = check("free_slot", False, "fewer than 1 running", "1 running", message="pi is busy", hint="wait")


def failed(**changes: Any) -> Json:
    row = job(
        "gru-oracle",
        status="failed",
        attempts=3,
        program_failures=3,
        last_error="CUDA out of memory\nlong tail",
    )
    return row | changes


class TestList:
    def test_a_row_has_name_state_priority_attempts_host_and_age(self) -> None:
        row = job(status="completed", attempts=2, claimed_by="pi", completed_at=NOW_S - 7200)
        assert render.job_list(SCREEN, [row]) == [
            "NAME           STATUS     PRIO  ATTEMPTS  HOST  AGE / REASON",
            "gbt-realistic  completed  10    2         pi    2 h 00 min ago",
        ]

    def test_a_long_error_is_cut_to_the_terminal_and_whole_in_a_pipe(self) -> None:
        row = failed(last_error="x" * 500)
        assert max(map(len, render.job_list(SCREEN, [row]))) == 80
        assert "x" * 500 in render.job_list(PIPE, [row])[1].split("\t")

    def test_long_names_take_the_room_of_columns_that_show_has_too(self) -> None:
        rows = [
            job("transformer-realistic-2", status="completed", claimed_by="gpu-box-1", completed_at=NOW_S),
            job("gru-oracle", waits_for="no host: gpu-box-1: 8.0 GiB of VRAM short"),
        ]
        lines = render.job_list(SCREEN, rows)
        assert max(map(len, lines)) <= 80
        assert lines[0].split() == ["NAME", "STATUS", "PRIO", "HOST", "AGE", "/", "REASON"]
        assert lines[-1] == "whole reasons: cis490-jobs list --status pending"
        assert "no host: gpu-box-1: 8.0" in lines[2]

    def test_a_paused_job_says_so_whether_it_waits_or_runs(self) -> None:
        rows = [job("a-x", paused_reason="bad data"), job("b-x", status="running", paused_reason="")]
        lines = render.job_list(SCREEN, rows)
        assert "paused: bad data" in lines[1]
        assert "paused" in lines[2]

    def test_stale_and_removed_jobs_say_so(self) -> None:
        rows = [
            job(status="completed", completed_at=NOW_S, stale=["data changed"]),
            job("old-oracle", held=True),
        ]
        lines = render.job_list(View(NOW_S, 120), rows)
        assert "stale: data changed" in lines[1]
        assert "not in the manifest, id 6f6c642d6f72" in lines[2]

    def test_no_jobs_is_answered_with_what_to_do(self) -> None:
        assert "cis490-jobs reload" in "\n".join(render.job_list(SCREEN, []))
        assert len(render.job_list(PIPE, [])) == 1


class TestShow:
    def test_it_shows_the_spec_the_whole_error_and_the_next_command(self) -> None:
        lines = render_job.show(SCREEN, in_full(failed(last_error="first\n  second")))
        text = "\n".join(lines)
        assert lines[0] == "gru-oracle  FAILED, 3 attempts"
        assert "  hyper         num_rounds 100, learning_rate 0.05" in lines
        assert "  limits        timeout 1 h 00 min, without progress no limit" in lines
        assert "    | first\n    |   second" in text
        assert lines[-1] == "next: cis490-jobs requeue gru-oracle"

    def test_attempts_and_audit_follow(self) -> None:
        attempt = {
            "generation": 1,
            "epoch": 2,
            "host": "pi",
            "claimed_at": NOW_S - 60,
            "outcome": "failed",
            "error": "boom",
            "fail_class": "oom",
            "duration_s": 42.0,
            "peak_rss_mib": 812.3,
            "cpu_s": 40.0,
        }
        event = {"at": NOW_S, "actor": "pi", "event": "fail", "from": "running", "to": "failed", "detail": ""}
        lines = render_job.show(SCREEN, in_full(failed(), attempts_log=[attempt], audit=[event]))
        assert "1.2      pi    1 min ago  42 s  812 MiB   40 s  FAILED (oom): boom" in lines
        assert any(line.endswith("fail   running -> failed") for line in lines)

    def test_every_attempt_of_every_generation_has_host_cause_duration_and_memory(self) -> None:
        def attempt(epoch: int, host: str, outcome: str | None, **more: Any) -> Json:
            start = NOW_S - 1000
            row = {"generation": 1 + epoch // 4, "epoch": epoch, "host": host, "claimed_at": start}
            return row | {"outcome": outcome, "ended_at": start + 60 * epoch if outcome else None} | more

        lost = "b stopped reporting: no heartbeat for 600 s (attempt 2)"
        log = [
            attempt(
                1, "a", "failed", fail_class="oom", error="out of memory", duration_s=42, peak_rss_mib=812
            ),
            attempt(2, "b", "lapsed", error=lost),
            attempt(3, "a", "cancelled"),
            attempt(4, "c", None),
        ]
        lines = render_job.show(View(NOW_S, 160), in_full(job(status="running"), attempts_log=log))
        at = next(number for number, line in enumerate(lines) if line.startswith("ATTEMPT")) + 1
        assert [line.split("  ", 1)[0] for line in lines[at : at + 4]] == ["1.1", "1.2", "1.3", "2.4"]
        text = "\n".join(" ".join(line.split()) for line in lines[at : at + 5])
        assert "42 s 812 MiB - FAILED (oom): out of memory" in text
        assert f"2 min* - - lapsed: {lost}" in text
        assert "3 min* - - cancelled" in text
        assert "16 min so far - - live" in text
        assert text.endswith("* from claim to end; the worker did not say how long its training took")

    def test_a_removed_job_is_named_by_its_id_in_commands(self) -> None:
        row = job(held=True, status="cancelled")
        assert render_job.show(SCREEN, in_full(row))[-1] == f"next: cis490-jobs requeue {row['job_id'][:12]}"

    def test_loss_peak_estimate_and_pause_stand_beside_what_was_asked_for(self) -> None:
        losses = (1.09, 0.8, 0.6, 0.4, 0.3, 0.211)
        told = {
            "points": [{"at": NOW_S, "step": at, "loss": loss} for at, loss in enumerate(losses)],
            "peak": {"job_rss_gib": 9.2, "job_vram_gib": 14.1, "gpu_util_percent": 87.0},
        }
        expected = {"start_at": None, "finish_at": NOW_S + 7500, "basis": "3 past attempts"}
        row = in_full(job(status="running", attempts=1, paused_reason="bad data"), estimate=expected)
        lines = render_job.show(SCREEN, row, told)
        assert "  loss          1.09 #*=.__ 0.211" in lines
        assert "  used (peak)   9.2 GiB RAM, 14.1 GiB VRAM, GPU 87 %" in lines
        assert "  estimate      ends in 2 h 05 min, Nov 15, 00:18 UTC (3 past attempts)" in lines
        assert "  paused        bad data" in lines
        waits = in_full(job(), estimate={"start_at": NOW_S, "finish_at": NOW_S + 60, "basis": "pi is free"})
        assert "  estimate      could start now; ends in 1 min, 22:14 UTC (pi is free)" in render_job.show(
            SCREEN, waits
        )
        blocks = render_job.show(SCREEN._replace(blocks=True), row, told)
        assert "  loss          1.09 \u2588\u2586\u2584\u2582\u2581\u2581 0.211" in blocks

    @pytest.mark.parametrize(
        ("changes", "command"),
        [
            ({"status": "running"}, "cis490-jobs logs gru-oracle -f"),
            ({"status": "claimed"}, "cis490-jobs logs gru-oracle -f"),
            ({"paused_reason": "bad data"}, "cis490-jobs resume gru-oracle"),
            ({}, "cis490-jobs why gru-oracle"),
        ],
    )
    def test_the_next_command_is_what_helps_in_this_state(self, changes: Json, command: str) -> None:
        assert render_job.show(SCREEN, in_full(job("gru-oracle", **changes)))[-1] == f"next: {command}"

    @pytest.mark.parametrize(
        "losses", [[], [0.5], [None, None], [0.5, 0.5, 0.5], ["nan", float("inf")], [1e308, -1e308]]
    )
    def test_a_loss_curve_of_nothing_sensible_is_no_fault(self, losses: list[Any]) -> None:
        told = {"points": [{"step": 1, "loss": loss} for loss in losses], "peak": {"job_rss_gib": None}}
        lines = render_job.show(SCREEN, in_full(job(status="running")), told)
        assert not any(line.startswith("  used") for line in lines)

    def test_a_long_loss_curve_is_as_wide_as_its_place(self) -> None:
        told = {"points": [{"step": at, "loss": 1000 / (at + 1)} for at in range(1000)]}
        lines = render_job.show(SCREEN, in_full(job(status="running")), told)
        (line,) = (line for line in lines if line.startswith("  loss "))
        assert len(line) <= 80

    def test_piped_it_is_field_and_value(self) -> None:
        rows = [line.split("\t") for line in render_job.show(PIPE, in_full(failed()))]
        assert ["last error", "CUDA out of memory\\nlong tail"] in rows
        assert {len(row) for row in rows} == {2}


class TestWorkers:
    def test_a_mismatch_and_a_pause_stand_below_the_table(self) -> None:
        row = worker(
            mismatches=["ram_gib: the manifest says 32, the host reports 7.7"], paused_reason="too hot"
        )
        lines = render.worker_list(SCREEN, [row])
        assert lines[0].startswith("HOST  STATE   BUSY  RAM GiB")
        assert "  PAUSED: too hot" in lines
        assert "  mismatch  ram_gib: the manifest says 32, the host reports 7.7" in lines

    def test_the_effective_capability_is_shown_not_the_detected_one(self) -> None:
        row = worker(effective={"ram_gib": 4.0})
        assert " 4.0 " in render.worker_list(SCREEN, [row])[1]

    def test_a_gpu_is_named_without_its_maker(self) -> None:
        gpus = [{"name": "NVIDIA GeForce RTX 4090", "vram_gib": 23.99}] * 2
        row = worker(effective={"gpus": gpus, "vram_gib": 23.99, "ram_gib": 64.0})
        assert render.worker_list(SCREEN, [row])[1].endswith("2 x RTX 4090")

    def test_piped_nothing_is_left_out(self) -> None:
        header, row = (line.split("\t") for line in render.worker_list(PIPE, [worker(mismatches=["a", "b"])]))
        assert dict(zip(header, row, strict=True))["MISMATCHES"] == "a; b"
        assert dict(zip(header, row, strict=True))["MODELS"] == "gbt, mlp"


class TestVerbs:
    def test_cancelling_a_running_job_names_the_host_that_must_stop(self) -> None:
        lines = render_job.cancelled(job(status="running", claimed_by="pi"))
        assert lines[0] == "gbt-realistic: cancelled (was running); pi stops it at its next heartbeat"

    def test_a_reload_lists_counts(self) -> None:
        answer = {
            "counts": {"added": 2, "removed": 0},
            "n_jobs": 14,
            "manifest_digest": "ab" * 32,
        }
        assert render_plan.reloaded(answer) == [
            "manifest abababababab is in force: 14 jobs",
            "  2 added, 0 removed",
        ]

    def test_a_pull_lists_files_and_metrics(self) -> None:
        lines = render_job.pulled(SCREEN, "ab" * 32, "here", {"model.txt": 2048}, {"auc": 0.94129})
        assert lines == [
            "artifact abababababab in here (1 file, 2.0 KiB)",
            "  FILE       SIZE",
            "  model.txt  2.0 KiB",
            "",
            "  METRIC  VALUE",
            "  auc     0.9413",
        ]


class TestHostileText:
    EVIL = "\x1b]0;owned\x07\x1b[2Jred\u202e\x9b31m\ud800\ttab\r"

    def screens(self, view: View) -> list[str]:
        evil = self.EVIL
        row = failed(last_error=evil, claimed_by=evil, name=evil, stale=[evil], metrics={evil: evil})
        bad = check(evil, False, evil, evil, message=evil, hint=evil)
        answer = eligibility(
            row | {"status": "pending"}, host_verdict(evil, bad), job_checks=(bad,), summary=evil
        )
        change = {"kind": evil, "text": evil, "line": 1}
        answer |= {
            "suggestions": [
                {"changes": [change], "host": evil, "starts": evil, "command": evil, "note": evil}
            ]
        }
        answer |= {"estimate": {"start_at": 1e300, "finish_at": NOW_S, "basis": evil}, "position": 2}
        host = worker(evil, paused_reason=evil, mismatches=[evil], effective={"models": [evil], "os": evil})
        waits = host_eligibility(host, waiting(bad, jobs=(evil,)), running=(row,)) | {
            "summary": evil,
            "next": evil,
        }
        attempt = {"host": evil, "error": evil, "outcome": evil}
        event = {"actor": evil, "event": evil, "from": evil, "to": evil, "detail": evil}
        stuck = {"reason": evil, "n_jobs": 1, "jobs": [evil], "next": evil}
        evil_fleet = overview(
            Facts(NOW_S, NOW_S, [row], [row], [host], name=evil, digest=evil, stuck=[stuck])
        )
        return [
            *render_status.status(view, evil_fleet),
            *render.job_list(view, [row]),
            *render.worker_list(view, [host]),
            *render_job.show(view, in_full(row, attempts_log=[attempt], audit=[event])),
            *render_why.why_job(view, answer),
            *render_why.why_host(view, evil, waits),
            *render_job.cancelled(row),
            *render_job.requeued(row),
            *render_plan.reloaded({"counts": {evil: evil}, "warnings": [evil], "manifest_digest": evil}),
            *render_job.pulled(view, evil, evil, {evil: 1}, {evil: evil}),
        ]

    def test_no_screen_lets_a_control_character_through(self) -> None:
        cells = [cell for line in self.screens(PIPE) for cell in line.split("\t")]
        for text in [*self.screens(SCREEN), *cells]:
            assert text.isprintable(), ascii(text)

    def test_an_answer_with_nothing_in_it_still_renders(self) -> None:
        for view in (SCREEN, PIPE):
            render_status.status(view, {"hosts": [{}], "running": [{}], "problems": [{}], "stuck": [{}]})
            render.job_list(view, [{}])
            render.worker_list(view, [{}])
            render_job.show(view, {})
            render_why.why_job(view, {})
            render_why.why_job(view, {"hosts": [{}], "suggestions": [{}], "estimate": {}, "position": 1})
            render_why.why_host(view, "pi", {})
            render_why.why_host(view, "pi", {"classes": [{}], "running": [{}]})
