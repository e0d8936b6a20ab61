"""What `ca` writes, in the hands of those who judge it: Caddy (Go) of both builds, and OpenSSL in Python."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cis490.pki import certificates as certs
from cis490.pki.authority import Fleet, open_authority, read_certificates, read_fleet, read_issuer
from cis490.pki.certificates import Issuer
from tests.factories.fleet_pki import FleetPki, leaf_of, write_credentials
from tests.factories.proxied_fleet import (
    BUILDS,
    TlsConnection,
    answer_over,
    caddy,
    caddy_program,
    own_address,
)
from training.fleet import ca_files, ca_members, credentials
from training.fleet.ca_members import Member
from training.fleet.caddyfile import Settings

NO_RECEIVER = 502
"""What Caddy answers to whom it lets in: behind it there is no receiver here."""
REFUSED = "refused"


class Lab:
    """A folder made by `ca`, and a Caddy that was given nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ca, self.now = folder, folder / "ca", datetime.now(UTC)
        address = own_address()
        ca_files.init(self.ca, Fleet("lab.test", address, join_port=23001), self.now)
        fleet = Fleet("lab.test", address, join_port=23001, workers_port=23002, operators_port=23003)
        ca_files.save_fleet(self.ca, fleet)
        self.issue_server()

    @property
    def fleet(self) -> Fleet:
        return read_fleet(self.ca)

    @property
    def settings(self) -> Settings:
        proxy = self.folder / "proxy"
        return Settings(
            self.fleet, str(proxy / "server.pem"), str(proxy / "server-key.pem"), str(self.ca / "root.pem"),
            str(self.folder / "no.sock"), bind=self.fleet.address,
        )  # fmt: skip

    def issue_server(self) -> None:
        ca_files.issue_server(self.ca, self.folder / "proxy", self.now)

    def operator(self, name: str) -> Path:
        out = self.folder / name
        ca_members.make(self.ca, out, Member("operator", name), self.now, replace=True)
        return out

    def host(self, name: str, uri: str) -> Path:
        """A host's identity as enrolment issues it, or with another URI."""
        clients, fleet, key = open_authority(self.ca).clients, self.fleet, certs.new_key()
        leaf = certs.issue(
            clients,
            key.public_key(),
            "clients",
            name=name,
            now=self.now,
            lifetime=timedelta(days=30),
            uri=uri,
        )
        about = credentials.About(
            fleet.name, "host", name, fleet.workers_url, fleet.join_url, fleet.server_name
        )
        root = read_certificates(self.ca / "root.pem")[0]
        write_credentials(self.folder / name, about, root, key, (leaf, *clients.chain))
        return self.folder / name

    def ask(self, identity: Path, *, port: int, server_name: str | None = None) -> int | str:
        """The status, or that TLS ended."""
        context, fleet = credentials.context_of(identity), self.fleet
        one = TlsConnection(fleet.address, port, context, server_name or fleet.server_name)
        try:
            return answer_over(one, "GET", "/v1/health").status
        except ssl.SSLError:
            return REFUSED
        finally:
            one.close()


@pytest.fixture(params=BUILDS, scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp(request.param)
    made = Lab(folder)
    with caddy(caddy_program(request.param), made.settings, folder):
        yield made


def test_caddy_lets_in_whom_the_authority_vouches_for_and_nobody_else(lab: Lab) -> None:
    fleet = lab.fleet
    operator, host = lab.operator("ada"), lab.host("gpu-box-1", "spiffe://lab.test/host/gpu-box-1")
    assert lab.ask(operator, port=fleet.operators_port) == NO_RECEIVER
    assert lab.ask(host, port=fleet.workers_port) == NO_RECEIVER
    elsewhere = lab.host("stranger", "spiffe://other.test/host/gpu-box-1")
    assert lab.ask(elsewhere, port=fleet.workers_port) == REFUSED, "the issuer is held to its own fleet"
    ca_files.rotate(lab.ca, "clients", ca_files.read_root_key(lab.ca), lab.now)
    newer = lab.operator("bob")
    assert [lab.ask(one, port=fleet.operators_port) for one in (operator, newer)] == [NO_RECEIVER] * 2, (
        "former and present issuer, without a change at the proxy: it knows the root"
    )

    own = FleetPki(lab.folder / "impostor").operator("ada")
    (own / "root.pem").write_bytes((lab.ca / "root.pem").read_bytes())
    assert lab.ask(own, port=fleet.operators_port) == REFUSED, "another authority"


def test_the_server_is_known_by_its_name_whatever_the_address(lab: Lab) -> None:
    operator = lab.operator("eve")
    assert lab.ask(operator, port=lab.fleet.operators_port, server_name="receiver.other") == REFUSED
    assert lab.ask(operator, port=lab.fleet.operators_port, server_name="localhost") in (NO_RECEIVER, 421)


# -- OpenSSL, without a network


def shakes_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """Whether a TLS handshake in memory comes to its end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (one, other):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return len(done) == 2


def served(folder: Path, issuer: Issuer, *names: str) -> ssl.SSLContext:
    """A server with a certificate of this issuer."""
    key = certs.new_key()
    leaf = certs.issue(
        issuer, key.public_key(), "servers", name="server", now=datetime.now(UTC), lifetime=timedelta(days=1),
        hosts=names,
    )  # fmt: skip
    path = folder / "s.pem"
    path.write_bytes(certs.key_pem(key) + certs.chain_pem(leaf, *issuer.chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize(
    ("names", "asked_for", "trusted"),
    [
        (("receiver.cis490.internal",), "receiver.cis490.internal", True),
        (("receiver.cis490.internal", "192.168.1.7", "::1"), "192.168.1.7", True),
        (("bank.example",), "bank.example", False),
        (("receiver.cis490.internal", "bank.example"), "receiver.cis490.internal", False),
        (("203.0.113.9",), "203.0.113.9", False),
    ],
)
def test_a_stolen_issuer_of_servers_cannot_pose_as_anybody_outside(
    tmp_path: Path, names: tuple[str, ...], asked_for: str, trusted: bool
) -> None:
    pki = FleetPki(tmp_path)
    client = credentials.context_of(pki.operator("ada"))
    assert shakes_hands(served(tmp_path, pki.servers, *names), client, asked_for) is trusted


def test_an_issuer_of_clients_cannot_pose_as_a_server(tmp_path: Path) -> None:
    pki = FleetPki(tmp_path)
    client = credentials.context_of(pki.operator("ada"))
    name = "receiver.cis490.internal"
    assert not shakes_hands(served(tmp_path, pki.clients, name), client, name)


def test_a_leaf_cannot_issue(tmp_path: Path) -> None:
    """A host that signs certificates with its own key is believed by nobody."""
    pki = FleetPki(tmp_path)
    host = pki.host("gpu-box-1")
    leaf = leaf_of(host)
    key = certs.load_key((host / "identity.pem").read_bytes())
    client = credentials.context_of(pki.operator("ada"))
    name = "receiver.cis490.internal"
    forged = served(tmp_path, Issuer(leaf, key, (leaf, *pki.clients.chain)), name)
    assert not shakes_hands(forged, client, name)


def test_the_proxys_certificate_survives_a_rotation_of_its_issuer(tmp_path: Path) -> None:
    """Nobody pins the intermediate: until Caddy is restarted the old one serves on."""
    lab = Lab(tmp_path)
    operator = credentials.context_of(lab.operator("ada"))
    before = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    before.load_cert_chain(lab.folder / "proxy" / "server.pem")
    ca_files.rotate(lab.ca, "servers", ca_files.read_root_key(lab.ca), lab.now)
    lab.issue_server()
    after = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    after.load_cert_chain(lab.folder / "proxy" / "server.pem", lab.folder / "proxy" / "server-key.pem")
    root = read_certificates(lab.ca / "root.pem")[0]
    issuer = read_issuer(lab.ca, "servers", root).certificate
    assert certs.is_issued_by(read_certificates(lab.folder / "proxy" / "server.pem")[0], issuer)
    assert all(shakes_hands(one, operator, lab.fleet.server_name) for one in (before, after))
