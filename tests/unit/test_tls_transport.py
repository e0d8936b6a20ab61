"""Requests over TLS to servers that misbehave, each a real one on loopback: what is repeated, and what is said."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories.fleet_pki import FleetPki, ServerFiles
from training.fleet import credentials
from training.fleet.client import FleetClient, Unreachable
from training.fleet.tls_identity import Identity
from training.fleet.transport import Transport

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}'


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("lab"))


Behaviour = Callable[[socket.socket, int], None]
"""What a server does with a connection, the n-th one from 0."""


@contextlib.contextmanager
def server(behave: Behaviour) -> Iterator[str]:
    """Its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def run() -> None:
        count = 0
        while True:
            plain, _ = listening.accept()
            if is_over.is_set():
                plain.close()
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(20)
                behave(plain, count)
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        is_over.set()
        socket.create_connection(listening.getsockname()).close()
        thread.join(20)
        listening.close()


def context(
    lab: FleetPki, files: ServerFiles | None = None, *, asks: bool = True, pool: Path | None = None
) -> ssl.SSLContext:
    found = files or lab.server_files
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(found.certificate, found.key)
    if asks:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(pool or found.pool)
    return made


def read_head(tls: ssl.SSLSocket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += tls.recv(4096) or b"\r\n\r\n"
    return data


def answering(made: ssl.SSLContext) -> Behaviour:
    def behave(plain: socket.socket, count: int) -> None:
        with made.wrap_socket(plain, server_side=True) as tls:
            read_head(tls)
            tls.sendall(ANSWER)

    return behave


def client_of(folder: Path, url: str) -> FleetClient:
    return FleetClient(url, credentials=folder, timeout_s=10.0)


def said(folder: Path, behave: Behaviour) -> str:
    """What a client with these credentials says of such a server."""
    with server(behave) as url:
        client = client_of(folder, url)
        with pytest.raises(Unreachable) as fault:
            client.health()
        client.close()
        return str(fault.value)


def test_a_server_is_asked_for_by_its_name_whatever_the_address(lab: FleetPki) -> None:
    names: list[str | None] = []
    heads: list[bytes] = []
    made = context(lab)
    made.sni_callback = lambda _, name, __: names.append(name)

    def behave(plain: socket.socket, count: int) -> None:
        with made.wrap_socket(plain, server_side=True) as tls:
            heads.append(read_head(tls))
            tls.sendall(ANSWER)

    with server(behave) as url:
        assert client_of(lab.host("pc-1"), url).health() == {"status": "ok"}
    assert names == [lab.fleet.server_name]
    assert heads[0].count(b"\r\nHost: ") == 1
    assert f"\r\nHost: {lab.fleet.server_name}\r\n".encode() in heads[0]


@pytest.mark.parametrize("rudely", [False, True])
def test_a_kept_connection_that_was_closed_is_opened_again(lab: FleetPki, rudely: bool) -> None:
    """With the close that TLS knows, and by a reset in the middle of nothing."""
    made = context(lab)
    was_read, is_closed = threading.Event(), threading.Event()

    def behave(plain: socket.socket, count: int) -> None:
        with made.wrap_socket(plain, server_side=True) as tls:
            read_head(tls)
            tls.sendall(ANSWER)
            was_read.wait(20)
            if rudely and count == 0:
                tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif count == 0:
                tls.setblocking(False)
                with contextlib.suppress(
                    ssl.SSLWantReadError
                ):  # says goodbye, and does not wait for the other's
                    tls.unwrap()
        is_closed.set()

    with server(behave) as url:
        client = client_of(lab.host("pc-1"), url)
        assert client.health() == {"status": "ok"}
        was_read.set()
        assert is_closed.wait(20)
        assert client.health() == {"status": "ok"}
        client.close()


def test_a_server_without_tls(lab: FleetPki) -> None:
    def behave(plain: socket.socket, count: int) -> None:
        plain.recv(4096)
        plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert "does not speak TLS" in said(lab.host("pc-1"), behave)


def test_a_server_that_knows_tls_1_2_alone(lab: FleetPki) -> None:
    made = context(lab)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "TLS 1.3" in said(lab.host("pc-1"), answering(made))


def test_an_expired_server(lab: FleetPki) -> None:
    from datetime import timedelta

    files = lab.make_server_files("expired", expired=timedelta(days=1))
    text = said(lab.host("pc-1"), answering(context(lab, files)))
    assert "the receiver's certificate has expired by this clock" in text


def test_a_server_with_another_name(lab: FleetPki) -> None:
    files = lab.make_server_files("other", hosts=("127.0.0.1",))
    assert f"not made for {lab.fleet.server_name}" in said(lab.host("pc-1"), answering(context(lab, files)))


def test_a_client_certificate_does_not_do_for_a_server(lab: FleetPki, tmp_path: Path) -> None:
    """A host must not be able to play the receiver with its own certificate."""
    identity = lab.host("pc-9") / credentials.IDENTITY
    files = replace(lab.server_files, certificate=identity, key=identity)
    text = said(lab.host("pc-1"), answering(context(lab, files)))
    assert "not of this lab" in text or "not made for" in text


@pytest.mark.parametrize("as_alert", [True, False])
def test_a_server_that_does_not_take_our_certificate(lab: FleetPki, as_alert: bool) -> None:
    made = context(lab)

    def behave(plain: socket.socket, count: int) -> None:
        if not as_alert:  # the alert is lost when the connection is reset behind it
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.wrap_socket(plain, server_side=True)

    text = said(lab.host("pc-1", other_ca=True), behave)
    assert "certificate of pc-1" in text


def test_an_expired_one_of_ours_is_named_however_the_server_refuses_it(lab: FleetPki) -> None:
    text = said(lab.host("pc-1", expired=True), answering(context(lab)))
    assert "the certificate of pc-1 expired on" in text


def test_a_proxy_that_does_not_run_is_not_taken_for_one_that_refuses_us(lab: FleetPki) -> None:
    """Whatever asks first: a JSON request, or a look at the clock."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    transport = Transport(url, {}, 10.0, Identity(lab.host("pc-1")))
    asked: list[Callable[[], object]] = [
        lambda: transport.json("GET", "/v1/health", None, {}),
        lambda: transport.clock("/v1/health"),
    ]
    for ask in asked:
        with pytest.raises(Unreachable, match="Connection refused") as fault:
            ask()
        assert "certificate" not in str(fault.value)
    transport.close()


def test_a_server_that_says_nothing_is_a_timeout(lab: FleetPki) -> None:
    over = threading.Event()

    def behave(plain: socket.socket, count: int) -> None:
        over.wait(20)

    with server(behave) as url:
        client = FleetClient(url, credentials=lab.host("pc-1"), timeout_s=0.2)
        try:
            with pytest.raises(Unreachable, match="in time"):
                client.health()
        finally:
            over.set()
