"""What holds for every verb of `cis490-jobs`: --json, tab-separated pipes, colours, imports. A walk over the parser."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.command import Result
from tests.factories.fleet_pki import FleetPki
from tests.factories.live_receiver import TOKEN
from tests.factories.provenance_facts import FACTS, NOW
from tools.transcripts import Fleet, Screen, a_fleet
from training.fleet import cli, exits, provenance, verb, verbs
from training.fleet.parsing import verbs_of

ROOT = Path(__file__).resolve().parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")

WORDS: dict[str, tuple[str, ...]] = {
    "status": (),
    "list": (),
    "show": ("gbt-oracle",),
    "workers": (),
    "models": (),
    "why": ("gru-realistic",),
    "watch": ("transformer-realistic",),
    "logs": ("mlp-realistic",),
    "events": (),
    "hosts": ("list",),
    "operators": ("list",),
    "plan": (),
    "explain": ("W001",),
    "doctor": ("--url-only",),
    "diff": ("gbt-oracle", "gbt-realistic"),
    "completion": ("bash",),
    "pause": (),
    "resume": (),
    "drain": ("cpu-1",),
    "undrain": ("cpu-1",),
    "verify": ("gbt-oracle", "--no-wait"),
    "notify": ("--test",),
    "gc": ("--dry-run",),
    "reload": ("--yes",),
    "requeue": ("transformer-realistic",),
    "cancel": ("transformer-realistic",),
    "pull": ("gbt-oracle", "--out", "OUT"),
    "verify-provenance": ("RECORD", "--root", "ROOT"),
}
"""A command line of each verb that this fleet can answer."""
NO_TABLE = {"watch": "a line an event", "logs": "what the trainer printed", "completion": "a script"}
"""Verbs whose output in a pipe is no table of its own, and what it is instead."""
ANSWERS_A_SENTENCE = {"cancel", "requeue", "drain", "undrain", "pause", "resume", "reload", "explain"}
"""Verbs that change something, or explain a word, say so in words in a pipe, too."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with a_fleet() as found:
        yield found


def run(
    fleet: Fleet,
    name: str,
    *more: str,
    tmp_path: Path,
    terminal: bool = True,
    env: dict[str, str] | None = None,
) -> Result:
    places = {
        "OUT": tmp_path / "out",
        "RECORD": tmp_path / "record.jsonl",
        "ROOT": tmp_path / "pki/ca/root.pem",
    }
    words = [str(places.get(word, word)) for word in WORDS[name] if word != "--url-only"]
    if "RECORD" in WORDS[name]:
        made = provenance.statement(FACTS)
        places["RECORD"].write_text(provenance.sign(made, FleetPki(tmp_path, now=NOW).signing))
    out, err = Screen(), Screen()
    out.terminal, err.terminal = terminal, False
    given = {
        exits.URL_VARIABLE: fleet.receiver.url,
        exits.TOKEN_VARIABLE: TOKEN,
        **(env or {"NO_COLOR": "1"}),
    }
    here = verb.Terminal(given, out, err, fleet.clock.wall_s, fleet.clock.now_s, 80, lambda seconds: None)
    return Result(cli.run([name, *words, *more], here), out.getvalue(), err.getvalue())


def test_the_walk_misses_no_verb() -> None:
    assert set(WORDS) == set(cli.verbs()) == set(verbs.ACTS)


@pytest.mark.parametrize("name", WORDS)
def test_every_verb_takes_json_and_a_url(name: str) -> None:
    options = {option for action in verbs_of(cli.parser())[name]._actions for option in action.option_strings}
    assert {"--json", "--url", "--help"} <= options


@pytest.mark.parametrize("name", WORDS)
def test_a_verb_alone_is_parsed_as_the_whole_command_line_parses_it(name: str) -> None:
    whole, alone = verbs_of(cli.parser())[name], verbs_of(cli.parser(name))
    assert list(alone) == [name]
    assert alone[name].format_help() == whole.format_help()


@pytest.mark.parametrize("name", WORDS)
def test_every_option_and_value_says_what_it_is_for(name: str) -> None:
    for action in verbs_of(cli.parser())[name]._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            assert action.help, f"{name} {action.option_strings}"


@pytest.mark.parametrize("name", [name for name in WORDS if name not in ("watch", "doctor")])
def test_with_json_a_verb_prints_one_json_value(fleet: Fleet, name: str, tmp_path: Path) -> None:
    done = run(fleet, name, "--json", tmp_path=tmp_path)
    assert isinstance(json.loads(done.out), dict), done.err


@pytest.mark.parametrize(
    "name", [name for name in WORDS if name not in {*NO_TABLE, *ANSWERS_A_SENTENCE, "doctor"}]
)
def test_in_a_pipe_a_verb_prints_tab_separated_columns_under_a_header(
    fleet: Fleet, name: str, tmp_path: Path
) -> None:
    done = run(fleet, name, tmp_path=tmp_path, terminal=False)
    if name == "verify":
        assert done.out, "only started: a sentence"
        return
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert len({len(row) for row in rows}) == 1, rows
    assert len(rows[0]) > 1
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9_ ]*", cell) for cell in rows[0]), rows[0]
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    "env", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
def test_no_escape_sequence_is_printed_where_none_is_wanted(
    fleet: Fleet, env: dict[str, str], tmp_path: Path
) -> None:
    for name in ("status", "list", "workers", "models", "why", "events", "diff", "plan"):
        assert "\x1b" not in run(fleet, name, tmp_path=tmp_path, env=env).out, name


def test_a_colour_says_nothing_that_a_word_does_not(fleet: Fleet, tmp_path: Path) -> None:
    painted = run(fleet, "status", tmp_path=tmp_path, env={"TERM": "xterm"}).out
    assert "\x1b[36m2 running\x1b[0m" in painted or "\x1b[36m1 running\x1b[0m" in painted
    assert ESCAPE.sub("", painted) == run(fleet, "status", tmp_path=tmp_path).out


@pytest.mark.parametrize(
    "name", ["status", "list", "why", "workers", "events", "diff", "plan", "gc", "models", "show", "notify"]
)
def test_a_screen_fits_80_columns_but_for_commands_to_copy(fleet: Fleet, name: str, tmp_path: Path) -> None:
    lines = run(fleet, name, tmp_path=tmp_path).out.splitlines()
    assert [line for line in lines if len(line) > 80 and "cis490-jobs" not in line] == []


def loaded(fleet: Fleet, *argv: str) -> set[str]:
    """The modules that one command in a pipe has loaded at its end."""
    program = (
        "import sys\nfrom training.fleet import cli\n"
        f"cli.main({list(argv)!r})\nprint(' '.join(sys.modules), file=sys.stderr)"
    )
    env = os.environ | {exits.URL_VARIABLE: fleet.receiver.url}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_in_a_pipe_nothing_is_imported_for_drawing(fleet: Fleet) -> None:
    for argv in (("status",), ("list",), ("events",), ("pull", "gbt-oracle", "--out", os.devnull)):
        assert not [name for name in loaded(fleet, *argv) if name.partition(".")[0] == "rich"], argv


def test_status_imports_nothing_that_only_a_worker_or_a_receiver_needs(fleet: Fleet) -> None:
    heavy = {
        "dataclasses",
        "inspect",
        "pathlib",
        "hashlib",
        "difflib",
        "training.fleet.wire",
        "training.fleet.types",
    }
    assert loaded(fleet, "status") & heavy == set()
