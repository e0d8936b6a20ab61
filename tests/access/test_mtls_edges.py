"""Certificates that must not count, connections that must not be, and identities that nobody may put on."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cis490.clock import SystemClock
from cis490.pki import certificates
from tests.factories.fleet_pki import FleetPki
from tests.factories.live_receiver import TOKEN, Answer
from tests.factories.proxied_fleet import BUILDS, REFUSED, ProxiedFleet, SiteName, answer_over, proxied_fleet
from training.fleet.peers import uri_of

MANIFEST = """
name = "edges"
[[hosts]]
name = "a"
[[hosts]]
name = "b"
[[jobs]]
model = "gbt"
mode = "realistic"
"""
DAY_S = 86400.0
WITH_CERTIFICATES: tuple[SiteName, ...] = ("workers", "operators")


class LateClock(SystemClock):
    """The real time, or later."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s


@pytest.fixture(scope="module")
def clock() -> LateClock:
    """The receiver's, not Caddy's."""
    return LateClock()


@pytest.fixture(scope="module", params=BUILDS)
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clock: LateClock
) -> Iterator[ProxiedFleet]:
    folder = tmp_path_factory.mktemp("edges")
    with proxied_fleet(folder, MANIFEST, build=request.param, clock=clock, read_header_s=1) as found:
        yield found


@pytest.fixture(scope="module")
def host(fleet: ProxiedFleet) -> Path:
    """Good credentials of the host a."""
    return fleet.pki.host("a")


def who_am_i(answer: Answer) -> str:
    """What the receiver took the sender of this claim for."""
    assert answer.body is not None, answer
    return str(answer.body.get("error") or "host")


def claim(fleet: ProxiedFleet, identity: Path | None, site: SiteName = "workers", **headers: str) -> Answer:
    return fleet.send(identity, "POST", "/v1/job/claim", {"capability": {"models": []}}, headers, site=site)


# -- certificates


def test_a_good_certificate_is_admitted(fleet: ProxiedFleet, host: Path) -> None:
    assert [claim(fleet, host, site).status for site in WITH_CERTIFICATES] == [200, 200]


def test_without_a_certificate_the_workers_site_ends_the_handshake(fleet: ProxiedFleet) -> None:
    answer = claim(fleet, None)
    assert answer.status == REFUSED
    assert answer.raw in (b"TLSV13_ALERT_CERTIFICATE_REQUIRED", b"SSLV3_ALERT_BAD_CERTIFICATE")


def test_without_a_certificate_the_operators_site_knows_nobody(fleet: ProxiedFleet) -> None:
    assert claim(fleet, None, "operators").status == 401


def servers_leaf(pki: FleetPki) -> Path:
    """A certificate as the proxy itself has one: for servers, from the issuer of servers."""
    return pki.host("a", usage="servers", issuer=pki.servers)


REFUSED_BY_TLS: dict[str, Callable[[FleetPki], Path]] = {
    "another authority with the same names": lambda pki: pki.host("a", other_ca=True),
    "expired": lambda pki: pki.host("a", expired=True),
    "not yet valid": lambda pki: pki.host("a", not_yet_valid=True),
    "for servers": servers_leaf,
    "for servers, from the issuer of clients": lambda pki: pki.host("a", usage="servers"),
    "for signing": lambda pki: pki.host("a", usage="signing"),
    "for clients, from the issuer of servers": lambda pki: pki.host("a", issuer=pki.servers),
    "from the certificate that signs records": lambda pki: pki.host("a", issuer=pki.signing),
    "that names another fleet": lambda pki: pki.host("a", uri=uri_of("lab.other", "host", "a")),
}


@pytest.mark.parametrize("site", WITH_CERTIFICATES)
@pytest.mark.parametrize("name", REFUSED_BY_TLS)
def test_the_handshake_ends_with_a_certificate(fleet: ProxiedFleet, name: str, site: SiteName) -> None:
    answer = claim(fleet, REFUSED_BY_TLS[name](fleet.pki), site)
    assert answer.status == REFUSED, answer


REFUSED_BY_THE_RECEIVER: dict[str, tuple[str | tuple[str, ...], str]] = {
    "without a name": ((), "0 identities"),
    "with two names": (
        (uri_of("lab.test", "host", "a"), uri_of("lab.test", "host", "b")),
        "2 identities",
    ),
    "of a role that there is not": ("spiffe://lab.test/admin/a", "no identity of the fleet"),
    "with a path behind the name": ("spiffe://lab.test/host/a/b", "no identity of the fleet"),
    "with an escaped name": ("spiffe://lab.test/host/%61", "no identity of the fleet"),
    "with a query": ("spiffe://lab.test/host/a?x=1", "no identity of the fleet"),
}


@pytest.mark.parametrize("site", WITH_CERTIFICATES)
@pytest.mark.parametrize("name", REFUSED_BY_THE_RECEIVER)
def test_the_receiver_knows_nobody_by_a_certificate(fleet: ProxiedFleet, name: str, site: SiteName) -> None:
    uri, said = REFUSED_BY_THE_RECEIVER[name]
    answer = claim(fleet, fleet.pki.host("a", uri=uri), site)
    assert (answer.status, said in who_am_i(answer)) == (401, True), answer


def test_an_issuer_of_hosts_that_is_not_the_labs_own_admits_nobody(fleet: ProxiedFleet) -> None:
    """Caddy trusts the root; the receiver counts the issuers of clients alone."""
    stray = certificates.make_intermediate(
        fleet.pki.root, "lab.test clients", "clients", now=datetime.now(UTC)
    )
    answer = claim(fleet, fleet.pki.host("a", issuer=stray))
    assert (answer.status, "not issued by this fleet" in who_am_i(answer)) == (401, True), answer


# -- what changes while a connection is open


def test_a_connection_does_not_outlive_its_certificate(
    fleet: ProxiedFleet, host: Path, clock: LateClock
) -> None:
    connection = fleet.connection(host)
    body: dict[str, object] = {"capability": {"models": []}}
    assert answer_over(connection, "POST", "/v1/job/claim", body).status == 200
    clock.ahead_s = 31 * DAY_S
    try:
        answer = answer_over(connection, "POST", "/v1/job/claim", body)
    finally:
        clock.ahead_s = 0.0
        connection.close()
    assert (answer.status, "expired" in who_am_i(answer)) == (401, True), answer


def test_a_revoked_host_is_out_at_its_next_request(fleet: ProxiedFleet) -> None:
    leaving = fleet.pki.host("leaving")
    connection = fleet.connection(leaving)
    assert answer_over(connection, "GET", "/v1/health").status == 200
    operator = fleet.pki.operator("o")
    done = fleet.send(
        operator, "POST", "/v1/identity/host/leaving/revoke", {"reason": "sold"}, {"X-Operator-Token": TOKEN},
        site="operators",
    )  # fmt: skip
    assert done.status == 200, done
    answer = answer_over(connection, "GET", "/v1/jobs")
    connection.close()
    assert (answer.status, "sold" in who_am_i(answer)) == (401, True), answer
    assert claim(fleet, leaving).status == 401, "a new connection neither"
    assert claim(fleet, fleet.pki.host("leaving"), "operators").status == 401, "nor another certificate"


def test_a_session_of_a_site_without_certificates_opens_no_other_site(fleet: ProxiedFleet) -> None:
    """TLS resumption: the ticket of one site must not stand for a certificate at another."""
    context = fleet.context(None)
    ticket = session_of(fleet, None, "join", context)
    assert ticket.has_ticket
    with (
        contextlib.closing(resumed(fleet, context, ticket, "workers")) as at_workers,
        pytest.raises(ssl.SSLError),
    ):
        answer_over(at_workers, "GET", "/v1/health")
    with contextlib.closing(resumed(fleet, context, ticket, "operators")) as at_operators:
        assert answer_over(at_operators, "GET", "/v1/jobs").status == 401


@pytest.mark.parametrize("site", WITH_CERTIFICATES)
def test_a_resumed_session_is_still_of_the_same_host(fleet: ProxiedFleet, host: Path, site: SiteName) -> None:
    """Caddy 2.11 gives no tickets where it asks for certificates, 2.6 does."""
    context = fleet.context(host)
    ticket = session_of(fleet, host, site, context)
    with contextlib.closing(resumed(fleet, context, ticket, site)) as second:
        answer = answer_over(second, "POST", "/v1/job/claim", {"capability": {}}, {"X-Lab-Host": "b"})
        assert isinstance(second.sock, ssl.SSLSocket)
        assert second.sock.session_reused == ticket.has_ticket
    assert (answer.status, "host a" in who_am_i(answer)) == (403, True)


def session_of(
    fleet: ProxiedFleet, identity: Path | None, site: SiteName, context: ssl.SSLContext
) -> ssl.SSLSession:
    """What a client keeps of a connection."""
    with contextlib.closing(fleet.connection(identity, site, context=context)) as first:
        assert answer_over(first, "GET", "/v1/health").status == 200
        assert isinstance(first.sock, ssl.SSLSocket)
        assert first.sock.session is not None
        return first.sock.session


def resumed(
    fleet: ProxiedFleet, context: ssl.SSLContext, ticket: ssl.SSLSession, site: SiteName
) -> http.client.HTTPConnection:
    """A connection that offers a session of before; opened at once, since http.client knows no sessions."""
    connection = fleet.connection(None, site, context=context)
    plain = socket.create_connection((fleet.address, fleet.port(site)), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=fleet.pki.fleet.server_name, session=ticket)
    return connection
