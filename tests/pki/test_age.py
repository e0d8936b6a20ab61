"""Files encrypted with a passphrase: they come back whole or not at all, and are what the program `age` writes."""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.pki import age
from cis490.pki.age import PIECE_BYTES, AgeError

PASSPHRASE = "correct horse battery"
WORK = 4
BY_AGE_1_1_1 = (
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBnK2xLc1F2OFBDcTE4Kytic0d5ZytRIDE4Cjl3RThBTS9ZNWMvZTBiNEhMa2NrcEVNZCtS"
    "dzJqMTlpWTlZOGFjRWErUncKLS0tIFdzMzBmdGp1TXdPanFhSjlKNzRRT0k1THJlTFYxVktCRjJ0a3pNay9iVXcKCFUIHAjWaymRvThzU3f89IQF"
    "k/E3cfiTONuinxoBYSzp0hgLfZt3Spk9ZmFhLx9mpXhVFFcq"
)
"""`age -p` of Debian 12, with the passphrase above."""


def sealed(*parts: bytes) -> bytes:
    return b"".join(age.encrypt(parts, PASSPHRASE, secrets.token_bytes, log2_work=WORK))


def opened(data: bytes, passphrase: str = PASSPHRASE) -> bytes:
    return b"".join(age.decrypt(io.BytesIO(data), passphrase))


@pytest.mark.slow
def test_a_file_of_the_program_age_can_be_read() -> None:
    assert opened(base64.b64decode(BY_AGE_1_1_1)) == b"root-key.pem of a lab\n"


def test_what_is_written_has_the_form_of_age() -> None:
    """https://c2sp.org/age: version, stanza with salt and work factor, wrapped key, MAC; then the payload."""
    lines = sealed(b"x").split(b"\n", 4)
    assert lines[0] == b"age-encryption.org/v1"
    assert (lines[1][:10], lines[1][-2:]) == (b"-> scrypt ", b" 4")
    assert (len(lines[2]), lines[3][:4], len(lines[3])) == (43, b"--- ", 47)
    assert len(lines[4]) == 16 + 1 + 16


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_every_size_comes_back(size: int) -> None:
    data = secrets.token_bytes(size)
    assert opened(sealed(data)) == data


@given(st.lists(st.binary(max_size=100_000), max_size=5))
@settings(max_examples=20)
def test_how_the_content_is_handed_over_does_not_matter(parts: list[bytes]) -> None:
    assert opened(sealed(*parts)) == b"".join(parts)


def test_two_files_of_the_same_content_have_nothing_in_common() -> None:
    one, two = sealed(b"same"), sealed(b"same")
    assert one.split(b"\n", 1)[1][:60] != two.split(b"\n", 1)[1][:60]
    assert one[-20:] != two[-20:]


def test_a_wrong_passphrase_is_told_from_damage() -> None:
    with pytest.raises(AgeError, match="the passphrase is not the one of this file"):
        opened(sealed(b"x"), "correct horse batterY")


def payload_at(data: bytes) -> int:
    return data.index(b"\n", data.index(b"--- ")) + 1 + 16


@pytest.mark.parametrize(
    "left", [0, 1, 16, 17, PIECE_BYTES + 16, PIECE_BYTES + 17, 2 * (PIECE_BYTES + 16)], ids=str
)
def test_a_file_cut_short_is_refused_also_between_two_pieces(left: int) -> None:
    data = sealed(bytes(2 * PIECE_BYTES + 5))
    with pytest.raises(AgeError, match=r"damaged or cut short|ends early"):
        opened(data[: payload_at(data) + left])


def test_pieces_that_changed_places_are_refused() -> None:
    data = sealed(bytes(3 * PIECE_BYTES))
    at, size = payload_at(data), PIECE_BYTES + 16
    with pytest.raises(AgeError, match="at its piece 1"):
        opened(data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :])


def test_something_behind_the_end_is_refused() -> None:
    with pytest.raises(AgeError, match="damaged or cut short"):
        opened(sealed(b"x") + b"y")


@given(st.data())
@settings(max_examples=100)
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    good = sealed(b"the keys of the lab")
    at = data.draw(st.integers(0, len(good) - 1))
    to = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    with pytest.raises(AgeError):
        opened(good[:at] + bytes([to]) + good[at + 1 :])


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_what_nobody_wrote_is_refused_and_never_breaks_the_reader(noise: bytes) -> None:
    for data in (noise, b"age-encryption.org/v1\n" + noise):
        with pytest.raises(AgeError):
            opened(data)


def test_a_file_for_a_key_pair_is_not_for_a_passphrase() -> None:
    with pytest.raises(AgeError, match="encrypted to something else than a passphrase"):
        opened(b"age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\n")


def test_a_file_that_would_eat_all_memory_is_refused_before_it_does() -> None:
    with pytest.raises(AgeError, match=r"2\^30 steps; at most 2\^20"):
        opened(b"age-encryption.org/v1\n-> scrypt " + b"A" * 22 + b" 30\n" + b"A" * 43 + b"\n--- abc\n")


def test_the_file_that_is_encrypted_is_never_whole_in_memory() -> None:
    taken = 0

    def parts() -> Iterable[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(PIECE_BYTES)

    pieces = age.encrypt(parts(), PASSPHRASE, secrets.token_bytes, log2_work=WORK)
    next(pieces)
    next(pieces)
    assert taken <= 2
