"""What keys, requests and certificates look like, and what is refused. Profile: RFC 5280."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cis490.pki import certificates as pki
from cis490.pki import issuers
from cis490.pki.authority import Fleet
from cis490.pki.certificates import Issuer, PkiError, Usage
from cis490.pki.issuers import Issuers

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
FLEET = Fleet("lab.test", "192.168.1.7")
URI = "spiffe://lab.test/host/gpu-box-1"
DAYS_30 = timedelta(days=30)
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


@pytest.fixture(scope="module")
def lab() -> Issuers:
    return issuers.make_all(FLEET, NOW)


def host(lab: Issuers, now: datetime = NOW, lifetime: timedelta = DAYS_30) -> x509.Certificate:
    key = pki.new_key().public_key()
    return pki.issue(lab.clients, key, "clients", name="gpu-box-1", now=now, lifetime=lifetime, uri=URI)


def usages(certificate: x509.Certificate) -> tuple[bool, bool]:
    """(may sign messages, may sign certificates)"""
    found = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert found.critical
    return found.value.digital_signature, found.value.key_cert_sign


def path_length(certificate: x509.Certificate) -> int | None:
    """None: it is no authority."""
    found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert found.critical
    return found.value.path_length if found.value.ca else None


# -- the profile


def test_the_root_issues_issuers_and_those_issue_leaves_alone(lab: Issuers) -> None:
    depths = [path_length(one.certificate) for one in (lab.root, lab.clients, lab.servers, lab.signing)]
    assert depths == [1, 0, 0, None]
    assert [usages(one.certificate) for one in (lab.root, lab.clients)] == [(False, True), (False, True)]
    assert [usages(one) for one in (lab.signing.certificate, host(lab))] == [(True, False), (True, False)]


def test_each_issuer_serves_one_purpose(lab: Issuers) -> None:
    found = {
        name: [usage for usage in get_args(Usage) if pki.has_usage(issuer.certificate, usage)]
        for name, issuer in (("clients", lab.clients), ("servers", lab.servers), ("signing", lab.signing))
    }
    assert found == {"clients": ["clients"], "servers": ["servers"], "signing": ["signing"]}
    assert not any(pki.has_usage(lab.root.certificate, usage) for usage in get_args(Usage))


def test_serial_numbers_are_positive_unlike_and_short_enough(lab: Issuers) -> None:
    """RFC 5280, 4.1.2.2: at most 20 octets, never negative."""
    serials = {host(lab).serial_number for _ in range(50)}
    assert len(serials) == 50
    assert all(0 < serial < 2**159 for serial in serials)


def test_every_certificate_names_the_key_that_signed_it(lab: Issuers) -> None:
    for one, by in ((lab.clients.certificate, lab.root), (host(lab), lab.clients)):
        found = one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        wanted = by.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert found.key_identifier == wanted.digest
        assert one.issuer == by.certificate.subject


def test_a_host_has_one_identity_and_thirty_days_and_begins_ten_minutes_ago(lab: Issuers) -> None:
    leaf = host(lab)
    assert pki.uris_of(leaf) == (URI,)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (NOW - pki.BACKDATED, NOW + DAYS_30)
    assert pki.renew_after(leaf) - NOW < timedelta(days=10)
    assert not leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).critical


def test_hosts_may_have_names_of_sixty_four_characters_and_fleets_of_sixty_three() -> None:
    fleet = Fleet("a" * 63, "10.0.0.1")
    made = issuers.make_all(fleet, NOW)
    names = {pki.name_of(one.certificate) for one in (made.root, made.clients, made.servers, made.signing)}
    assert len(names) == 4
    key = pki.new_key().public_key()
    leaf = pki.issue(made.clients, key, "clients", name="h" * 64, now=NOW, lifetime=DAYS_30)
    assert pki.name_of(leaf) == "h" * 64


@pytest.mark.parametrize("name", ["", "h" * 65])
def test_other_lengths_of_names_are_refused(lab: Issuers, name: str) -> None:
    key = pki.new_key().public_key()
    with pytest.raises(PkiError, match="expected 1 to 64"):
        pki.issue(lab.clients, key, "clients", name=name, now=NOW, lifetime=DAYS_30)


# -- what issuers are held to


def test_clients_are_held_to_identities_of_the_fleet(lab: Issuers) -> None:
    found = lab.clients.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert found.value.permitted_subtrees == [x509.UniformResourceIdentifier("lab.test")]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("receiver.cis490.internal", True),
        ("pi.local", True),
        ("192.168.77.1", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("fd00::7", True),
        ("lab.example.org", True),
        ("www.lab.example.org", True),
        ("example.org", False),
        ("notlab.example.org", False),
        ("mylocal", False),
        ("203.0.113.9", True),
        ("203.0.113.10", False),
        ("2001:db8::1", False),
    ],
)
def test_servers_are_held_to_private_names_and_those_told_when_the_issuer_was_made(
    name: str, may: bool
) -> None:
    root = pki.make_root("r", now=NOW)
    fleet = Fleet("lab.test", "203.0.113.9", also=("lab.example.org",))
    assert pki.is_permitted(name, issuers.make_servers(root, fleet, NOW).certificate) is may


def test_an_issuer_without_constraints_permits_every_name(lab: Issuers) -> None:
    assert pki.is_permitted("example.org", lab.root.certificate)
    assert pki.is_within("example.org", [x509.IPAddress(ip_network("10.0.0.0/8"))]), "kinds are apart"


@pytest.mark.parametrize(
    "name",
    ["", "a b", "-a", "a.", "a..b", "*.lab", "münchen", "fe80::1%eth0", "192.168.1.999", "x" * 254, "a/b"],
)
def test_what_is_no_host_name_and_no_address_is_refused(lab: Issuers, name: str) -> None:
    with pytest.raises(PkiError, match="expected an IP address or a host name"):
        pki.is_permitted(name, lab.servers.certificate)


# -- dates


def test_nothing_outlives_its_issuer(lab: Issuers) -> None:
    near = lab.clients.certificate.not_valid_after_utc - timedelta(days=3)
    assert host(lab, near).not_valid_after_utc == lab.clients.certificate.not_valid_after_utc
    late = lab.root.certificate.not_valid_after_utc - timedelta(days=400)
    again = issuers.make_clients(lab.root, FLEET, late)
    assert again.certificate.not_valid_after_utc == lab.root.certificate.not_valid_after_utc


def test_an_issuer_that_has_ended_issues_nothing_and_says_when_it_ended(lab: Issuers) -> None:
    with pytest.raises(PkiError, match=r"'clients of lab.test' is valid from 2026-11-22 .* to 2029-11-21"):
        host(lab, lab.clients.certificate.not_valid_after_utc)


def test_a_clock_before_the_issuers_time_issues_nothing(lab: Issuers) -> None:
    """A Pi without a battery for its clock starts in 1970."""
    with pytest.raises(PkiError, match="can issue nothing at 1970-01-01"):
        host(lab, datetime(1970, 1, 1, tzinfo=UTC))


# -- keys


def test_a_key_comes_back_from_its_text() -> None:
    key = pki.new_key()
    assert pki.key_id(pki.load_key(pki.key_pem(key)).public_key()) == pki.key_id(key.public_key())


def test_several_keys_in_one_text_come_back_in_their_order() -> None:
    keys = [pki.new_key(), pki.new_key()]
    found = pki.load_keys(b"".join(map(pki.key_pem, keys)))
    assert [pki.key_id(key.public_key()) for key in found] == [pki.key_id(key.public_key()) for key in keys]


def foreign_keys() -> dict[str, bytes]:
    none = serialization.NoEncryption()
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, none)
    return {
        "nothing": b"",
        "noise": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "RSA": rsa_key,
        "Ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, none),
        "P-384": ec.generate_private_key(ec.SECP384R1()).private_bytes(PEM, PKCS8, none),
        "with a password": pki.new_key().private_bytes(
            PEM, PKCS8, serialization.BestAvailableEncryption(b"x")
        ),
    }


@pytest.mark.parametrize("kind", ["nothing", "noise", "RSA", "Ed25519", "P-384", "with a password"])
def test_other_keys_are_refused_and_the_message_holds_nothing_of_them(kind: str) -> None:
    pem = foreign_keys()[kind]
    with pytest.raises(PkiError, match=r"found no private key|of another kind") as caught:
        pki.load_keys(pem)
    assert caught.value.__cause__ is None
    assert not any(line and line in str(caught.value) for line in pem.decode().splitlines()[1:-1])


# -- requests


def test_of_a_request_the_key_counts_and_nothing_else() -> None:
    key = pki.new_key()
    found = pki.read_request(pki.make_request(key, "somebody-else").decode())
    assert pki.key_id(found) == pki.key_id(key.public_key())


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    pem = pki.make_request(pki.new_key(), "a")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    other = x509.load_pem_x509_csr(pki.make_request(pki.new_key(), "a"))
    own = x509.load_pem_x509_csr(pem).public_key().public_bytes(serialization.Encoding.DER, SPKI)
    at = der.index(own)
    der[at : at + len(own)] = other.public_key().public_bytes(serialization.Encoding.DER, SPKI)
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(PEM).decode()
    with pytest.raises(PkiError, match="signature was not made with its key"):
        pki.read_request(forged)


def test_a_request_with_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    with pytest.raises(PkiError, match="the request has a key of another kind, expected ECDSA on P-256"):
        pki.read_request(made.public_bytes(PEM).decode())


@pytest.mark.parametrize(
    "text", ["", "é", "x" * (pki.MAX_REQUEST_BYTES + 1), "-----BEGIN CERTIFICATE REQUEST-----"]
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(
        PkiError, match=r"found no certificate signing request|found a request of \d+ characters"
    ):
        pki.read_request(text)


# -- reading


def test_a_text_without_certificates_is_refused() -> None:
    for pem in (b"", b"hello", pki.key_pem(pki.new_key())):
        with pytest.raises(PkiError, match="found no certificate in PEM form"):
            pki.load_certificates(pem)


def test_a_certificate_of_another_authority_with_the_same_names_was_not_issued_here(lab: Issuers) -> None:
    other = issuers.make_all(FLEET, NOW)
    assert pki.is_issued_by(host(lab), lab.clients.certificate)
    assert not pki.is_issued_by(host(other), lab.clients.certificate)
    assert not pki.is_issued_by(host(lab), lab.root.certificate)
    assert not pki.is_issued_by(lab.root.certificate, lab.clients.certificate)


def test_a_certificate_without_the_extensions_has_no_identity_and_no_usage() -> None:
    key = pki.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nobody")])
    bare = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAYS_30).sign(key, hashes.SHA256())
    )  # fmt: skip
    assert (pki.uris_of(bare), pki.has_usage(bare, "clients"), pki.name_of(bare)) == ((), False, "")


def test_a_usage_among_several_counts_and_any_usage_does_not(lab: Issuers) -> None:
    key = pki.new_key()

    def with_usages(*found: x509.ObjectIdentifier) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(lab.root.certificate.subject)
        made = made.issuer_name(lab.root.certificate.subject).public_key(key.public_key()).serial_number(1)
        made = made.not_valid_before(NOW).not_valid_after(NOW + DAYS_30)
        return made.add_extension(x509.ExtendedKeyUsage(found), critical=False).sign(key, hashes.SHA256())

    both = with_usages(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    assert pki.has_usage(both, "clients")
    assert not pki.has_usage(with_usages(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "clients")


def test_the_key_of_a_certificate_must_be_of_our_kind(lab: Issuers) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = lab.root.certificate.subject
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAYS_30)
        .sign(lab.root.key, hashes.SHA256())
    )  # fmt: skip
    with pytest.raises(PkiError, match="the certificate has a key of another kind"):
        pki.public_key_of(made)


def test_neither_keys_nor_issuers_show_a_secret_when_printed(lab: Issuers) -> None:
    number = lab.clients.key.private_numbers().private_value
    text = repr(lab.clients) + repr(Issuer(lab.root.certificate, lab.root.key)) + str(lab)
    assert str(number) not in text
    assert f"{number:x}" not in text
