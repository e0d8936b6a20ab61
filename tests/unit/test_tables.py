"""Cells, columns and numbers as text."""

from __future__ import annotations

import pytest

from training.fleet import tables


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h 00 min"),
        (4320, "1 h 12 min"),
        (788_400, "9 d 3 h"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (10.0, "10"), (0.211111, "0.2111"), (123456, "123456"), ([1, 2.5], "1, 2.5"),
     ({"a": [1]}, "a 1"), ("", "-"), ([], "-"), (1e300, "1e+300")],
)  # fmt: skip
def test_a_json_value_reads_well(value: object, text: str) -> None:
    assert tables.figure(value) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1024.0 GiB")]
)
def test_a_size_has_a_binary_unit(size_bytes: int, text: str) -> None:
    assert tables.size(size_bytes) == text


def test_printable_text_is_left_alone() -> None:
    assert tables.safe("Größe ok, path C:\\new") == "Größe ok, path C:\\new"


def test_an_escape_sequence_is_shown_not_sent() -> None:
    assert tables.safe("\x1b[31mred\n") == "\\x1b[31mred\\n"


def test_the_gist_of_an_error_is_its_first_line_unless_it_is_a_traceback() -> None:
    assert tables.gist("\n  no data\nmore") == "no data"
    assert tables.gist("Traceback (most recent call last):\n  File x\nKeyError: 'a'\n") == "KeyError: 'a'"
    assert tables.gist(" \n") == ""


def test_only_the_last_column_is_cut_to_the_width() -> None:
    lines = tables.table(["A", "B"], [["a" * 10, "b" * 99]], 40)
    assert lines[1] == "a" * 10 + "  " + "b" * 25 + "..."


def test_a_wrapped_last_column_continues_below_itself() -> None:
    lines = tables.table(["A", "B"], [["a", "word " * 10]], 33, wrap=True)
    assert lines == ["A  B", "a  word word word word word word", "   word word word word"]


def test_a_tab_or_line_end_inside_a_cell_does_not_break_the_row() -> None:
    assert tables.tsv(["A", "B"], [["a\tb", "c\nd"]]) == ["A\tB", "a\\tb\tc\\nd"]


def test_fields_of_the_wrong_type_count_as_absent() -> None:
    row = {"n": "7", "flag": True, "list": {"a": 1}, "object": [1]}
    assert tables.number_of(row, "n") is None
    assert tables.number_of(row, "flag") is None
    assert tables.rows_of(row, "list") == []
    assert tables.words_of(row, "list") == []
    assert tables.row_of(row, "object") == {}
