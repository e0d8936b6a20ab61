"""The dates of a certificate, read without a library, are those that the library reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis490.pki import certificates as pki
from cis490.pki.certificates import Issuer
from training.fleet.certificate_dates import Dates, NoDates, dates_of

START = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
ROOT = pki.make_root("a root", now=START - timedelta(days=9000), lifetime=timedelta(days=36_500))
KEY = pki.new_key()


def leaf(
    *, now: datetime = START, days: float = 30.0, serial: int | None = None, name: str = "pc-1"
) -> bytes:
    made = pki.issue(
        Issuer(ROOT.certificate, ROOT.key), KEY.public_key(), "clients", name=name, now=now,
        lifetime=timedelta(days=days), uri="spiffe://lab/host/pc-1", serial=serial,
    )  # fmt: skip
    return pki.chain_pem(made)


@given(
    now=st.integers(1_262_304_000, 3_786_912_000).map(lambda at_s: datetime.fromtimestamp(at_s, UTC)),
    days=st.integers(1, 500),
    serial=st.integers(1, 2**158),
    name=st.text("abc ", min_size=1, max_size=60),
)
def test_dates_and_serial_are_those_of_the_library(
    now: datetime, days: int, serial: int, name: str
) -> None:  # from 2050 on, dates are written in another form
    pem = leaf(now=now, days=days, serial=serial, name=name)
    known = pki.load_certificates(pem)[0]
    assert dates_of(pem) == Dates(
        known.not_valid_before_utc.timestamp(), known.not_valid_after_utc.timestamp(), pki.serial_of(known)
    )


def test_the_first_certificate_of_a_file_counts_whatever_else_is_in_it() -> None:
    pem = pki.key_pem(KEY) + leaf(serial=7) + pki.chain_pem(ROOT.certificate)
    assert dates_of(pem).serial == "7"


def test_one_is_due_after_a_third_of_its_life_as_the_authority_says_too() -> None:
    pem = leaf(days=30)
    assert dates_of(pem).due_s == pytest.approx(
        pki.renew_after(pki.load_certificates(pem)[0]).timestamp(), abs=1
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no certificate"),
        (pki.key_pem(KEY), "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n", "damaged"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "damaged"),
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(data: bytes, says: str) -> None:
    with pytest.raises(NoDates, match=says):
        dates_of(data)


@given(cut=st.integers(0, 400), flipped=st.integers(0, 399), bit=st.integers(0, 7))
def test_damaged_bytes_raise_nothing_else(cut: int, flipped: int, bit: int) -> None:
    import base64

    lines = leaf().split(b"\n")
    der = bytearray(base64.b64decode(b"".join(lines[1:-2])))
    der[flipped % len(der)] ^= 1 << bit
    body = base64.b64encode(bytes(der[: len(der) - cut % len(der)]))
    try:
        dates_of(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n")
    except NoDates:
        pass
