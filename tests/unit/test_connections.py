"""What a request may say before its body: bounded in size, number and time, on a live receiver."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import connections
from training.fleet.connections import BoundedHttp

ONE_JOB = 'name = "one"\n[[hosts]]\nname = "a"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
START = b"POST /v1/job/claim HTTP/1.1\r\nHost: x\r\nX-Lab-Host: a\r\n"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, 'name = "empty"\n') as running:
        yield running


def talk(receiver: LiveReceiver, data: bytes) -> tuple[int, str]:
    """Status and sentence that these bytes get; (0, "") when the connection ended without a word."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        try:
            client.sendall(data)
        except ConnectionError:
            pass  # it was refused while it still talked
        return answer_on(client)


def answer_on(client: socket.socket) -> tuple[int, str]:
    parts = b""
    try:
        while part := client.recv(65536):
            parts += part
            head, _, body = parts.partition(b"\r\n\r\n")
            if body.endswith(b"}"):
                return int(head.split()[1]), json.loads(body).get("error", "")
    except ConnectionError:
        pass
    return 0, ""


def test_ordinary_headers_pass_and_the_connection_goes_on(receiver: LiveReceiver) -> None:
    filler = b"".join(b"X-%d: %s\r\n" % (index, b"v" * 200) for index in range(90))
    request = START + filler + b"Content-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        for _ in range(3):
            client.sendall(request)
            assert answer_on(client) == (200, "")


@pytest.mark.parametrize(
    "filler",
    [
        b"".join(b"X-%d: v\r\n" % index for index in range(200)),
        b"".join(b"X-%d: %s\r\n" % (index, b"v" * 4000) for index in range(20)),
    ],
    ids=["number", "size"],
)
def test_too_many_or_too_large_headers_are_431(receiver: LiveReceiver, filler: bytes) -> None:
    status, error = talk(receiver, START + filler + b"Content-Length: 2\r\n\r\n{}")
    assert status == 431
    assert str(connections.MAX_HEAD_BYTES) in error


def test_a_long_request_line_is_431(receiver: LiveReceiver) -> None:
    assert talk(receiver, b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 431


def test_one_header_without_an_end_is_cut_off_long_before_it_costs_memory(receiver: LiveReceiver) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(START + b"X-Endless: ")
        try:
            for _ in range(2000):
                sent += client.send(b"v" * 65536)
        except ConnectionError:
            pass  # as hoped
    assert sent < 16 << 20, "the rest is what the kernel's buffers took"


def test_what_is_no_http_is_400_in_json(receiver: LiveReceiver) -> None:
    assert talk(receiver, b"\x16\x03\x01 hello\r\n\r\n") == (400, "this is not an HTTP request")


@pytest.mark.parametrize("start", [b"", b"GET /v1/health HT", START], ids=["silent", "half a line", "no end"])
def test_a_head_that_does_not_come_to_an_end_is_408(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(BoundedHttp, "head_s", 0.2)
    status, error = talk(receiver, start)
    assert (status, "0.2 s" in error) == (408, True)


@pytest.mark.parametrize("body", [b"", b"{"], ids=["nothing", "half"])
@pytest.mark.parametrize("path", [b"/v1/job/claim", b"/login", b"/v1/nothing"])
def test_a_body_that_does_not_come_to_an_end_is_408(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch, path: bytes, body: bytes
) -> None:
    """Else whoever has a hundred bytes to send each hour uses up the receiver's connections."""
    monkeypatch.setattr(BoundedHttp, "body_s", 0.2)
    start = START.replace(b"/v1/job/claim", path) + b"Content-Length: 20\r\n\r\n"
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(start + body)
        status, error = answer_on(client)
        assert (status, "0.2 s" in error) == ((404, False) if path == b"/v1/nothing" else (408, True))
        assert client.recv(1) == b"", "the connection is over too"


def test_an_artifact_may_take_longer_than_other_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()

    def look(protocol: BoundedHttp) -> None:
        too_slow(protocol)
        looked.set()

    too_slow = BoundedHttp._body_too_slow
    monkeypatch.setattr(BoundedHttp, "body_s", 0.05)
    monkeypatch.setattr(BoundedHttp, "_body_too_slow", look)
    with live_receiver(tmp_path, ONE_JOB) as receiver:
        held = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}}).body
        head = (
            f"PUT /v1/model/{held['job_id']} HTTP/1.1\r\nHost: x\r\nX-Lab-Host: a\r\nContent-Length: 8\r\n"
            f"X-Content-SHA256: {hashlib.sha256(b'artifact').hexdigest()}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
            client.sendall(head.encode() + b"arti")
            for _ in range(2):
                assert looked.wait(timeout=10)
                looked.clear()
            client.sendall(b"fact")
            assert answer_on(client)[0] == 201


def test_what_follows_a_body_in_the_form_of_headers_is_none(receiver: LiveReceiver) -> None:
    """A proxy that takes names away from headers may pass them on as trailers."""
    start = START.replace(b"X-Lab-Host: a\r\n", b"Transfer-Encoding: chunked\r\nTrailer: X-Lab-Host\r\n")
    status, error = talk(receiver, start + b"\r\n2\r\n{}\r\n0\r\nX-Lab-Host: a\r\n\r\n")
    assert (status, "X-Lab-Host is missing" in error) == (400, True)


def test_the_deadline_is_for_the_head_not_for_the_answer(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that waits for a job keeps its connection."""
    monkeypatch.setattr(BoundedHttp, "head_s", 0.2)
    begin = time.monotonic()
    body = b'{"wait_s": 0.6}'
    status, _ = talk(receiver, START + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert (status, time.monotonic() - begin > 0.5) == (200, True)
