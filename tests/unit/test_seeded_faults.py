"""The table of seeded faults: it cannot rot, and the tool tells a caught fault from a broken program."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.seeded_faults import FOLDER_VARIABLE, LEFT_OUT, edited, end_what_is_left, judged
from tools.seeded_faults_table import FAULTS, SeededFault

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_can_still_be_seeded_and_its_tests_exist(fault: SeededFault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert edited(text, fault) != text
    for test in fault.tests:
        file, *names = test.split("::")
        at: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        for name in names:
            found = [one for one in ast.iter_child_nodes(at) if getattr(one, "name", None) == name]
            assert found, f"{test}: there is no {name}"
            at = found[0]


def test_a_copy_holds_nothing_that_set_up_or_a_tool_made() -> None:
    """Each fault gets a copy; an environment with torch is a gigabyte."""
    made = re.findall(r"(?m)^/([\w.-]+)/$", (ROOT / ".gitignore").read_text(encoding="utf-8"))
    assert {".venv-full", "demo-full", "results"} <= set(made)
    assert set(made) - LEFT_OUT(str(ROOT), made) == set()


def test_names_are_given_once() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 12


@pytest.mark.parametrize("text", ["", "x = 1\nx = 1\n"])
def test_an_edit_that_does_not_fit_exactly_once_is_refused_in_words(text: str) -> None:
    fault = dataclasses.replace(FAULTS[0], old="x = 1\n")
    with pytest.raises(ValueError, match="expected once; adjust the row"):
        edited(text, fault)


@pytest.mark.parametrize(
    ("inside", "caught_by", "problem"),
    [
        ('<failure message="AssertionError: lost">x</failure>', "test_x", ""),
        ('<failure message="assert 1 == 2">x</failure>', "test_x", ""),
        ('<failure message="Failed: DID NOT RAISE">x</failure>', "test_x", ""),
        ('<failure message="ImportError: no module">x</failure>', "", "test_x failed with ImportError"),
        ('<failure message="TypeError: None">x</failure>', "", "test_x failed with TypeError"),
        ('<error message="failed on setup">x</error>', "", "test_x could not run"),
        ("", "", "no test failed"),
    ],
)
def test_only_a_test_that_failed_by_its_own_judgement_counts(
    inside: str, caught_by: str, problem: str
) -> None:
    found = judged(
        f'<testsuites><testsuite><testcase name="test_x">{inside}</testcase></testsuite></testsuites>'
    )
    assert found[0] == caught_by
    assert found[1].startswith(problem)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_what_a_run_leaves_behind_is_ended_and_nothing_else(tmp_path: Path) -> None:
    """By its environment, its command or its working folder: a guard's trainer keeps none of them for sure."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    left = [
        subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, env={FOLDER_VARIABLE: str(folder)}
        ),
        subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, cwd=folder, env={}),
        subprocess.Popen([*command, f"{folder}/x"], start_new_session=True, stdout=subprocess.PIPE, env={}),
    ]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env={})
    for process in (*left, other):
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert end_what_is_left(folder) == 3
    assert [process.wait(10) for process in left] == [-9, -9, -9]
    assert other.poll() is None
    other.kill()
    other.wait()
