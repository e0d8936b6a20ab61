"""Every code and word that the fleet prints is explained, and nothing is explained that it does not print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from tests.factories.command import run
from training.fleet import exits, worker_settings
from training.fleet.codes import CODES, SECTIONS, find
from training.fleet.eligibility import HostView, Requirement, Rules, checks
from training.fleet.lifecycle import AttemptOutcome
from training.fleet.outcome import FAIL_CLASS_OF
from training.fleet.types import FAIL_CLASSES, STATUSES

FLEET = Path(worker_settings.__file__).parent
NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens: `explain` must not ask."""


def printed() -> set[str]:
    """Every code that stands in the program, as a text of its own or in brackets at the end of a message."""
    found: set[str] = set()
    for path in FLEET.glob("*.py"):
        if path.name not in ("codes.py", "code_words.py"):
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"""["'\[]([EW]\d{3})["'\]]""", text))
    return found


def test_every_code_that_the_program_prints_is_explained_and_no_other() -> None:
    assert {code for code in CODES if re.fullmatch(r"[EW]\d{3}", code)} == printed()


def test_every_class_of_failure_state_and_outcome_is_explained() -> None:
    assert {*FAIL_CLASSES, *STATUSES, *get_args(AttemptOutcome)} - set(CODES) == set()


def test_every_exit_code_of_the_trainer_is_explained_with_its_class() -> None:
    for code, fail_class in FAIL_CLASS_OF.items():
        entry = CODES[str(code)]
        assert f"`{fail_class}`" in entry.meaning


def test_every_constraint_that_why_judges_is_explained() -> None:
    wish = Requirement("gbt", prefer_cuda=True, more_vram_than_gib=1.0, more_ram_than_gib=1.0)
    judged = {check.constraint for check in checks(wish, HostView("a"), (), Rules())}
    written = re.findall(
        r'Check\(\s*"([a-z_]+)"', "".join(path.read_text("utf-8") for path in FLEET.glob("*.py"))
    )
    assert (judged | set(written)) - set(CODES) == set()
    (section,) = [section for section in SECTIONS if section.title == "Constraints"]
    assert {entry.code for entry in section.entries} - (judged | set(written)) == {"in_manifest"} - set(
        written
    )


@pytest.mark.parametrize("code", CODES)
def test_an_entry_is_complete_and_says_what_to_do(code: str) -> None:
    entry = CODES[code]
    assert entry.title
    assert not entry.title.endswith(".")
    assert entry.meaning.endswith(".")
    assert entry.action
    if re.fullmatch(r"[EW]\d{3}", code):
        assert entry.example


def test_no_code_stands_twice() -> None:
    assert sum(len(section.entries) for section in SECTIONS) == len(CODES)


@pytest.mark.parametrize("word", ["e104", "E104", "OOM", "bad-config", "78", "Min_Vram_Gib"])
def test_capitals_and_dashes_do_not_matter(word: str) -> None:
    assert find(word) is not None


@pytest.mark.parametrize("code", CODES)
def test_explain_prints_every_entry_without_a_receiver(code: str) -> None:
    done = run(NOWHERE, "explain", code)
    assert done.code == exits.OK
    assert done.out.startswith(f"{code}: {CODES[code].title}")
    assert max(map(len, done.out.splitlines())) <= 120


def test_explain_works_with_an_address_and_a_token_that_cannot_be_used() -> None:
    assert run("nonsense", "explain", "oom", token="\u201cx").code == exits.OK


def test_explain_lists_them_all() -> None:
    assert [code for code in CODES if f"  {code} " not in run(NOWHERE, "explain").out] == []
    piped = run(NOWHERE, "explain", terminal=False).out.splitlines()
    assert piped[0] == "CODE\tTITLE"
    assert len(piped) == len(CODES) + 1
    assert len(run(NOWHERE, "explain", "--json").json["codes"]) == len(CODES)


def test_explain_in_a_pipe_and_in_json() -> None:
    header, row = run(NOWHERE, "explain", "E104", terminal=False).out.splitlines()
    assert header.split("\t") == ["CODE", "TITLE", "MEANING", "ACTION", "EXAMPLE"]
    assert row.split("\t")[0] == "E104"
    assert run(NOWHERE, "explain", "e104", "--json").json["code"] == "E104"


@pytest.mark.parametrize(
    ("word", "meant"), [("E10", "E1"), ("omo", "oom"), ("timeuot", "timeout"), ("e1104", "E1")]
)
def test_a_misspelt_code_gets_a_suggestion(word: str, meant: str) -> None:
    done = run(NOWHERE, "explain", word)
    assert done.code == exits.USAGE
    assert f"did you mean {meant}" in done.err
    assert "[E011]" in done.err
