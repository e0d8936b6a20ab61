"""Whatever is asked for: a certificate says what it was issued for, no more, and no longer than its issuer."""

from __future__ import annotations

import contextlib
import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cis490.pki import certificates as pki
from cis490.pki import issuers
from cis490.pki.authority import Fleet, fleet_name_fault
from cis490.pki.certificates import PkiError, Usage
from training.fleet.peers import ROLES, parse_uri, uri_of

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
LAB = issuers.make_all(Fleet("lab.test", "192.168.1.7"), NOW)
KEY = pki.new_key()
NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)
FLEETS = st.from_regex(r"[a-z0-9.-]{1,63}", fullmatch=True).filter(lambda name: not fleet_name_fault(name))
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=3 * 365 - 1)).map(lambda after: NOW + after)
LIVES = st.timedeltas(timedelta(minutes=1), timedelta(days=4000))
DER = serialization.Encoding.DER


@given(st.sampled_from(ROLES), NAMES, FLEETS, MOMENTS, LIVES)
@settings(max_examples=60)
def test_an_identity_comes_back_as_it_was_issued_within_the_life_of_its_issuer(
    role: str, name: str, fleet: str, now: datetime, life: timedelta
) -> None:
    leaf = pki.issue(
        LAB.clients,
        KEY.public_key(),
        "clients",
        name=name,
        now=now,
        lifetime=life,
        uri=uri_of(fleet, role, name),
    )
    (uri,) = pki.uris_of(leaf)
    assert parse_uri(uri) == (fleet, role, name)
    assert pki.is_issued_by(leaf, LAB.clients.certificate)
    assert [usage for usage in get_args(Usage) if pki.has_usage(leaf, usage)] == ["clients"]
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    assert start == now.replace(microsecond=0) - pki.BACKDATED
    assert now - timedelta(seconds=1) < end <= LAB.clients.certificate.not_valid_after_utc
    assert end - now <= life
    assert start < pki.renew_after(leaf) < end
    assert pki.load_certificates(pki.chain_pem(leaf)) == (leaf,)


@given(FLEETS, MOMENTS)
@settings(max_examples=15)
def test_openssl_takes_every_authority_that_can_be_made(fleet: str, now: datetime) -> None:
    """Its names, its constraints: what `load_verify_locations` takes, TLS clients of every fleet take."""
    made = issuers.make_all(Fleet(fleet, "192.168.1.7"), now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    every = (made.root, made.clients, made.servers, made.signing)
    context.load_verify_locations(cadata=pki.chain_pem(*(one.certificate for one in every)).decode())
    assert context.cert_store_stats()["x509_ca"] == 3
    assert all(pki.is_issued_by(one.certificate, made.root.certificate) for one in every[1:])


@given(st.from_regex(r"[0-9.]{1,20}", fullmatch=True) | st.text(max_size=70))
def test_a_name_of_a_fleet_is_good_exactly_when_identities_of_it_can_be_read_and_constrained(
    name: str,
) -> None:
    uri = f"spiffe://{name}/host/a"
    readable = parse_uri(uri) == (name, "host", "a")
    labels = all(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label) for label in name.split("."))
    is_number = name.replace(".", "").isdigit()
    assert (fleet_name_fault(name) == "") is (readable and labels and not is_number)


def _mutated(data: bytes, at: int, to: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([to]) + data[at + 1 :]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4))
@example([(12, 1)])  # an X.509 version that does not exist
@settings(max_examples=80)
def test_damaged_certificates_are_refused_or_read_and_never_break_the_reader(
    changes: list[tuple[int, int]],
) -> None:
    """Somebody whose certificate has expired hands it in at the join site, and it need not be one."""
    leaf = pki.issue(
        LAB.clients, KEY.public_key(), "clients", name="a", now=NOW, lifetime=timedelta(days=30),
        uri="spiffe://lab.test/host/a",
    )  # fmt: skip
    der = good = leaf.public_bytes(DER)
    for at, to in changes:
        der = _mutated(der, at, to)
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    try:
        (found,) = pki.load_certificates(pem)
    except PkiError:
        return
    if pki.is_issued_by(found, LAB.clients.certificate):
        assert der == good, "a changed byte was signed by nobody"
    pki.uris_of(found)
    pki.has_usage(found, "clients")
    with contextlib.suppress(PkiError):
        pki.public_key_of(found)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=80)
def test_damaged_requests_are_refused_in_a_sentence(changes: list[tuple[int, int]]) -> None:
    der = good = x509.load_pem_x509_csr(pki.make_request(KEY, "a")).public_bytes(DER)
    for at, to in changes:
        der = _mutated(der, at, to)
    pem = ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    try:
        found = pki.read_request(pem)
    except PkiError:
        return
    assert der == good
    assert pki.key_id(found) == pki.key_id(KEY.public_key())


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_what_nobody_wrote_is_no_request_no_certificate_and_no_key(text: str) -> None:
    for read in (
        lambda: pki.read_request(text),
        lambda: pki.load_certificates(text.encode()),
        lambda: pki.load_keys(text.encode()),
    ):
        try:
            read()
        except PkiError:
            continue
        raise AssertionError("taken for something")
