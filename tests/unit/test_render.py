"""The operator's screens, made from answers as the receiver gives them."""

from __future__ import annotations

from typing import Any

from tests.factories.fake_api import Json, check, eligibility, host_verdict, in_full, job, worker
from training.fleet import render, render_job
from training.fleet.render import View

NOW_S = 1_700_000_000.0
SCREEN = View(NOW_S, 80)
PIPE = View(NOW_S, None)

CUDA_NO = check(
    "require_cuda", False, "CUDA", "no CUDA", message="no working CUDA there", hint="set require_cuda = false"
)
CUDA_OK = check("require_cuda", True, "CUDA", "CUDA")
RAM_OK = check("min_ram_gib", True, ">= 4 GiB", "7.7 GiB")
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


class TestStatus:
    def test_it_says_how_many_jobs_are_in_which_state(self) -> None:
        jobs = [job("a-oracle"), job("b-oracle"), failed()]
        assert render.status(SCREEN, jobs, [], [])[0] == "3 jobs: 2 pending, 1 FAILED"

    def test_a_failed_job_shows_its_actual_error_and_the_next_command(self) -> None:
        screen = "\n".join(render.status(SCREEN, [failed()], [worker()], []))
        assert "! gru-oracle FAILED after 3 attempts:\n    CUDA out of memory\n" in screen
        assert "cis490-jobs requeue gru-oracle" in screen
        assert "long tail" not in screen

    def test_of_a_traceback_the_line_that_names_the_error_is_shown(self) -> None:
        error = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: 3 classes expected\n'
        screen = "\n".join(render.status(SCREEN, [failed(last_error=error)], [], []))
        assert "    ValueError: 3 classes expected" in screen
        assert "Traceback" not in screen

    def test_a_job_that_failed_but_will_be_tried_again_is_shown_too(self) -> None:
        row = failed(status="pending", attempts=1, program_failures=1)
        assert "! gru-oracle waits for another try after 1 attempt:" in render.status(SCREEN, [row], [], [])

    def test_a_running_job_shows_host_age_and_a_bar(self) -> None:
        row = job(
            status="running",
            claimed_by="pi",
            claimed_at=NOW_S - 130,
            heartbeat_at=NOW_S - 9,
            progress={"step": 412, "total": 1000, "unit": "round", "loss": 0.18234},
        )
        line = next(line for line in render.status(SCREEN, [row], [worker()], []) if line.startswith("gbt"))
        assert line == "gbt-realistic  pi    2 min  9 s ago  [####------] 412/1000 round  loss 0.1823"

    def test_lost_and_paused_hosts_are_in_capitals_and_a_pause_has_its_reason(self) -> None:
        hosts = [worker("old", live=False), worker("bad", paused_reason="3 jobs failed in a row")]
        screen = render.status(SCREEN, [job()], hosts, [])
        assert [line.split()[:2] for line in screen[3:5]] == [["old", "LOST"], ["bad", "PAUSED"]]
        assert "! bad is PAUSED and takes no job: 3 jobs failed in a row" in screen

    def test_a_stuck_job_names_the_closest_host_and_why(self) -> None:
        answer = eligibility(
            job("gru-oracle"), host_verdict("far", CUDA_NO, CUDA_NO), host_verdict("pi", CUDA_NO, BUSY)
        )
        screen = render.status(SCREEN, [job("gru-oracle")], [worker()], [answer])
        assert "gru-oracle         pi: no working CUDA there" in screen
        assert screen[-1] == "    next: cis490-jobs why gru-oracle"

    def test_jobs_stuck_for_one_reason_share_a_line(self) -> None:
        twice = host_verdict("pi", CUDA_NO, CUDA_NO)
        answers = [eligibility(job(name), twice) for name in ("gru-oracle", "tcn-oracle", "cnn-oracle")]
        screen = render.status(SCREEN, [job("gru-oracle")], [worker()], answers)
        assert "gru-oracle +2      pi: no working CUDA there (and 1 more)" in screen

    def test_ten_stuck_jobs_and_eight_hosts_fit_a_screen_of_24_lines(self) -> None:
        names = [f"transformer{at}-realistic" for at in range(10)]
        jobs = [job(name) for name in names]
        reasons = [
            check("model", False, message=f"pi {'has not what it needs ' * 2}{row['name']}") for row in jobs
        ]
        answers = [
            eligibility(row, host_verdict("pi", reason)) for row, reason in zip(jobs, reasons, strict=True)
        ]
        screen = render.status(SCREEN, jobs, [worker(f"host-{at}") for at in range(8)], answers)
        assert len(screen) <= 24
        assert max(map(len, screen)) <= 80

    def test_many_failures_are_cut_and_the_command_that_lists_them_is_named(self) -> None:
        jobs = [failed(name=f"m{at}-oracle") for at in range(9)]
        assert "  and 4 more: cis490-jobs list --status failed" in render.status(SCREEN, jobs, [], [])

    def test_without_workers_it_says_how_to_start_one(self) -> None:
        assert "  next: python -m training.fleet.worker" in render.status(SCREEN, [job()], [], [])

    def test_piped_every_line_has_the_same_five_columns(self) -> None:
        answer = eligibility(job("cnn-oracle"), host_verdict("pi", CUDA_NO))
        lines = render.status(PIPE, [failed(), job("cnn-oracle")], [worker()], [answer])
        rows = [line.split("\t") for line in lines]
        assert rows[0] == ["WHAT", "NAME", "STATE", "DETAIL", "NEXT"]
        assert {len(row) for row in rows} == {5}
        assert ["job", "gru-oracle", "failed", "CUDA out of memory", "cis490-jobs show gru-oracle"] in rows
        assert [
            "stuck",
            "cnn-oracle",
            "pending",
            "pi: no working CUDA there",
            "cis490-jobs why cnn-oracle",
        ] in rows


class TestStuck:
    def test_a_job_that_only_waits_for_a_free_slot_is_not_stuck(self) -> None:
        assert not render.is_stuck(eligibility(job(), host_verdict("pi", BUSY), host_verdict("b", CUDA_NO)))

    def test_a_job_without_any_host_is_stuck(self) -> None:
        assert render.is_stuck(eligibility(job()))

    def test_a_held_job_is_stuck_whatever_the_hosts(self) -> None:
        held = check("in_manifest", False, message="the manifest no longer has this job")
        assert render.is_stuck(eligibility(job(held=True), host_verdict("pi", RAM_OK), job_checks=(held,)))

    def test_a_job_that_is_not_pending_is_not_stuck(self) -> None:
        assert not render.is_stuck(eligibility(job(status="running"), host_verdict("pi", CUDA_NO)))


class TestList:
    def test_a_row_has_name_state_priority_attempts_host_and_age(self) -> None:
        row = job(status="completed", attempts=2, claimed_by="pi", completed_at=NOW_S - 7200)
        assert render.job_list(SCREEN, [row]) == [
            "NAME           STATUS     PRIO  ATTEMPTS  HOST  AGE / ERROR",
            "gbt-realistic  completed  10    2         pi    2 h 00 min ago",
        ]

    def test_a_long_error_is_cut_to_the_terminal_and_whole_in_a_pipe(self) -> None:
        row = failed(last_error="x" * 500)
        assert max(map(len, render.job_list(SCREEN, [row]))) == 80
        assert "x" * 500 in render.job_list(PIPE, [row])[1].split("\t")

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


class TestWhy:
    def test_failing_constraints_are_columns_with_both_values(self) -> None:
        answer = eligibility(
            job(),
            host_verdict("pi", CUDA_NO, RAM_OK),
            host_verdict("gpu", CUDA_OK, RAM_OK),
            summary="It waits.",
        )
        lines = render_job.why_job(SCREEN, answer)
        assert lines[:6] == [
            "It waits.",
            "",
            "HOST    require_cuda",
            "wanted  CUDA",
            "pi      no CUDA NO",
            "gpu     CUDA ok",
        ]
        assert "met by every host: min_ram_gib (>= 4 GiB)" in lines

    def test_every_failed_check_is_in_the_verdict_and_every_hint_once(self) -> None:
        hosts = [host_verdict("a", CUDA_NO, BUSY), host_verdict("b", CUDA_NO, live=False, seen_s_ago=480.0)]
        text = "\n".join(render_job.why_job(SCREEN, eligibility(job(), *hosts)))
        assert "a     3 s ago         no working CUDA there\n                      pi is busy" in text
        assert "LOST 8 min ago" in text
        assert text.count("set require_cuda = false") == 1
        assert "  2. wait" in text

    def test_wanted_values_that_differ_by_host_stand_in_the_cells(self) -> None:
        one, two = (
            check("free_slot", False, "fewer than 1", "1"),
            check("free_slot", False, "fewer than 2", "2"),
        )
        lines = render_job.why_job(SCREEN, eligibility(job(), host_verdict("a", one), host_verdict("b", two)))
        assert "a       1 (wanted fewer than 1) NO" in lines

    def test_a_matrix_too_wide_is_continued_below(self) -> None:
        many = [check(f"constraint_{at}", False, "something long", "another value") for at in range(9)]
        lines = render_job.why_job(SCREEN, eligibility(job(), host_verdict("pi", *many)))
        assert max(map(len, lines)) <= 80
        assert sum(line.startswith("HOST    constraint") for line in lines) > 1
        assert all(any(f"constraint_{at}" in line for line in lines) for at in range(9))

    def test_an_eligible_host_is_called_eligible(self) -> None:
        lines = render_job.why_job(SCREEN, eligibility(job(), host_verdict("pi", RAM_OK)))
        assert any(line.endswith("eligible") for line in lines)
        assert "What would help" not in lines

    def test_what_is_wrong_with_the_job_itself_comes_first(self) -> None:
        done = check("pending", False, message="the job is completed", hint="requeue --force")
        answer = eligibility(job(status="completed"), host_verdict("pi", RAM_OK), job_checks=(done,))
        assert render_job.why_job(SCREEN, answer)[1] == "  the job itself: the job is completed"

    def test_piped_each_check_of_each_host_is_a_row(self) -> None:
        lines = render_job.why_job(PIPE, eligibility(job(), host_verdict("pi", CUDA_NO, RAM_OK)))
        assert lines[2].split("\t") == ["pi", "yes", "min_ram_gib", "yes", ">= 4 GiB", "7.7 GiB", "", ""]
        assert len(lines) == 3

    def test_a_host_sees_each_pending_job_with_its_verdict(self) -> None:
        answers = [
            eligibility(job("gru-oracle"), host_verdict("pi", CUDA_NO)),
            eligibility(job("gbt-oracle"), host_verdict("pi", RAM_OK)),
        ]
        lines = render_job.why_host(SCREEN, "pi", worker(last_seen_at=NOW_S - 5), [], answers)
        assert lines[0] == "pi: seen 5 s ago, 0 of 1 slots busy"
        assert "gru-oracle  no        no working CUDA there" in lines
        assert "gbt-oracle  yes       can start here" in lines

    def test_a_host_that_never_reported_is_told_apart(self) -> None:
        lines = render_job.why_host(SCREEN, "pi", None, [], [])
        assert "no worker there has ever reported" in lines[0]
        assert "no job is pending" in lines[1]


class TestVerbs:
    def test_cancelling_a_running_job_names_the_host_that_must_stop(self) -> None:
        lines = render_job.cancelled(job(status="running", claimed_by="pi"))
        assert lines[0] == "gbt-realistic: cancelled (was running); pi stops it at its next heartbeat"

    def test_a_reload_lists_counts_and_warnings(self) -> None:
        answer = {
            "counts": {"added": 2, "removed": 0},
            "n_jobs": 14,
            "manifest_digest": "ab" * 32,
            "warnings": ["w1"],
        }
        assert render_job.reloaded(answer) == [
            "manifest abababababab is in force: 14 jobs",
            "  2 added, 0 removed",
            "  warning: w1",
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
        host = worker(evil, paused_reason=evil, mismatches=[evil], effective={"models": [evil], "os": evil})
        attempt = {"host": evil, "error": evil, "outcome": evil}
        event = {"actor": evil, "event": evil, "from": evil, "to": evil, "detail": evil}
        return [
            *render.status(view, [row], [host], [answer]),
            *render.job_list(view, [row]),
            *render.worker_list(view, [host]),
            *render_job.show(view, in_full(row, attempts_log=[attempt], audit=[event])),
            *render_job.why_job(view, answer),
            *render_job.why_host(view, evil, host, [row], [answer]),
            *render_job.cancelled(row),
            *render_job.requeued(row),
            *render_job.reloaded({"counts": {evil: evil}, "warnings": [evil], "manifest_digest": evil}),
            *render_job.pulled(view, evil, evil, {evil: 1}, {evil: evil}),
        ]

    def test_no_screen_lets_a_control_character_through(self) -> None:
        cells = [cell for line in self.screens(PIPE) for cell in line.split("\t")]
        for text in [*self.screens(SCREEN), *cells]:
            assert text.isprintable(), ascii(text)

    def test_an_answer_with_nothing_in_it_still_renders(self) -> None:
        for view in (SCREEN, PIPE):
            render.status(view, [{}], [{}], [{}])
            render.job_list(view, [{}])
            render.worker_list(view, [{}])
            render_job.show(view, {})
            render_job.why_job(view, {})
            render_job.why_host(view, "pi", {}, [], [{}])
