"""Failpoints: off by default, exact when armed."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cis490 import failpoints
from cis490.failpoints import Armed, parse, strike


def test_nothing_is_armed_without_the_variable() -> None:
    assert parse("") is None
    failpoints.failpoint("store.renamed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("store.renamed=kill", Armed("store.renamed", "kill", 1)),
        ("writer.before_commit:3=full", Armed("writer.before_commit", "full", 3)),
    ],
)
def test_the_variable_names_a_place_a_passage_and_an_action(text: str, expected: Armed) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["store.renamed", "store=nothing", "x:0=kill", "a b=kill", "x=kill "])
def test_any_other_text_is_refused_with_the_form_that_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=ACTION or NAME:N=ACTION"):
        parse(text)


def test_it_strikes_at_the_passage_that_was_named_and_a_full_disk_stays_full() -> None:
    armed = Armed("x", "full", 2)
    strike(armed)
    for _ in range(2):
        with pytest.raises(OSError, match="failpoint x") as caught:
            strike(armed)
        assert caught.value.errno == errno.ENOSPC


def test_a_broken_disk_fails_once() -> None:
    armed = Armed("x", "broken", 1)
    with pytest.raises(OSError, match="failpoint x") as caught:
        strike(armed)
    assert caught.value.errno == errno.EIO
    strike(armed)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_kill_ends_the_process_at_that_place() -> None:
    code = "from cis490.failpoints import failpoint; failpoint('a.b'); print('one'); failpoint('a.b'); print('two')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={"CIS490_FAILPOINT": "a.b:2=kill"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9
    assert "two" not in done.stdout


def test_processes_that_share_tickets_strike_as_often_as_there_are_tickets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").touch()
    monkeypatch.setenv(failpoints.TICKETS_VARIABLE, str(tmp_path))
    with pytest.raises(OSError, match="failpoint x"):
        strike(Armed("x", "broken", 1))
    strike(Armed("x", "broken", 1))
    assert not any(tmp_path.iterdir())
