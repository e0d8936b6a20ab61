"""Named SQL statements: what a block is and what is refused."""

import pytest

from cis490.database.named import NamedSqlError, load

TEXT = """\
-- Statements about colours.

-- name: all_colours
-- Every colour there is,
-- in the order of the rainbow.
SELECT *
  FROM colour  -- a small table
 -- and no WHERE
 ORDER BY wavelength DESC;

-- name: drop_2
DELETE FROM colour WHERE name = ':;'
"""


def test_each_block_becomes_one_statement_without_its_leading_comment() -> None:
    assert load(TEXT) == {
        "all_colours": (
            "SELECT *\n  FROM colour  -- a small table\n -- and no WHERE\n ORDER BY wavelength DESC"
        ),
        "drop_2": "DELETE FROM colour WHERE name = ':;'",
    }


def test_a_text_without_blocks_holds_nothing() -> None:
    assert load("-- only a comment\n\n") == {}


def test_windows_line_ends_make_no_difference() -> None:
    assert load(TEXT.replace("\n", "\r\n")) == load(TEXT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "line 3: the name 'a' stands at line 1 already"),
        ("-- name: a\n-- comment only\n-- name: b\nSELECT 1", "line 1: no statement follows the name 'a'"),
        ("-- name: a\nSELECT 1;\n-- name: b\n;", "line 3: no statement follows the name 'b'"),
        ("\nSELECT 1\n", "line 2: SQL before the first"),
        ("-- name:\nSELECT 1", "line 1: '' is no name"),
        ("--name: two words\nSELECT 1", "line 1: 'two words' is no name"),
        ("-- name: Upper\nSELECT 1", "line 1: 'Upper' is no name"),
    ],
)
def test_a_malformed_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(NamedSqlError, match=message):
        load(text)
