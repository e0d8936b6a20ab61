"""The same over HTTP/2, which browsers speak with the proxy, and which it turns into HTTP/1.1 for the receiver."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.factories import http2_frames
from tests.factories.http2_frames import Ended, Header
from tests.factories.live_receiver import TOKEN
from tests.factories.proxied_fleet import BUILDS, ProxiedFleet, SiteName, certificate_header, proxied_fleet

MANIFEST = 'name = "two"\n[[hosts]]\nname = "a"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
NAME = "receiver.cis490.internal"


@pytest.fixture(scope="module", params=BUILDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    with proxied_fleet(tmp_path_factory.mktemp("two"), MANIFEST, build=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def host(fleet: ProxiedFleet) -> Path:
    return fleet.pki.host("a")


def ask(
    fleet: ProxiedFleet,
    identity: Path | None,
    request: str,
    headers: Sequence[Header] = (),
    body: bytes = b"",
    *,
    site: SiteName = "workers",
    authority: str = NAME,
) -> Ended:
    method, path = request.split(" ")
    context = fleet.context(identity)
    context.set_alpn_protocols(["h2"])
    connection = fleet.connection(identity, site, context=context)
    with contextlib.closing(connection):
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        assert connection.sock.selected_alpn_protocol() == "h2"
        first = [(":method", method), (":scheme", "https"), (":path", path), (":authority", authority)]
        return http2_frames.request(connection.sock, [*first, *headers], body)


def test_a_host_is_who_its_certificate_says(fleet: ProxiedFleet, host: Path) -> None:
    found = ask(fleet, host, "POST /v1/job/claim", [("x-lab-host", "nobody")], b'{"capability": {}}')
    assert b"certificate host a" in found.body


@pytest.mark.parametrize("name", ["x-fleet-peer-{}", "x_fleet_peer_{}", "x-fleet-peer_{}"])
def test_nobody_puts_on_a_certificate(fleet: ProxiedFleet, host: Path, name: str) -> None:
    other = certificate_header(fleet.pki.operator("olga"))
    spoofed = [
        (name.format("certificate"), other),
        (name.format("site"), "operators"),
        ("x-operator-token", TOKEN),
    ]
    as_host = ask(fleet, host, "POST /v1/manifest/reload", spoofed)
    assert b"the certificate says host a" in as_host.body
    as_nobody = ask(fleet, None, "POST /v1/manifest/reload", spoofed, site="operators")
    assert b"no identity" in as_nobody.body


def test_a_request_for_another_name_is_misdirected(fleet: ProxiedFleet, host: Path) -> None:
    assert b"differ" in ask(fleet, host, "GET /v1/jobs", authority="other.example").body


MALFORMED: dict[str, tuple[list[Header], bytes]] = {
    "a line end in a value": ([("x-a", "b\r\nx-fleet-peer-site: operators")], b""),
    "a line end in a name": ([("x-a\r\nx-fleet-peer-site", "operators")], b""),
    "a colon in a name": ([("x-fleet-peer-site: operators\r\nx", "y")], b""),
    "capital letters": ([("X-Fleet-Peer-Site", "operators")], b""),
    "a body longer than it says": ([("content-length", "4")], b"{}  POST /v1/job/claim HTTP/1.1\r\n\r\n"),
    "a body shorter than it says": ([("content-length", "400")], b"{}"),
    "a transfer encoding": ([("transfer-encoding", "chunked")], b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_could_be_read_differently_behind_the_proxy_is_refused(
    fleet: ProxiedFleet, host: Path, name: str
) -> None:
    headers, body = MALFORMED[name]
    found = ask(fleet, host, "POST /v1/job/claim", headers, body)
    assert found.is_reset or b'"job' not in found.body, found
