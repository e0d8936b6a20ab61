"""A header from the proxy, read as an identity: only what this fleet issued to clients is one."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.as_peer import certificate_header
from tests.factories.fleet_pki import FLEET, FleetPki
from training.fleet import peer_certificates
from training.fleet.peer_certificates import MAX_KEPT, PeerCertificates
from training.fleet.peers import ROLES, Unidentified


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def read(pki: FleetPki) -> PeerCertificates:
    return PeerCertificates(pki.authority)


def header(folder: Path) -> bytes:
    return certificate_header(folder).encode()


@pytest.mark.parametrize("role", ROLES)
def test_role_and_name_are_those_of_the_uri(pki: FleetPki, read: PeerCertificates, role: str) -> None:
    found = read.read(header(pki.identity(role, "x-1")))  # type: ignore[arg-type]
    assert (found.role, found.name) == (role, "x-1")
    assert found.not_after_s - found.not_before_s == pytest.approx(
        timedelta(days=30, minutes=10).total_seconds()
    )


def test_dates_are_not_its_business(pki: FleetPki, read: PeerCertificates) -> None:
    """They are asked on every request, for the certificate is remembered."""
    assert read.read(header(pki.host("a", expired=True))).name == "a"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"other_ca": True}, "not issued by this fleet"),
        ({"usage": "servers"}, "clientAuth"),
        ({"uri": ()}, "0 identities"),
        ({"uri": (f"spiffe://{FLEET}/host/a", f"spiffe://{FLEET}/host/b")}, "2 identities"),
        ({"uri": "spiffe://other.lab/host/a"}, f"the fleet {FLEET}"),
        ({"uri": f"spiffe://{FLEET}/admin/a"}, f"the fleet {FLEET}"),
        ({"uri": f"spiffe://{FLEET}/host/a/operator/b"}, f"the fleet {FLEET}"),
        ({"uri": "https://example.org"}, f"the fleet {FLEET}"),
    ],
)
def test_what_is_none_of_ours_is_refused_with_what_was_found(
    pki: FleetPki, read: PeerCertificates, how: dict[str, object], said: str
) -> None:
    with pytest.raises(Unidentified, match=said):
        read.read(header(pki.host("a", **how)))


def test_a_leaf_of_another_intermediate_of_the_same_root_is_no_client(pki: FleetPki) -> None:
    read = PeerCertificates(pki.authority)
    with pytest.raises(Unidentified, match="authority for clients"):
        read.read(header(pki.host("a", issuer=pki.servers)))


def test_a_leaf_of_the_issuer_before_a_rotation_still_counts(tmp_path: Path) -> None:
    pki = FleetPki(tmp_path)
    (pki.ca / "clients-old.pem").write_bytes((pki.ca / "clients.pem").read_bytes())
    folder = pki.host("a")
    authority = pki.authority
    assert authority.former
    assert PeerCertificates(authority).read(header(folder)).name == "a"


def test_a_good_certificate_is_read_once(
    pki: FleetPki, read: PeerCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = header(pki.host("a"))
    first = read.read(sent)
    monkeypatch.setattr(peer_certificates, "_parsed", None)
    assert read.read(sent) is first


def test_a_bad_one_is_never_remembered_as_good(pki: FleetPki, read: PeerCertificates) -> None:
    sent = header(pki.host("a", other_ca=True))
    for _ in range(2):
        with pytest.raises(Unidentified):
            read.read(sent)


def test_only_so_many_are_remembered(
    pki: FleetPki, read: PeerCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_certificates, "MAX_KEPT", 2)
    sent = [header(pki.host(name)) for name in ("a", "b", "c")]
    for one in sent:
        read.read(one)
    assert list(read._known) == sent[1:]
    assert MAX_KEPT >= 1000


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=300).map(base64.b64encode)))
def test_no_bytes_whatever_are_an_identity_nor_a_defect(pki: FleetPki, sent: bytes) -> None:
    with pytest.raises(Unidentified):
        PeerCertificates(pki.authority).read(sent)


def test_a_certificate_with_a_flipped_bit_is_none(pki: FleetPki, read: PeerCertificates) -> None:
    der = bytearray(base64.b64decode(header(pki.host("a"))))
    for place in range(0, len(der), 7):
        damaged = bytes(der[:place]) + bytes([der[place] ^ 1]) + bytes(der[place + 1 :])
        with pytest.raises(Unidentified):
            read.read(base64.b64encode(damaged))
