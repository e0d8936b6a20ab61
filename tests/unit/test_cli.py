"""`cis490-jobs` against a receiver of canned answers, through the real client on a loopback port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.factories.command import Result, run
from tests.factories.fake_api import FakeApi, check, host_eligibility, job, waiting, worker
from training.fleet import cli, exits, naming, verbs

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (
    'manifest.toml:12: jobs[3] "mlp-oracle": hyper.learning_rat is not known for mlp; did you mean learning_rate?\n'
    "manifest.toml:20: jobs[4]: model is missing"
)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    rows = (
        job("gbt-realistic"),
        job("gbt-oracle", status="running", claimed_by="pi", claimed_at=1.7e9 - 60),
        job("mlp-oracle", status="failed", attempts=3, last_error="no class 3 in the data\nsecond line"),
        job("mlp-realistic", status="completed", artifact_id="ab" * 32, completed_at=1.7e9),
    )
    with FakeApi(*rows) as fake:
        fake.workers = [worker("pi", last_seen_at=1.7e9 - 3)]
        yield fake


class TestReading:
    def test_status_shows_counts_hosts_running_and_the_actual_error(self, api: FakeApi) -> None:
        done = run(api, "status")
        assert done.code == exits.OK
        assert "1 running   1 pending   1 FAILED   1 done   of 4 jobs" in done.out
        assert "no class 3 in the data\n" in done.out
        assert "second line" not in done.out

    def test_status_asks_one_question(self, api: FakeApi) -> None:
        run(api, "status")
        assert api.seen == ["GET /v1/overview"]

    def test_status_names_the_pending_jobs_that_no_host_can_run(self, api: FakeApi) -> None:
        api.stuck = [
            {
                "reason": "no CUDA",
                "n_jobs": 1,
                "jobs": ["gbt-realistic"],
                "next": "cis490-jobs why gbt-realistic",
            }
        ]
        assert "next: cis490-jobs why gbt-realistic" in run(api, "status").out
        assert [row["jobs"] for row in run(api, "status", "--json").json["stuck"]] == [["gbt-realistic"]]

    def test_status_check_tells_by_its_exit_code_what_is_wrong(self, api: FakeApi) -> None:
        assert run(api, "status").code == exits.OK
        assert run(api, "status", "--check").code == exits.JOB_FAILED
        del api.jobs[2]
        assert run(api, "status", "--check").code == exits.OK
        api.workers = [worker("pi", live=False)]
        assert run(api, "status", "--check").code == exits.TROUBLE

    def test_list_passes_the_status_on(self, api: FakeApi) -> None:
        assert [row["name"] for row in run(api, "list", "--status", "failed", "--json").json["jobs"]] == [
            "mlp-oracle"
        ]

    def test_show_prints_the_whole_error(self, api: FakeApi) -> None:
        assert "    | second line" in run(api, "show", "mlp-oracle").out

    def test_workers_prints_capabilities(self, api: FakeApi) -> None:
        assert "models  gbt, mlp" in run(api, "workers").out

    def test_why_prints_the_receivers_summary(self, api: FakeApi) -> None:
        assert run(api, "why", "gbt-realistic").out.startswith("gbt-realistic waits.")

    def test_why_host_asks_once_however_much_waits(self, api: FakeApi) -> None:
        api.idle = host_eligibility(api.workers[0], waiting(check("model", True)), running=(api.jobs[1],))
        done = run(api, "why", "--host", "pi")
        assert "running: gbt-oracle" in done.out
        assert "gbt-realistic  yes   can start here" in done.out
        assert [line for line in api.seen if "resolve" not in line] == ["GET /v1/host/pi/eligibility"]

    def test_why_of_an_unknown_host_suggests_one(self, api: FakeApi) -> None:
        done = run(api, "why", "--host", "pii")
        assert done.code == exits.USAGE
        assert "did you mean pi?" in done.err

    @pytest.mark.parametrize(
        ("argv", "key"),
        [
            (("status",), "problems"),
            (("list",), "jobs"),
            (("show", "mlp-oracle"), "job"),
            (("workers",), "workers"),
            (("why", "gbt-oracle"), "hosts"),
            (("why", "--host", "pi"), "classes"),
            (("cancel", "gbt-oracle"), "ok"),
            (("requeue", "mlp-oracle"), "ok"),
            (("reload",), "counts"),
        ],
    )
    def test_every_verb_answers_in_json(self, api: FakeApi, argv: tuple[str, ...], key: str) -> None:
        assert key in run(api, *argv, "--json").json
        assert key in run(api, "--json", *argv).json

    def test_piped_output_is_tab_separated_and_whole(self, api: FakeApi) -> None:
        rows = [line.split("\t") for line in run(api, "list", terminal=False).out.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert "no class 3 in the data\\nsecond line" in rows[3]


class TestNaming:
    def test_a_job_may_be_named_by_a_unique_prefix_of_its_id(self, api: FakeApi) -> None:
        assert run(api, "show", api.jobs[1]["job_id"][:14], "--json").json["job"]["name"] == "gbt-oracle"
        assert run(api, "show", api.jobs[1]["job_id"].upper(), "--json").json["job"]["name"] == "gbt-oracle"

    def test_an_ambiguous_prefix_lists_the_candidates(self, api: FakeApi) -> None:
        done = run(api, "show", api.jobs[0]["job_id"][:6])
        assert done.code == exits.USAGE
        assert "may mean any of 2 jobs" in done.err
        assert api.jobs[0]["job_id"] in done.err
        assert api.jobs[1]["job_id"] in done.err

    def test_a_prefix_of_three_characters_is_not_looked_for(self, api: FakeApi) -> None:
        assert run(api, "show", api.jobs[2]["job_id"][:3]).code == exits.USAGE

    def test_an_unknown_name_is_answered_with_the_nearest(self, api: FakeApi) -> None:
        done = run(api, "cancel", "gbt-realstic")
        assert done.code == exits.USAGE
        assert 'no job is called "gbt-realstic"; did you mean gbt-realistic?' in done.err
        assert not [line for line in api.seen if line.startswith("POST")]

    def test_a_job_and_a_host_may_be_named_by_a_prefix_that_no_other_shares(self, api: FakeApi) -> None:
        assert run(api, "show", "mlp-o", "--json").json["job"]["name"] == "mlp-oracle"
        assert run(api, "show", "mlp").code == exits.USAGE
        assert run(api, "drain", "p").code == exits.OK
        assert "POST /v1/host/pi/drain" in api.seen[-1]

    def test_an_unknown_host_is_answered_with_the_nearest(self, api: FakeApi) -> None:
        done = run(api, "drain", "pii")
        assert (done.code, "did you mean pi?" in done.err) == (exits.USAGE, True)

    def test_the_name_of_a_replaced_job_means_its_successor(self) -> None:
        old, new = job(held=True, job_id="a" * 64), job(job_id="b" * 64)
        assert naming.find_job([old, new], "gbt-realistic") is new
        assert naming.find_job([old, new], "aaaa") is old
        assert naming.find_job([old], "gbt-realistic") is old


class TestOperating:
    def test_cancel_and_requeue_post_to_the_jobs_id(self, api: FakeApi) -> None:
        assert run(api, "cancel", "gbt-oracle").out.startswith(
            "gbt-oracle: cancelled (was running); pi stops it"
        )
        assert run(api, "requeue", "mlp-realistic", "--force").code == exits.OK
        posted = [line for line in api.seen if line.startswith("POST")]
        assert posted[0].startswith(f"POST /v1/job/{api.jobs[1]['job_id']}/cancel")
        assert posted[1] == f'POST /v1/job/{api.jobs[3]["job_id"]}/requeue {{"force": true}}'

    def test_a_refused_requeue_says_why_and_what_to_type(self, api: FakeApi) -> None:
        path = f"/v1/job/{api.jobs[3]['job_id']}/requeue"
        api.refusals[path] = (
            409,
            {"ok": False, "error": "the job is completed; only an explicit force repeats it"},
        )
        done = run(api, "requeue", "mlp-realistic")
        assert done.code == exits.REFUSED
        assert (
            "only an explicit force repeats it\n  next: cis490-jobs requeue mlp-realistic --force" in done.err
        )

    def test_a_refused_cancel_of_a_finished_job_does_not_suggest_to_train_it_again(
        self, api: FakeApi
    ) -> None:
        path = f"/v1/job/{api.jobs[3]['job_id']}/cancel"
        api.refusals[path] = (409, {"ok": False, "error": "the job is already completed"})
        assert "next: cis490-jobs show mlp-realistic\n" in run(api, "cancel", "mlp-realistic").err

    def test_a_wrong_token_names_the_variable_and_not_the_token(self, api: FakeApi) -> None:
        done = run(api, "reload", token="guess-1")
        assert done.code == exits.REFUSED
        assert f"export {exits.TOKEN_VARIABLE}" in done.err
        assert "guess-1" not in done.err

    @pytest.mark.parametrize("token", ["schlüssel", "two\nlines"])
    def test_a_token_that_no_header_can_carry_is_refused_before_anything_is_sent(
        self, api: FakeApi, token: str
    ) -> None:
        done = run(api, "reload", token=token)
        assert (done.code, api.seen) == (exits.USAGE, [])
        assert token not in done.err

    def test_a_closed_operator_door_says_how_to_open_it(self, api: FakeApi) -> None:
        api.refusals["/v1/manifest/reload"] = (403, {"ok": False, "error": "operator control is disabled"})
        done = run(api, "reload")
        assert "operator control is disabled" in done.err
        assert f"start the receiver with {exits.TOKEN_VARIABLE} set" in done.err

    def test_reload_prints_the_counts(self, api: FakeApi) -> None:
        assert "14 jobs\n  2 added, 0 updated, 12 unchanged" in run(api, "reload").out

    def test_reload_of_a_faulty_manifest_prints_every_fault_and_exits_78(self, api: FakeApi) -> None:
        api.refusals["/v1/manifest/reload"] = (400, {"ok": False, "error": FAULTS})
        done = run(api, "reload")
        assert done.code == 78
        assert FAULTS in done.err
        assert done.out == ""


class TestUnreachable:
    def test_no_receiver_exits_3_and_names_the_address_and_the_command_that_starts_one(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            done = run(url, "status")
        assert done.code == exits.UNREACHABLE
        assert url in done.err
        assert "systemctl start cis490-trainer-receiver" in done.err

    def test_an_answer_of_another_program_counts_as_no_receiver(self, api: FakeApi) -> None:
        with FakeApi() as other:
            other.refusals["/v1/jobs"] = (200, {"hello": "world"})
            assert run(other, "list").code == exits.UNREACHABLE

    def test_the_option_wins_over_the_environment(self, api: FakeApi) -> None:
        assert run("http://127.0.0.1:9", "list", "--url", api.url).code == exits.OK
        assert run("http://127.0.0.1:9", "--url", api.url, "list").code == exits.OK

    @pytest.mark.parametrize("url", ["ftp://pi", "127.0.0.1:8445", "unix:relative.sock"])
    def test_an_address_that_cannot_be_one_is_a_usage_fault(self, url: str) -> None:
        done = run(url, "list")
        assert done.code == exits.USAGE
        assert "http://HOST:PORT" in done.err

    def test_a_unix_socket_is_an_address(self, tmp_path: Path) -> None:
        done = run(f"unix:{tmp_path}/none.sock", "list")
        assert done.code == exits.UNREACHABLE
        assert f"unix:{tmp_path}/none.sock" in done.err


class TestCommandLine:
    @pytest.mark.parametrize(
        "argv", [(), ("stauts",), ("show",), ("why",), ("why", "a", "--host", "b"), ("list", "--status", "x")]
    )
    def test_wrong_usage_exits_2(self, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run("http://127.0.0.1:9", *argv)
        assert stop.value.code == exits.USAGE
        assert "usage: cis490-jobs" in capsys.readouterr().err

    def test_help_lists_every_exit_code_and_variable(self) -> None:
        text = cli.parser().format_help()
        assert all(f"  {code:<4} {meaning}" in text for code, meaning in exits.EXIT_CODES.items())
        assert exits.TOKEN_VARIABLE in text
        assert exits.URL_VARIABLE in text

    def test_every_verb_of_the_command_line_can_be_carried_out(self) -> None:
        assert set(sub_parsers()) == set(verbs.ACTS)

    def test_the_token_is_never_an_argument(self) -> None:
        assert "--token" not in cli.parser().format_help()

    def test_the_page_describes_every_verb_option_exit_code_and_variable(self) -> None:
        page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
        for name, verb in sub_parsers().items():
            section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
            for action in verb._actions:
                for option in set(action.option_strings) - {
                    "-h",
                    "--help",
                    "--url",
                    "--credentials",
                    "--json",
                }:
                    assert option in section, f"{name} {option}"
        assert all(f"| {code} | {meaning} |" in page for code, meaning in exits.EXIT_CODES.items())
        everywhere = (
            "--url", "--credentials", "--json", exits.TOKEN_VARIABLE, exits.URL_VARIABLE,
            exits.CREDENTIALS_VARIABLE, exits.DEFAULT_URL,
        )  # fmt: skip
        assert all(word in page for word in everywhere)

    def test_help_imports_neither_the_client_nor_any_screen(self) -> None:
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from training.fleet import cli; cli.parser().format_help()\n"
            "print({'http.client', 'json', 'dataclasses', 'training.fleet.verbs'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout == "set()\n"

    def test_a_closed_pipe_ends_it_quietly(self, api: FakeApi) -> None:
        api.jobs = [job(f"m{at:05}-oracle", last_error="x" * 100) for at in range(2000)]
        done = piped(api, os.close)
        assert (done.code, done.err) == (exits.OK, "")

    def test_the_script_of_a_checkout_runs_from_any_folder(self, api: FakeApi, tmp_path: Path) -> None:
        script = [sys.executable, str(ROOT / "tools/cis490_jobs.py"), "list", "--url", api.url]
        done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("NAME\tSTATUS\t")


def sub_parsers() -> Mapping[str, Any]:
    (action,) = (action for action in cli.parser()._actions if action.dest == "verb")
    choices = action.choices
    assert isinstance(choices, Mapping)
    return choices


def piped(api: FakeApi, read: Callable[[int], None]) -> Result:
    """`list` in a process whose output goes to a pipe that `read` does with as it likes."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "training.fleet.cli", "list", "--url", api.url]
    with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        read(reader)
        _, err = process.communicate(timeout=30)
    return Result(process.returncode, "", err)
