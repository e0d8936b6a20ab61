"""The authority's folder as the receiver reads it: whatever is missing or wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cis490.pki import certificates as certs
from cis490.pki.authority import Fleet, fleet_json, fleet_name_fault, open_authority, read_fleet
from cis490.pki.certificates import PkiError
from tests.factories.fleet_pki import FleetPki


@pytest.fixture
def pki(tmp_path: Path) -> FleetPki:
    return FleetPki(tmp_path)


def test_the_receiver_reads_what_it_needs_and_no_more(pki: FleetPki) -> None:
    """Neither the root's key nor the issuer of servers lies where the receiver can read it."""
    for name in ("root-key.pem", "servers.pem", "servers-key.pem"):
        (pki.ca / name).unlink()
    found = open_authority(pki.ca)
    assert found.fleet == pki.fleet
    assert found.root_fingerprint == certs.fingerprint(pki.root.certificate)
    assert found.clients.chain == (pki.clients.certificate,)
    assert found.signing is not None
    assert found.former == ()


def test_an_authority_without_a_signer_can_do_the_rest(pki: FleetPki) -> None:
    (pki.ca / "signing.pem").unlink()
    assert open_authority(pki.ca).signing is None


def test_former_issuers_count_and_an_empty_file_of_them_is_none(pki: FleetPki) -> None:
    (pki.ca / "clients-old.pem").write_bytes(b"\n")
    assert open_authority(pki.ca).former == ()
    other = certs.make_intermediate(pki.root, "earlier", "clients", now=pki.now)
    (pki.ca / "clients-old.pem").write_bytes(certs.chain_pem(other.certificate, pki.clients.certificate))
    assert open_authority(pki.ca).former == (other.certificate, pki.clients.certificate)


@pytest.mark.parametrize(
    "name", ["fleet.json", "root.pem", "clients.pem", "clients-key.pem", "signing-key.pem"]
)
def test_a_missing_file_is_named(pki: FleetPki, name: str) -> None:
    (pki.ca / name).unlink()
    with pytest.raises(PkiError, match=rf"{name}:? cannot be read: No such file"):
        open_authority(pki.ca)


@pytest.mark.parametrize(
    "name", ["root.pem", "clients.pem", "clients-key.pem", "clients-old.pem", "signing.pem"]
)
def test_a_damaged_file_is_named(pki: FleetPki, name: str) -> None:
    (pki.ca / name).write_bytes(b"\x00 damaged")
    with pytest.raises(PkiError, match=rf"{name}: found no (certificate|private key)"):
        open_authority(pki.ca)


def test_a_key_of_another_certificate_is_refused(pki: FleetPki) -> None:
    (pki.ca / "clients-key.pem").write_bytes(certs.key_pem(certs.new_key()))
    with pytest.raises(PkiError, match=r"clients-key\.pem is not the key of .*clients\.pem"):
        open_authority(pki.ca)


def test_of_several_keys_in_the_file_the_one_that_fits_counts(pki: FleetPki) -> None:
    path = pki.ca / "clients-key.pem"
    path.write_bytes(certs.key_pem(certs.new_key()) + path.read_bytes())
    assert certs.key_id(open_authority(pki.ca).clients.key.public_key()) == certs.key_id(
        pki.clients.key.public_key()
    )


def test_an_issuer_of_another_root_is_refused(pki: FleetPki) -> None:
    (pki.ca / "clients.pem").write_bytes(certs.chain_pem(pki.impostor_clients.certificate))
    with pytest.raises(PkiError, match=r"clients\.pem was not issued by .*root\.pem"):
        open_authority(pki.ca)


def test_a_former_issuer_of_another_root_is_refused(pki: FleetPki) -> None:
    (pki.ca / "clients-old.pem").write_bytes(certs.chain_pem(pki.impostor_clients.certificate))
    with pytest.raises(PkiError, match=r"clients-old\.pem was not issued by .*root\.pem"):
        open_authority(pki.ca)


def test_the_issuer_of_servers_in_the_place_of_clients_is_refused(pki: FleetPki) -> None:
    for end in (".pem", "-key.pem"):
        (pki.ca / f"clients{end}").write_bytes((pki.ca / f"servers{end}").read_bytes())
    with pytest.raises(
        PkiError, match=r"clients\.pem is a certificate for another use than clients: 'servers of"
    ):
        open_authority(pki.ca)


# -- fleet.json


def test_fleets_come_back_from_their_file(tmp_path: Path) -> None:
    fleet = Fleet("lab.test", "fd00::7", join_port=1, workers_port=65535, also=("pi.lan", "10.0.0.2"))
    (tmp_path / "fleet.json").write_bytes(fleet_json(fleet))
    assert read_fleet(tmp_path) == fleet
    assert (fleet.join_url, fleet.workers_url) == ("https://[fd00::7]:1", "https://[fd00::7]:65535")
    assert Fleet("lab", "pi.lan").operators_url == "https://pi.lan:8448"


FAULTS: dict[str, Any] = {
    "no object": [],
    "an unknown key": {"name": "lab", "address": "pi.lan", "colour": "red"},
    "no address": {"name": "lab"},
    "a number for a name": {"name": 1, "address": "pi.lan"},
    "text for a port": {"name": "lab", "address": "pi.lan", "join_port": "8446"},
    "a port out of range": {"name": "lab", "address": "pi.lan", "workers_port": 0},
    "text for a list": {"name": "lab", "address": "pi.lan", "also": "pi.lan"},
    "a number in a list": {"name": "lab", "address": "pi.lan", "also": [1]},
    "an impossible name": {"name": "The Lab", "address": "pi.lan"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fleet_that_cannot_be_is_refused(tmp_path: Path, fault: str) -> None:
    (tmp_path / "fleet.json").write_text(json.dumps(FAULTS[fault]), encoding="utf-8")
    with pytest.raises(
        PkiError, match=r"fleet\.json is not what `python -m training\.fleet\.ca init` writes"
    ):
        read_fleet(tmp_path)


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "fleet.json").write_bytes(data)
    with pytest.raises(PkiError, match=r"fleet\.json is not what"):
        read_fleet(tmp_path)


def test_an_address_that_is_no_host_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_bytes(fleet_json(Fleet("lab", "pi lan")))
    with pytest.raises(PkiError, match=r"fleet\.json found 'pi lan', expected an IP address"):
        read_fleet(tmp_path)


@pytest.mark.parametrize("name", ["lab", "lab.example.org", "a", "a" * 63, "9lab", "lab-2"])
def test_names_like_host_names_are_good_names_of_a_fleet(name: str) -> None:
    assert fleet_name_fault(name) == ""


@pytest.mark.parametrize(
    "name", ["", "Lab", "a" * 64, "-lab", "lab-", ".lab", "lab.", "a..b", "la b", "lab/x", "läb", "lab\n"]
)
def test_other_names_are_refused(name: str) -> None:
    assert "expected 1 to 63 lower-case letters" in fleet_name_fault(name)


@pytest.mark.parametrize("name", ["1", "10.0.0.1", "490"])
def test_a_name_that_reads_as_an_address_is_refused(name: str) -> None:
    """Go holds a URI whose host is an IP address to no constraint at all, and refuses the chain."""
    assert "at least one letter" in fleet_name_fault(name)
