"""The screens of `why`, made from answers as the receiver gives them."""

from __future__ import annotations

from tests.factories.fake_api import (
    Json,
    check,
    eligibility,
    host_eligibility,
    host_verdict,
    job,
    waiting,
    worker,
)
from training.fleet.render import View
from training.fleet.render_why import MOST_HOSTS, why_host, why_job

NOW_S = 1_700_000_000.0
NARROW, WIDE, PIPE = View(NOW_S, 80), View(NOW_S, 120), View(NOW_S, None)

CUDA_NO = check("require_cuda", False, "CUDA", "no CUDA", message="no working CUDA there")
CUDA_OK = check("require_cuda", True, "CUDA", "CUDA")
RAM_OK = check("min_ram_gib", True, ">= 4 GiB", "7.7 GiB")
RAM_NO = check("min_ram_gib", False, ">= 4 GiB", "2 GiB", message="2.0 GiB of RAM short")
LIVE = check("live", True, "a worker that reports", "last seen 3 s ago")
GONE = check(
    "live", False, "a worker that reports", "last seen 480 s ago", message="no worker on b is reporting"
)
FREE = check("free_slot", True, "fewer than 2 running", "1 running")
BUSY = check("free_slot", False, "fewer than 1 running", "1 running", message="a is busy: 1 of 1 slots")
NAMED = check("known_host", True, "a host the manifest names", "pi")
CHANGE: Json = {"kind": "undrain", "text": "give pi jobs again", "line": None}
EDIT: Json = {"kind": "remove_deny", "text": 'manifest line 4: remove "gru" from deny_jobs of pi', "line": 4}


def suggestion(*changes: Json, **fields: object) -> Json:
    plain = {"host": "pi", "hosts": ["pi"], "starts": "at once", "command": "cis490-jobs undrain pi"}
    return {"text": "x", "effort": len(changes), "changes": list(changes), **plain, **fields}


def screen(answer: Json, view: View = NARROW) -> list[str]:
    return why_job(view, answer)


class TestTable:
    def test_each_cell_has_the_number_found_and_the_heading_the_one_wanted(self) -> None:
        answer = eligibility(
            job(),
            host_verdict("pi", NAMED, CUDA_NO, RAM_OK, LIVE, FREE),
            host_verdict("old", NAMED, CUDA_OK, RAM_NO, LIVE, FREE),
        )
        lines = screen(answer)
        assert lines[2:5] == [
            "HOST  CUDA  RAM>=4  SEEN    FREE    VERDICT",
            "pi    NO    7.7 ok  3 s ok  1/2 ok  no working CUDA there",
            "old   ok    2 NO    3 s ok  1/2 ok  2.0 GiB of RAM short",
        ]
        assert "met by every host: may take part" in lines

    def test_every_failed_check_is_in_the_verdict(self) -> None:
        hosts = [
            host_verdict("a", CUDA_NO, BUSY),
            host_verdict("b", CUDA_NO, GONE, live=False, seen_s_ago=480.0),
        ]
        text = " ".join(" ".join(screen(eligibility(job(), *hosts))).split())
        assert "no working CUDA there; a is busy: 1 of 1 slots" in text
        assert "8 min NO" in text
        assert "no worker on b is reporting" in text

    def test_the_host_that_comes_closest_stands_first(self) -> None:
        far, close = host_verdict("far", CUDA_NO, RAM_NO), host_verdict("close", CUDA_OK, RAM_NO)
        lines = screen(eligibility(job(), far, close))
        assert lines[3].startswith("close")

    def test_verdicts_that_do_not_fit_stand_below(self) -> None:
        many = [check(f"constraint_{at}", False, "long", "another", message=f"m{at}") for at in range(4)]
        answer = eligibility(job(), host_verdict("pi", *many))
        narrow, wide = screen(answer), screen(answer, View(NOW_S, 160))
        assert "HOST  VERDICT" in narrow
        assert any(line.endswith("VERDICT") and line.startswith("HOST  constraint_0") for line in wide)
        assert max(map(len, narrow)) <= 80

    def test_a_table_too_wide_is_continued_below(self) -> None:
        many = [check(f"constraint_{at}", False, "something long", "another value") for at in range(9)]
        lines = screen(eligibility(job(), host_verdict("pi", *many)))
        assert max(map(len, lines)) <= 80
        assert sum(line.startswith("HOST  constraint") for line in lines) > 1
        assert all(any(f"constraint_{at}" in line for line in lines) for at in range(9))

    def test_of_very_many_hosts_only_the_closest_are_shown(self) -> None:
        hosts = [host_verdict(f"h{at}", CUDA_NO) for at in range(MOST_HOSTS + 3)]
        lines = screen(eligibility(job(), *hosts))
        assert "  and 3 more hosts, which are no closer; in a pipe all are listed" in lines

    def test_what_is_wrong_with_every_host_alike_is_no_column(self) -> None:
        paused = check("fleet_not_paused", False, message="the fleet is paused: moving house")
        lines = screen(eligibility(job(), host_verdict("pi", paused, LIVE)))
        assert lines[2] == "HOST  SEEN    VERDICT"
        assert lines[3].endswith("the fleet is paused: moving house")

    def test_what_is_wrong_with_the_job_itself_comes_first(self) -> None:
        done = check("pending", False, message="the job is completed", hint="requeue --force")
        answer = eligibility(job(status="completed"), host_verdict("pi", RAM_OK), job_checks=(done,))
        assert screen(answer)[1] == "  the job itself: the job is completed"

    def test_of_a_job_that_runs_there_is_nothing_to_explain(self) -> None:
        answer = eligibility(job(status="running"), host_verdict("pi", BUSY), summary="It runs on pi.")
        assert screen(answer) == ["It runs on pi.", "next: cis490-jobs show gbt-realistic"]

    def test_a_failed_cell_is_coloured_where_there_are_colours_and_in_capitals_anyhow(self) -> None:
        answer = eligibility(job(), host_verdict("pi", CUDA_NO, LIVE))
        painted = why_job(View(NOW_S, 80, color=True), answer)
        assert painted[3] == "pi    \x1b[1;31mNO\x1b[0m    3 s ok  no working CUDA there"

    def test_piped_each_check_of_each_host_is_a_row(self) -> None:
        lines = screen(eligibility(job(), host_verdict("pi", CUDA_NO, RAM_OK)), PIPE)
        assert lines[2].split("\t") == ["pi", "yes", "min_ram_gib", "yes", ">= 4 GiB", "7.7 GiB", "", ""]
        assert len(lines) == 3


class TestSuggestions:
    def test_each_has_its_number_its_changes_when_it_starts_and_what_to_type(self) -> None:
        answer = eligibility(job(), host_verdict("pi", CUDA_NO))
        both = suggestion(
            EDIT, CHANGE, command="cis490-jobs reload && cis490-jobs undrain pi", hosts=["pi", "po"]
        )
        lines = screen(answer | {"suggestions": [suggestion(CHANGE), both]})
        assert lines[lines.index("Smallest changes that would let it run") + 1 :] == [
            "  1. give pi jobs again",
            "     -> starts at once on pi",
            "        next: cis490-jobs undrain pi",
            '  2. manifest line 4: remove "gru" from deny_jobs of pi',
            "     and give pi jobs again",
            "     -> starts at once on pi (or po)",
            "        then: cis490-jobs reload && cis490-jobs undrain pi",
        ]

    def test_what_past_attempts_used_stands_with_the_suggestion(self) -> None:
        note = suggestion(EDIT, note="3 past attempts of this kind peaked at 7.1 GiB of RAM, so 8 looks safe")
        lines = screen(eligibility(job(), host_verdict("pi", CUDA_NO)) | {"suggestions": [note]})
        assert "     (3 past attempts of this kind peaked at 7.1 GiB of RAM, so 8 looks safe)" in lines


class TestEstimate:
    def test_start_and_end_are_told_with_their_basis(self) -> None:
        estimate = {"start_at": NOW_S + 600, "finish_at": NOW_S + 4200, "basis": "2 past attempts"}
        lines = screen(
            eligibility(job(), host_verdict("pi", BUSY)) | {"estimate": estimate, "position": 3}, WIDE
        )
        assert " ".join(lines[-2:]) == (
            "Number 3 in line on its best host, starts about 22:23 UTC, in 10 min, "
            "ends about 23:23 UTC, in 1 h 10 min (2 past attempts)"
        )

    def test_without_a_basis_nothing_is_told(self) -> None:
        lines = screen(eligibility(job(), host_verdict("pi", CUDA_NO)) | {"estimate": None, "position": None})
        assert not [line for line in lines if "about" in line or "in line" in line]


class TestHost:
    def test_a_host_sees_each_kind_of_job_with_its_verdict(self) -> None:
        answer = host_eligibility(
            worker(last_seen_at=NOW_S - 5),
            waiting(RAM_OK, jobs=("gbt-oracle", "gbt-two"), n_jobs=7),
            waiting(CUDA_NO, jobs=("gru-oracle",)),
        )
        lines = why_host(NARROW, "pi", answer)
        assert lines == [
            "pi: seen 5 s ago, 0 of 1 slots busy",
            "pi is free.",
            "",
            "WAITING        HERE  VERDICT",
            "gbt-oracle +6  yes   can start here",
            "gru-oracle     NO    no working CUDA there",
            "",
            "next: cis490-jobs status",
        ]

    def test_why_it_takes_nothing_is_told_with_the_way_back(self) -> None:
        host = worker(
            paused_reason="3 jobs failed on it in a row",
            drained_reason="new fans",
            mismatches=["ram: 4, not 8"],
        )
        text = "\n".join(why_host(NARROW, "pi", host_eligibility(host, running=(job(),))))
        assert "  PAUSED: 3 jobs failed on it in a row   undo: cis490-jobs resume --host pi" in text
        assert "  drained: new fans   undo: cis490-jobs undrain pi" in text
        assert "  mismatch: ram: 4, not 8" in text
        assert "  running: gbt-realistic" in text

    def test_a_host_that_never_reported_is_told_apart(self) -> None:
        assert "no worker there has ever reported" in why_host(NARROW, "pi", host_eligibility(None))[0]

    def test_piped_each_check_of_each_kind_is_a_row(self) -> None:
        lines = why_host(
            PIPE, "pi", host_eligibility(None, waiting(CUDA_NO, RAM_OK, jobs=("a", "b"), n_jobs=2))
        )
        assert lines[2].split("\t") == ["a,b", "2", "no", "min_ram_gib", "yes", ">= 4 GiB", "7.7 GiB", "", ""]
        assert len(lines) == 3
