"""What a person is told when a TLS connection breaks. The errors are as OpenSSL words them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from training.fleet.certificate_dates import Dates
from training.fleet.credentials import About
from training.fleet.tls_identity import Shown, words

NOW = 1_790_000_000.0
DAY = 86_400.0
SERVER = "receiver.cis490.internal"


def shown(*, starts: float = -1.0, ends: float = 29.0, role: str = "host") -> Shown:
    """Days from now."""
    about = About("lab", role, "pc-1", "https://192.0.2.7:8447", "https://192.0.2.7:8446", SERVER)
    return Shown(about, Path("/state/credentials"), Dates(NOW + starts * DAY, NOW + ends * DAY, "7"))


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:2580)")
    error.reason = reason
    return error


def unverified(code: int, text: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, text
    return error


def test_an_expired_certificate_of_ours_explains_whatever_the_proxy_did_about_it() -> None:
    for error in (ConnectionResetError(), alert("SSLV3_ALERT_BAD_CERTIFICATE"), ssl.SSLEOFError(8, "EOF")):
        text = words(error, SERVER, NOW, shown(starts=-31, ends=-1))
        assert "expired on" in text
        assert "python -m training.fleet.renewal --credentials" in text


def test_one_from_the_future_asks_for_the_clock() -> None:
    text = words(alert("SSLV3_ALERT_BAD_CERTIFICATE"), SERVER, NOW, shown(starts=1))
    assert "set the clock" in text


@pytest.mark.parametrize("role", ["host", "operator"])
@pytest.mark.parametrize(
    "reason", ["TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_DECRYPT_ERROR"]
)
def test_a_certificate_of_another_lab_names_the_command_that_enrols_anew(reason: str, role: str) -> None:
    text = words(alert(reason), SERVER, NOW, shown(role=role))
    assert "another lab" in text
    assert f"cis490-jobs {role}s add pc-1" in text


def test_a_receiver_that_finds_ours_expired_while_we_do_not_means_clocks() -> None:
    assert "clocks" in words(alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), SERVER, NOW, shown())


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "TLS 1.3"),
        ("TLSV1_UNRECOGNIZED_NAME", SERVER),
        ("TLSV1_ALERT_INTERNAL_ERROR", SERVER),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "shown none"),
    ],
)
def test_each_alert_has_its_sentence(reason: str, says: str) -> None:
    assert says in words(alert(reason), SERVER, NOW, shown())
    assert says in words(alert(reason), SERVER, NOW, None)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (9, "does not count yet"),
        (10, "has expired by this clock"),
        (62, f"not made for {SERVER}"),
        (64, f"not made for {SERVER}"),
        (18, "not of this lab"),
        (19, "not of this lab"),
        (20, "not of this lab"),
    ],
)
def test_what_is_wrong_with_the_servers_certificate_is_told_apart(code: int, says: str) -> None:
    """Even with an expired one of our own: we never showed it to that server."""
    text = words(unverified(code, "as OpenSSL says"), SERVER, NOW, shown(ends=-1, starts=-31))
    assert says in text


def test_a_connection_that_just_ends_is_told_as_that() -> None:
    for error in (ConnectionResetError(104, "reset"), BrokenPipeError(), ssl.SSLZeroReturnError(6, "closed")):
        assert "closed without an answer" in words(error, SERVER, NOW, None)
        assert "pc-1" in words(error, SERVER, NOW, shown())


def test_an_error_that_nobody_foresaw_keeps_its_own_words() -> None:
    assert words(OSError(113, "No route to host"), SERVER, NOW, shown()) == "No route to host"
