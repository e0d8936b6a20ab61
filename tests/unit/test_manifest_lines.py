"""The line index: where each key of a TOML text stands."""

import tomllib
from pathlib import Path

import pytest

from training.fleet import toml_lines
from training.fleet.toml_lines import index_lines

FIXTURE = Path(__file__).with_name("every_toml_form.toml").read_text("utf-8")


def every_path(value: object, path: toml_lines.Path = ()) -> list[toml_lines.Path]:
    """The paths of all values inside a parsed TOML document."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    paths = [found for key, item in inner for found in every_path(item, (*path, key))]
    return [path, *paths] if path else paths


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("path", "with.dot", 'and "quote"'), 3),
        (("tab\there",), 4),
        (("point", "y z", "deep", "er", 1), 5),
        (("policy",), 7),
        (("policy", "text"), 8),
        (("policy", "empty"), 9),
        (("jobs",), 11),
        (("jobs", 0), 11),
        (("jobs", 0, "model"), 12),
        (("jobs", 0, "after_literal"), 15),
        (("jobs", 0, "sizes"), 16),
        (("jobs", 0, "sizes", 0), 17),
        (("jobs", 0, "sizes", 1), 19),
        (("jobs", 0, "sizes", 2, "a"), 19),
        (("jobs", 0, "sizes", 3, 0), 20),
        (("jobs", 0, "sizes", 3, 1), 21),
        (("jobs", 0, "escaped"), 24),
        (("jobs", 0, "last"), 27),
        (("jobs", 0, "hyper"), 28),
        (("jobs", 0, "hyper", "dropout"), 29),
        (("jobs", 0, "parts", 0), 30),
        (("jobs", 0, "parts", 0, "part"), 31),
        (("jobs", 0, "parts", 1, "part"), 33),
        (("jobs", 1), 35),
        (("jobs", 1, "hyper"), 36),
        (("jobs", 1, "hyper", "dropout"), 36),
        (("jobs", 1, "hyper", "more"), 37),
        (("jobs", 1, "parts", 0), 38),
        (("jobs", 1, "parts", 0, "part"), 39),
    ],
)
def test_a_key_is_found_in_its_line(path: toml_lines.Path, line: int) -> None:
    assert index_lines(FIXTURE).line(path) == line


def test_every_key_of_the_fixture_is_known() -> None:
    index = index_lines(FIXTURE)

    assert [path for path in every_path(tomllib.loads(FIXTURE)) if path not in index] == []


def test_nothing_inside_texts_and_comments_is_taken_for_a_key() -> None:
    index = index_lines(FIXTURE)

    assert ("jobs", 2) not in index
    assert ("jobs", 0, "not a table") not in index


def test_windows_line_ends_count_once() -> None:
    assert index_lines("a = 1\r\n\r\n[b]\r\nc = 2\r\n").line(("b", "c")) == 4


def test_an_unknown_key_gets_the_line_of_the_table_around_it() -> None:
    index = index_lines("\n[a]\nb = 1\n")

    assert index.line(("a", "none", "deeper")) == 2
    assert index.line(("none",)) == 1
    assert index.line(()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "= 1",
        "[",
        "[[",
        "[]",
        "[[]]",
        "a = [",
        "a = [}",
        "a = {",
        "a = {]",
        "a = {b = }",
        '"a',
        "\\",
        "a = ",
    ],
)
def test_a_broken_text_is_skipped_without_an_error(text: str) -> None:
    assert index_lines(f"{text}\n[ok]\n").line(("nowhere",)) == 1


def test_a_broken_line_does_not_hide_the_next() -> None:
    assert index_lines("?? what\n!\n[ok]\nb = 1 ]\nc = 2\n").line(("ok", "c")) == 5


def test_a_key_with_a_wrong_escape_is_taken_as_written() -> None:
    assert index_lines('\n"a\\q" = 1\n').line(("a\\q",)) == 2


def test_very_deep_nesting_ends_the_scan_without_an_error() -> None:
    index = index_lines("a = 1\nb = " + "[" * 100_000 + "]" * 100_000 + "\nc = 1\n")

    assert index.line(("b", *[0] * 1000)) == 2
    assert index.line(("c",)) == 1
