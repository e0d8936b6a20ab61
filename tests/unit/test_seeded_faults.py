"""The table of seeded faults: it cannot rot, and the tool tells a caught fault from a broken program."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tools.seeded_faults import edited, judged
from tools.seeded_faults_table import FAULTS, SeededFault

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_can_still_be_seeded_and_its_tests_exist(fault: SeededFault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert edited(text, fault) != text
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


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
        ('<failure message="ImportError: no module">x</failure>', "", "test_x failed with ImportError"),
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
