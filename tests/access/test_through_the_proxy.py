"""What a request may carry through the proxy, what it may not, and what has to pass: uploads, long waits, streams."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories.live_receiver import TOKEN, Answer
from tests.factories.processes import wait_until
from tests.factories.proxied_fleet import (
    BUILDS,
    ProxiedFleet,
    SiteName,
    answer_over,
    caddy,
    caddy_program,
    certificate_header,
    proxied_fleet,
)
from training.fleet import caddyfile, wire_headers
from training.fleet.client import FleetClient, Refused

MANIFEST = """
name = "through"
[[hosts]]
name = "a"
slots = 60
[[hosts]]
name = "b"
""" + "".join(
    f'[[jobs]]\nname = "gbt-{n}"\nmodel = "gbt"\nmode = "realistic"\nseed = {n}\n' for n in range(9)
)
MIB = 1 << 20
CERTIFICATE, SITE = wire_headers.HEADER_PEER_CERTIFICATE, wire_headers.HEADER_PEER_SITE
SITES: tuple[SiteName, ...] = ("join", "workers", "operators")
CLAIM: dict[str, object] = {"capability": {"models": []}}
NOBODYS = {"X-Lab-Host": "nobody"}
"""The refusal of a claim with this says who the receiver takes the sender for."""


@pytest.fixture(scope="module", params=BUILDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    folder = tmp_path_factory.mktemp("through")
    with proxied_fleet(
        folder, MANIFEST, build=request.param, read_header_s=1, max_artifact_bytes=16 * MIB
    ) as found:
        yield found


@pytest.fixture(scope="module")
def host(fleet: ProxiedFleet) -> Path:
    return fleet.pki.host("a")


@pytest.fixture(scope="module")
def operator(fleet: ProxiedFleet) -> Path:
    return fleet.pki.operator("olga")


# -- headers that say who somebody is


SPELLINGS = (
    "X-Fleet-Peer-{}", "x-fleet-peer-{}", "X_Fleet_Peer_{}", "X-Fleet-Peer_{}", "X-Fleet_Peer-{}",
    "X-FLEET-PEER-{}", "X-Fleet-Peer-{} ",
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_host_cannot_put_on_another_ones_certificate(
    fleet: ProxiedFleet, host: Path, operator: Path, spelling: str
) -> None:
    """However it spells the header, it is who its own certificate says; a name with a space is no request."""
    spoofed = {
        spelling.format("Certificate"): certificate_header(operator),
        spelling.format("Site"): "operators",
        spelling.format("Uri"): "spiffe://lab.test/operator/olga",
        "X-Operator-Token": TOKEN,
    }
    answer = raw_request(fleet, host, "POST /v1/job/claim", json.dumps(CLAIM), {**spoofed, **NOBODYS})
    expected = (400, "") if spelling.endswith(" ") else (403, "certificate host a")
    assert answer.status == expected[0], answer
    assert expected[1] in str(answer.body), answer
    reload = raw_request(fleet, host, "POST /v1/manifest/reload", "", spoofed)
    assert reload.status == expected[0], reload


@pytest.mark.parametrize("spelling", SPELLINGS[:-1])
@pytest.mark.parametrize("site", ["join", "operators"])
def test_nobody_becomes_somebody_by_a_header(
    fleet: ProxiedFleet, operator: Path, site: SiteName, spelling: str
) -> None:
    spoofed = {
        spelling.format("Certificate"): certificate_header(operator),
        spelling.format("Site"): "operators",
        "X-Operator-Token": TOKEN,
    }
    answer = raw_request(fleet, None, "POST /v1/manifest/reload", "", spoofed, site=site)
    assert answer.status == (401 if site == "operators" else 403), answer


def test_the_site_of_a_request_is_the_proxys_word(fleet: ProxiedFleet) -> None:
    """Joining is for the join site, also when the client claims to be there."""
    answer = raw_request(fleet, None, "GET /v1/enrol/ca", "", {SITE: "join"}, site="operators")
    assert answer.status == 403, answer


def test_a_header_that_connection_lists_is_not_lost_with_it(fleet: ProxiedFleet, host: Path) -> None:
    """`Connection: X-Fleet-Peer-Certificate` asks the proxy to drop that header: it must not drop its own."""
    dropped = {"Connection": f"close, {CERTIFICATE}, {SITE}", **NOBODYS}
    answer = raw_request(fleet, host, "POST /v1/job/claim", json.dumps(CLAIM), dropped)
    assert (answer.status, "certificate host a" in str(answer.body)) == (403, True), answer


def test_two_operator_tokens_are_refused(fleet: ProxiedFleet, operator: Path) -> None:
    raw = request_text("POST /v1/manifest/reload", "", {"X-Operator-Token": TOKEN}).replace(
        b"\r\n\r\n", b"\r\nX-Operator-Token: another\r\nConnection: close\r\n\r\n", 1
    )
    (answer,) = answers_to(fleet, operator, raw, "operators")
    assert answer.status == 400, answer


def test_the_receiver_refuses_what_claims_to_be_the_proxy_twice(fleet: ProxiedFleet, host: Path) -> None:
    """At the socket itself: two sites, two certificates, a placeholder that Caddy did not fill in."""
    whole = {SITE: "workers", CERTIFICATE: certificate_header(host)}
    assert fleet.receiver.send("GET", "/v1/jobs", headers=whole).status == 200
    for more in (f"{SITE}: join", f"{CERTIFICATE}: {certificate_header(host)}"):
        connection = fleet.receiver.connection()
        with contextlib.closing(connection):
            connection.connect()
            text = request_text("GET /v1/jobs", "", whole).replace(
                b"\r\n\r\n", f"\r\n{more}\r\n\r\n".encode(), 1
            )
            assert connection.sock is not None
            connection.sock.sendall(text)
            assert next(read_answers(connection.sock)).status == 401
    placeholder = {SITE: "operators", CERTIFICATE: "{http.request.tls.client.certificate_der_base64}"}
    assert fleet.receiver.send("GET", "/v1/jobs", headers=placeholder).status == 401


@pytest.mark.parametrize("site", SITES)
def test_of_the_headers_about_a_peer_the_receiver_sees_the_proxys_alone(
    tmp_path: Path, fleet: ProxiedFleet, host: Path, operator: Path, site: SiteName
) -> None:
    """What reaches the socket, whatever the client sent under such names."""
    identity = {"join": None, "workers": host, "operators": operator}[site]
    spoofed = {
        spelling.format(word): certificate_header(fleet.pki.reader("rita"))
        for spelling in SPELLINGS[:-1]
        for word in ("Certificate", "Site", "Anything")
    }
    with recording_socket() as (path, heads), second_proxy(tmp_path, fleet, path) as (proxy, _):
        raw_request(proxy, identity, "GET /v1/jobs", "", spoofed, site=site)
    about_peers = sorted(line for line in heads[0].split("\r\n") if re.match("(?i)x.fleet.peer", line))
    expected = [f"{SITE}: {site}"]
    if identity is not None:
        expected.insert(0, f"{CERTIFICATE}: {certificate_header(identity)}")
    assert about_peers == expected


@contextlib.contextmanager
def recording_socket() -> Iterator[tuple[str, list[str]]]:
    """A Unix socket, and the head of the one request that came there."""
    heads: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="fleet-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        listener.bind(f"{folder}/socket")
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection, connection.makefile("rb") as file:
                heads.append(b"".join(iter(file.readline, b"\r\n")).decode("latin-1"))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        answered = pool.submit(answer)
        yield f"{folder}/socket", heads
        answered.result(timeout=20)


# -- names and versions of TLS


@pytest.mark.parametrize("site", ["join", "workers"])
def test_a_request_for_another_name_than_the_connections_is_misdirected(
    fleet: ProxiedFleet, host: Path, site: SiteName
) -> None:
    identity = host if site == "workers" else None
    with contextlib.closing(fleet.connection(identity, site, host="other.example")) as connection:
        answer = answer_over(connection, "GET", "/v1/health")
    assert (answer.status, "differ" in answer.body["error"]) == (421, True)


def test_a_browser_may_use_an_address_instead_of_the_name(fleet: ProxiedFleet) -> None:
    """At the operators' site: no name in the handshake, the address as Host; the certificate names it too."""
    context = fleet.context(None)
    with contextlib.closing(fleet.connection(None, "operators", host=fleet.address)) as connection:
        plain = socket.create_connection((fleet.address, fleet.port("operators")), timeout=20)
        connection.sock = context.wrap_socket(plain, server_hostname=fleet.address)
        assert answer_over(connection, "GET", "/login").status == 200


@pytest.mark.parametrize("site", SITES)
def test_older_versions_of_tls_are_refused(fleet: ProxiedFleet, host: Path, site: SiteName) -> None:
    context = fleet.context(host)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = fleet.connection(None, site, context=context)
    with contextlib.closing(connection), pytest.raises(ssl.SSLError) as refused:
        connection.connect()
    assert "PROTOCOL_VERSION" in str(refused.value.reason)


# -- two requests where one was meant


def test_what_follows_a_smuggled_end_is_of_the_same_host(
    fleet: ProxiedFleet, host: Path, operator: Path
) -> None:
    """Content-Length and Transfer-Encoding at once: refused, or read as two requests of one and the same host."""
    hidden = request_text(
        "POST /v1/job/claim", json.dumps(CLAIM),
        {CERTIFICATE: certificate_header(operator), SITE: "operators", "X-Operator-Token": TOKEN,
         "Connection": "close", **NOBODYS},
    )  # fmt: skip
    outer = (
        b"POST /v1/job/claim HTTP/1.1\r\nHost: receiver.cis490.internal\r\nX-Lab-Host: nobody\r\n"
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % (12 + len(hidden))
    )
    answers = answers_to(fleet, host, outer + hidden)
    assert answers, "an answer, whatever it is"
    for answer in answers:
        assert answer.status == 400 or "certificate host a" in str(answer.body), answer


@pytest.mark.parametrize(
    "header",
    [
        "Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked, identity",
        "Content-Length: 5\r\nContent-Length: 6", "Content-Length: +5", "Content-Length: 5, 6",
    ],
)  # fmt: skip
def test_a_body_whose_end_is_in_doubt_is_refused(fleet: ProxiedFleet, host: Path, header: str) -> None:
    text = f"POST /v1/job/claim HTTP/1.1\r\nHost: receiver.cis490.internal\r\n{header}\r\n\r\n0\r\n\r\n"
    answers = answers_to(fleet, host, text.encode() + request_text("GET /v1/jobs", "", {}))
    assert [answer.status for answer in answers] in ([400], [501]), answers


# -- limits


def test_clients_that_do_not_go_on_are_hung_up_on(fleet: ProxiedFleet, host: Path) -> None:
    with contextlib.ExitStack() as stack:
        quiet: list[socket.socket] = []
        for begun in (b"", b"\x16\x03\x01\x02\x00"):  # nothing, half a handshake
            plain = socket.create_connection((fleet.address, fleet.port("workers")), timeout=20)
            quiet.append(stack.enter_context(plain))
            plain.sendall(begun)
        connection = stack.enter_context(contextlib.closing(fleet.connection(host)))
        connection.connect()
        assert connection.sock is not None
        connection.sock.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: receiver.cis490.internal\r\nX-Slow: ")
        for sock in (*quiet, connection.sock):
            assert b" 200 " not in until_the_end(sock)


def until_the_end(sock: socket.socket) -> bytes:
    """What comes before the other side hangs up; TimeoutError if it does not."""
    said = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while more := sock.recv(4096):
            said += more
    return said


def test_headers_have_an_end(fleet: ProxiedFleet, host: Path) -> None:
    answers = answers_to(fleet, host, request_text("GET /v1/jobs", "", {"X-Long": "x" * 24 * 1024}))
    assert [answer.status for answer in answers] in ([431], []), answers


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("form", ["with its length", "in chunks"])
def test_nothing_in_a_long_body_is_taken_for_a_further_request(
    fleet: ProxiedFleet, host: Path, operator: Path, site: SiteName, form: str
) -> None:
    """Though the answer comes before it is read. Caddy 2.11 would; so no connection is kept after one."""
    identity = {"join": None, "workers": host, "operators": operator}[site]
    path = {"join": "/v1/enrol/join", "workers": "/v1/job/claim", "operators": "/v1/manifest/reload"}[site]
    body = request_text("GET /v1/health", "", {}) * 30_000
    head = {"X-Operator-Token": TOKEN, "Content-Length": str(len(body))}
    if form == "in chunks":
        head, body = (
            {"X-Operator-Token": TOKEN, "Transfer-Encoding": "chunked", "Content-Length": ""},
            chunked(body),
        )
    text = request_text(f"POST {path}", "", head).replace(b"Content-Length: \r\n", b"")
    last = request_text("GET /v1/nothing", "", {"Connection": "close"})
    first, *others = answers_to(fleet, identity, text + body + last, site)
    assert first.status == 413, first
    if form == "in chunks" and fleet.build == "debian":  # which reads it to its end
        assert "nothing" in str(others[0].body) or others[0].status in (401, 403)
        assert len(others) == 1
    else:
        assert (first.headers["connection"], others) == ("close", [])


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_an_artifact_beyond_the_receivers_limit_is_refused_in_the_receivers_words(
    tmp_path: Path, fleet: ProxiedFleet, host: Path
) -> None:
    """Also to a client that is still sending: else it would call the network broken and try for ever."""
    bundle = tmp_path / "bundle"
    bundle.write_bytes(bytes(17 * MIB))
    job_id, token = lease(fleet)
    client = FleetClient(fleet.pki.fleet.workers_url, host="a", credentials=host)
    with contextlib.closing(client), pytest.raises(Refused) as found:
        client.upload(job_id, token, bundle, "0" * 64)
    refused = found.value
    assert (refused.status, "this receiver takes at most 16777216" in refused.reason) == (413, True)


# -- what has to pass


def lease(fleet: ProxiedFleet) -> tuple[str, str]:
    """(job, lease token) of a job that the host a holds."""
    found = fleet.receiver.queue.claim("a", {"cores": 4}, with_token=True)
    assert found.row is not None
    assert found.lease is not None
    assert found.lease.token is not None
    return found.row.job_id, found.lease.token


def test_a_large_artifact_arrives_whole(fleet: ProxiedFleet, host: Path) -> None:
    data = os.urandom(15 * MIB)
    digest = hashlib.sha256(data).hexdigest()
    job_id, token = lease(fleet)
    headers = {"X-Content-SHA256": digest, "X-Lease-Token": token}
    stored = fleet.send(host, "PUT", f"/v1/model/{job_id}", data, headers)
    assert (stored.status, stored.body["artifact_id"]) == (201, digest)
    reader = fleet.pki.reader("rita")
    got = fleet.send(reader, "GET", f"/v1/model/{digest}", site="operators")
    assert hashlib.sha256(got.raw).hexdigest() == digest
    part = fleet.send(reader, "GET", f"/v1/model/{digest}", None, {"Range": "bytes=5-9"}, site="operators")
    assert (part.status, part.raw) == (206, data[5:10])


def test_a_claim_waits_through_the_proxy_for_its_job(fleet: ProxiedFleet, host: Path, operator: Path) -> None:
    """Longer than the headers may take, which must not count for the wait."""
    waiters = fleet.receiver.coordinator.waiters
    token = {"X-Operator-Token": TOKEN}
    paused = fleet.send(operator, "POST", "/v1/fleet/pause", None, token, site="operators")
    assert paused.status == 200
    with ThreadPoolExecutor(1) as pool:
        body = {"capability": {"cores": 4}, "wait_s": 20.0}
        waiting = pool.submit(fleet.send, host, "POST", "/v1/job/claim", body)
        wait_until(lambda: len(waiters) == 1, "a claim that waits")
        assert not waiting.done()
        resumed = fleet.send(operator, "POST", "/v1/fleet/resume", None, token, site="operators")
        assert resumed.status == 200
        assert waiting.result(timeout=20).body.get("job_id")


def test_a_claim_whose_client_has_gone_waits_no_longer(
    fleet: ProxiedFleet, host: Path, operator: Path
) -> None:
    """Else a job would be given to nobody."""
    waiters = fleet.receiver.coordinator.waiters
    token = {"X-Operator-Token": TOKEN}
    assert fleet.send(operator, "POST", "/v1/fleet/pause", None, token, site="operators").status == 200
    connection = fleet.connection(host)
    connection.request("POST", "/v1/job/claim", json.dumps({"capability": {}, "wait_s": 60.0}).encode())
    wait_until(lambda: len(waiters) == 1, "a claim that waits")
    connection.close()
    wait_until(lambda: len(waiters) == 0, "the end of a claim whose client has gone")
    assert fleet.send(operator, "POST", "/v1/fleet/resume", None, token, site="operators").status == 200


def test_events_come_one_by_one_as_they_happen(fleet: ProxiedFleet, operator: Path) -> None:
    """Nothing between them gathers events: each is read before the next one is caused."""
    with contextlib.closing(fleet.connection(operator, "operators")) as connection:
        connection.request("GET", "/v1/events?kind=fleet")
        stream = connection.getresponse()
        assert stream.status == 200
        assert next_event(stream) == "hello"
        token = {"X-Operator-Token": TOKEN}
        for verb in ("pause", "resume"):
            fleet.send(operator, "POST", f"/v1/fleet/{verb}", None, token, site="operators")
            assert next_event(stream).startswith("fleet")


def next_event(stream: http.client.HTTPResponse) -> str:
    """The kind of the next event of a stream."""
    while line := stream.readline():
        if line.startswith(b"event: "):
            return line.decode().removeprefix("event: ").strip()
    raise AssertionError("the stream has ended")


def test_a_browser_logs_in_and_its_cookie_is_for_https_alone(fleet: ProxiedFleet) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    answer = fleet.send(None, "POST", "/login", f"token={TOKEN}".encode(), form, site="operators")
    cookie = answer.headers["set-cookie"]
    assert (answer.status, "Secure" in cookie, "HttpOnly" in cookie) == (303, True, True)
    page = fleet.send(
        None, "GET", "/", None, {"Cookie": cookie.partition(";")[0], "Accept": "text/html"}, site="operators"
    )
    assert page.status == 200


def test_a_browser_without_a_login_is_led_to_it(fleet: ProxiedFleet) -> None:
    answer = fleet.send(None, "GET", "/jobs", None, {"Accept": "text/html"}, site="operators")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2Fjobs")


# -- what the proxy says and writes by itself


@contextlib.contextmanager
def second_proxy(folder: Path, fleet: ProxiedFleet, unix_path: str) -> Iterator[tuple[ProxiedFleet, Path]]:
    """Another Caddy for the same lab, in front of this socket; it writes down all that it can."""
    files = fleet.pki.server_files
    lab = replace(fleet.pki.fleet, join_port=19990, workers_port=19991, operators_port=19992)
    settings = caddyfile.Settings(
        lab, str(files.certificate), str(files.key), str(files.pool), unix_path, bind=fleet.address
    )
    with caddy(caddy_program(fleet.build), settings, folder, debug=True) as (_, log):
        yield replace(fleet, ports=(19990, 19991, 19992)), log


def test_without_a_receiver_the_proxy_says_what_to_type(
    tmp_path: Path, fleet: ProxiedFleet, host: Path
) -> None:
    with second_proxy(tmp_path, fleet, str(tmp_path / "nobody.sock")) as (alone, _):
        answer = alone.send(host, "GET", "/v1/jobs")
    assert (answer.status, answer.headers["retry-after"]) == (502, "5")
    assert "systemctl status cis490-trainer-receiver" in answer.body["error"]


@pytest.mark.parametrize("is_there", [True, False], ids=["receiver", "no receiver"])
def test_the_proxy_writes_down_no_secret(
    tmp_path: Path, fleet: ProxiedFleet, operator: Path, is_there: bool
) -> None:
    canary = "canary-of-this-test"
    secrets = {
        "X-Operator-Token": canary,
        "X-Lease-Token": canary,
        "Cookie": f"x={canary}",
        "Authorization": canary,
    }
    unix_path = str(fleet.receiver.unix_path) if is_there else str(tmp_path / "nobody.sock")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with second_proxy(tmp_path, fleet, unix_path) as (watched, log):
        watched.send(operator, "GET", "/v1/jobs", None, secrets, site="operators")
        login = watched.send(None, "POST", "/login", f"token={TOKEN}".encode(), form, site="operators")
        wait_until(lambda: "/v1/jobs" in log.read_text() and "/login" in log.read_text(), "what Caddy writes")
        written = log.read_text(encoding="utf-8")
    cookie = login.headers.get("set-cookie", "=no cookie;").partition("=")[2].partition(";")[0]
    assert [
        secret for secret in (canary, TOKEN, cookie, certificate_header(operator)) if secret in written
    ] == []


# -- bytes on the wire


def request_text(line: str, body: str, headers: dict[str, str]) -> bytes:
    """A request as it is sent; its Content-Length is right unless `headers` say another."""
    found = {"Host": "receiver.cis490.internal", "Content-Length": str(len(body)), **headers}
    lines = [f"{line} HTTP/1.1", *(f"{key}: {value}" for key, value in found.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def raw_request(
    fleet: ProxiedFleet,
    identity: Path | None,
    line: str,
    body: str,
    headers: dict[str, str],
    site: SiteName = "workers",
) -> Answer:
    """One request with header names exactly as given."""
    (answer,) = answers_to(
        fleet,
        identity,
        request_text(line, body, {**headers, "Connection": headers.get("Connection", "close")}),
        site,
    )
    return answer


def answers_to(
    fleet: ProxiedFleet, identity: Path | None, text: bytes, site: SiteName = "workers"
) -> list[Answer]:
    """All answers to these bytes, until the server ends the connection or stays silent after the last one."""
    with contextlib.closing(fleet.connection(identity, site)) as connection:
        connection.connect()
        assert connection.sock is not None
        with contextlib.suppress(OSError):  # it may have stopped reading
            connection.sock.sendall(text)
        return list(read_answers(connection.sock))


def read_answers(sock: socket.socket) -> Iterator[Answer]:
    """The answers on a connection; a server that keeps it open is known by its silence after `read_header_s`."""
    while True:
        response = http.client.HTTPResponse(sock)
        try:
            response.begin()
            raw = response.read()
        except (http.client.HTTPException, OSError):
            return
        finally:
            response.close()
        parsed = json.loads(raw) if raw[:1] in (b"{", b"[") else None
        yield Answer(
            response.status, parsed, raw, {key.lower(): value for key, value in response.getheaders()}
        )
        if response.will_close:
            return
