"""Completion: what may stand where, and the scripts in real shells as far as they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.factories.command import run
from tests.factories.fake_api import FakeApi, job, worker
from training.fleet import cli
from training.fleet.completion import EMPTY, FILES, SCRIPTS, candidates

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    "jobs": ["gbt-oracle", "gbt-realistic", "mlp-oracle"],
    "hosts": ["gpu-1", "pi"],
    "artifacts": ["ab" * 32],
}


def ask(kind: str) -> Iterable[str]:
    return KNOWN.get(kind, ["pending", "running"] if kind == "states" else [])


def offered(*words: str) -> list[str]:
    return candidates(cli.parser(), words, ask)


class TestCandidates:
    def test_the_first_word_is_a_verb(self) -> None:
        assert offered("sta") == ["status"]
        assert {"status", "why", "watch", "plan"} <= set(offered(""))

    def test_a_job_is_offered_where_the_help_says_job(self) -> None:
        assert offered("show", "gbt-") == ["gbt-oracle", "gbt-realistic"]
        assert offered("--url", "http://x", "cancel", "m") == ["mlp-oracle"]

    def test_a_host_is_offered_where_the_help_says_host(self) -> None:
        assert offered("drain", "") == ["gpu-1", "pi"]
        assert offered("why", "--host", "p") == ["pi"]
        assert offered("why", "--host=p") == ["--host=pi"]
        assert offered("why", "--host", "=", "p") == ["pi"], "bash makes a word of the ="

    def test_an_artifact_is_offered_beside_jobs(self) -> None:
        assert offered("diff", "gbt-oracle", "ab") == ["ab" * 32]

    def test_options_are_those_of_the_verb(self) -> None:
        assert "--force" in offered("requeue", "--")
        assert "--force" not in offered("status", "--")
        assert offered("status", "--js") == ["--json"]

    def test_the_values_of_an_option_and_of_choices(self) -> None:
        assert offered("list", "--status", "p") == ["pending"]
        assert offered("completion", "") == ["bash", "fish", "powershell", "zsh"]

    def test_a_path_is_left_to_the_shell(self) -> None:
        assert offered("pull", "gbt-oracle", "--out", "") == [FILES]

    @pytest.mark.parametrize(
        "words", [("nonsense", ""), ("show", "gbt-oracle", ""), ("drain", "--reason", "x")]
    )
    def test_where_nothing_is_known_nothing_is_offered(self, words: tuple[str, ...]) -> None:
        assert offered(*words) == []

    def test_a_name_of_every_verb_is_offered_by_its_own_beginning(self) -> None:
        for verb in cli.verbs():
            assert verb in offered(verb[:2])


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a program `cis490-jobs`, as an installation puts one into the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "cis490-jobs"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m training.fleet.cli "$@"\n')
    path.chmod(0o755)
    return folder


def shell(program: Path, url: str, *argv: str) -> str:
    env = os.environ | {
        "PATH": f"{program}:{os.environ['PATH']}", "CIS490_RECEIVER_URL": url, "HOME": str(program), "TERM": "dumb",
    }  # fmt: skip
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_receiver_it_is_silent_and_verbs_are_still_offered(program: Path) -> None:
    here = str(program / "cis490-jobs")
    assert shell(program, "http://127.0.0.1:9", here, "__complete", "--", "show", "") == ""
    assert shell(program, "nonsense", here, "__complete", "--", "sta") == "status\n"


def test_an_empty_word_that_a_shell_cannot_pass_has_a_stand_in(program: Path) -> None:
    with FakeApi(job("gbt-oracle")) as api:
        here = str(program / "cis490-jobs")
        assert shell(program, api.url, here, "__complete", "--", "show", EMPTY) == "gbt-oracle\n"


def test_a_name_that_a_shell_would_take_for_code_is_not_offered(program: Path) -> None:
    with FakeApi(job("gbt-oracle"), job("$(reboot)"), job("a\x1b[2J")) as api:
        here = str(program / "cis490-jobs")
        assert shell(program, api.url, here, "__complete", "--", "show", "") == "gbt-oracle\n"


def test_bash_completes_verbs_jobs_and_paths(program: Path) -> None:
    (program / "folder-x").mkdir()
    test = f"""
        source <(cis490-jobs completion bash); cd "{program}"
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$((COMP_CWORD)); COMP_CWORD=$(($#-1)); COMPREPLY=(); _cis490_jobs
                 echo "${{COMPREPLY[*]}}"; }}
        try cis490-jobs canc
        try cis490-jobs show gb
        try cis490-jobs drain ''
        try cis490-jobs pull gbt-oracle --out fold
    """
    with FakeApi(job("gbt-oracle"), job("gbt-realistic")) as api:
        api.workers = [worker("pi")]
        found = shell(program, api.url, "bash", "-c", test).splitlines()
    assert found == ["cancel", "gbt-oracle gbt-realistic", "pi", "folder-x"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_verbs_and_jobs(program: Path) -> None:
    test = "cis490-jobs completion fish | source; complete -C 'cis490-jobs canc'; complete -C 'cis490-jobs show gb'"
    with FakeApi(job("gbt-oracle"), job("mlp-oracle")) as api:
        assert shell(program, api.url, "fish", "--no-config", "-c", test).split() == ["cancel", "gbt-oracle"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_verbs_and_jobs(program: Path) -> None:
    test = """
        autoload -Uz compinit && compinit -D
        source <(cis490-jobs completion zsh)
        compadd() { shift; print -r -- "$@" }
        words=(cis490-jobs canc); CURRENT=2; _cis490_jobs
        words=(cis490-jobs show gb); CURRENT=3; _cis490_jobs
    """
    with FakeApi(job("gbt-oracle"), job("mlp-oracle")) as api:
        assert shell(program, api.url, "zsh", "-f", "-c", test).split() == ["cancel", "gbt-oracle"]


def test_the_scripts_name_no_verb_so_that_none_gets_stale() -> None:
    for script in SCRIPTS.values():
        assert not [verb for verb in ("status", "why", "cancel") if verb in script]
        assert "__complete" in script


def test_completion_prints_the_script() -> None:
    done = run("http://127.0.0.1:9", "completion", "powershell", terminal=False)
    assert (done.code, "Register-ArgumentCompleter" in done.out) == (0, True)
    assert run("http://127.0.0.1:9", "completion", "zsh", "--json").json["shell"] == "zsh"
