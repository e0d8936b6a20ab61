"""The text of a join token: what is whole is read as it was written, all else is refused without being repeated."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fleet import join_token
from training.fleet.join_token import PREFIX, JoinToken, TokenFault

FIELDS = ["https://192.0.2.7:8446", "receiver.cis490.internal", "host", "pc-1", "ab" * 32, "c2VjcmV0"]
TOKEN = JoinToken(*FIELDS)


def text_of(value: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(
    name=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True),
    root=st.binary(min_size=32, max_size=32),
)
def test_what_was_written_is_read(name: str, root: bytes) -> None:
    token = JoinToken(FIELDS[0], FIELDS[1], "host", name, root.hex(), FIELDS[5])
    assert join_token.parse(token.encode()) == token


@given(at=st.lists(st.integers(0, 300), max_size=6), space=st.sampled_from(["\n", "\r\n", " ", "\t"]))
def test_a_terminal_may_have_broken_it_into_lines(at: list[int], space: str) -> None:
    text = TOKEN.encode()
    for place in sorted(at, reverse=True):
        text = text[:place] + space + text[place:]
    assert join_token.parse(f"  {text}\n") == TOKEN


@given(st.text() | st.text("abcXYZ019-_=", max_size=60).map(lambda tail: PREFIX + tail))
def test_any_other_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(TokenFault):
        join_token.parse(text)


@given(cut=st.integers(len(PREFIX), len(TOKEN.encode()) - 1))
def test_half_a_token_is_refused_and_not_shown(cut: int) -> None:
    half = TOKEN.encode()[:cut]
    with pytest.raises(TokenFault) as fault:
        join_token.parse(half)
    assert half[len(PREFIX) :][:12] not in str(fault.value) or cut < len(PREFIX) + 4


@pytest.mark.parametrize(
    "value",
    [
        {}, [], 7, None, "x", FIELDS[:5], [*FIELDS, "more"], [*FIELDS[:5], 7], [*FIELDS[:5], ""],
        ["http://192.0.2.7:8446", *FIELDS[1:]], [*FIELDS[:4], "ab", FIELDS[5]], [*FIELDS[:4], "zz" * 32, FIELDS[5]],
        ["https://[::1", *FIELDS[1:]], ["https://192.0.2.7:99999", *FIELDS[1:]], ["https://", *FIELDS[1:]],
        ["https://a:b@192.0.2.7:1", *FIELDS[1:]], ["https://192.0.2.7:1/x", *FIELDS[1:]],
        ["https://a b:1", *FIELDS[1:]], [FIELDS[0], "a b", *FIELDS[2:]],
        [*FIELDS[:2], "king", *FIELDS[3:]], [*FIELDS[:3], "../x", *FIELDS[4:]], [*FIELDS[:3], "a\nb", *FIELDS[4:]],
    ],
)  # fmt: skip
def test_json_that_is_no_token_is_refused(value: object) -> None:
    with pytest.raises(TokenFault, match="not whole"):
        join_token.parse(text_of(value))


@pytest.mark.parametrize("address", ["https://[fd00::7]:8446", "https://lab.example.org:8446"])
def test_names_and_addresses_of_either_kind_are_good(address: str) -> None:
    token = JoinToken(address, *FIELDS[1:])
    assert join_token.parse(token.encode()) == token


@pytest.mark.parametrize("mark", ["'", '"', "`"])
def test_quotes_that_were_copied_along_do_not_matter(mark: str) -> None:
    assert join_token.parse(f"{mark}{TOKEN.encode()}{mark}\n") == TOKEN


def test_the_secret_is_in_no_representation() -> None:
    assert TOKEN.secret not in repr(TOKEN)
    assert TOKEN.secret not in f"{[TOKEN]}"
