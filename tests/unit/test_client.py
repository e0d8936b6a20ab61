"""The client over real HTTP: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.factories.fake_receiver import TOKEN, FakeReceiver, Seen, lease
from training.fleet.client import (
    FleetClient,
    FleetError,
    LeaseGone,
    Refused,
    Unreachable,
    backoff_s,
    retry_reason,
)
from training.fleet.types import Capability
from training.fleet.wire import CompleteRequest, FailRequest, Progress

JOB = "a" * 64


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def client(receiver: FakeReceiver) -> FleetClient:
    return FleetClient(receiver.url, host="lab-a", operator_token="operator-secret", timeout_s=5.0)


def test_a_claim_tells_who_asks_and_returns_the_lease(receiver: FakeReceiver, client: FleetClient) -> None:
    receiver.jobs.append(lease(epoch=7))
    answer = client.claim(Capability(hostname="lab-a", cores=4), request_id="id-1", wait_s=2.0)
    seen = receiver.of("claim")[0]
    assert seen.headers["X-Lab-Host"] == "lab-a"
    assert seen.headers["X-Fleet-Protocol"] == "2"
    assert seen.headers["X-Claim-Request"] == "id-1"
    assert seen.body == {"capability": {"hostname": "lab-a", "cores": 4}, "wait_s": 2.0}
    assert answer is not None
    assert (answer.epoch, answer.heartbeat_s, answer.lease_token) == (7, 30.0, f"{TOKEN}-7")


def test_no_job_is_none_with_the_receivers_reason(client: FleetClient) -> None:
    assert client.claim(Capability(), request_id="id-1") is None
    assert client.idle_reason == "no job is pending"


@pytest.mark.parametrize(
    "damage",
    [
        {"job_id": "../../etc/passwd"},
        {"dataset_id": "../x"},
        {"spec": []},
        {"epoch": True},
        {"lease_s": "600"},
        {"heartbeat_s": 0},
        {"lease_token": 5},
    ],
)
def test_an_answer_that_is_no_lease_is_asked_again(
    receiver: FakeReceiver, client: FleetClient, damage: dict[str, object]
) -> None:
    receiver.jobs.append(lease() | damage)
    with pytest.raises(Unreachable):
        client.claim(Capability(), request_id="id-1")


def test_every_later_request_shows_the_lease_token(receiver: FakeReceiver, client: FleetClient) -> None:
    client.heartbeat(JOB, TOKEN, Progress(step=3, total=10, metric={"auc": 0.5}))
    client.complete(JOB, TOKEN, CompleteRequest("b" * 64, {"auc": 0.9}))
    client.fail(JOB, TOKEN, FailRequest("it broke", "oom"))
    client.release(JOB, TOKEN, "stopped")
    assert [one.headers["X-Lease-Token"] for one in receiver.seen] == [TOKEN] * 4
    heartbeat, complete, fail, release = (one.body for one in receiver.seen)
    assert heartbeat["progress"]["step"] == 3
    assert complete["artifact_id"] == "b" * 64
    assert (fail["error"], fail["fail_class"]) == ("it broke", "oom")
    assert release == {"reason": "stopped"}


def test_small_requests_share_one_connection(receiver: FakeReceiver, client: FleetClient) -> None:
    ports: set[str] = set()
    receiver.answer["health"] = lambda seen: (200, {"status": "ok"})
    for _ in range(3):
        client.health()
        local = client._transport._local.connection.sock.getsockname()
        ports.add(str(local))
        assert client._transport._local.connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert len(ports) == 1


def test_a_kept_connection_that_was_closed_is_replaced_unnoticed(
    receiver: FakeReceiver, client: FleetClient
) -> None:
    client.health()
    client._transport._local.connection.sock.shutdown(socket.SHUT_RDWR)
    assert client.health() == {"ok": True, "lease_s": 600}


def test_a_stopping_worker_gets_its_release_through_a_connection_that_was_closed_meanwhile(
    receiver: FakeReceiver, client: FleetClient
) -> None:
    """A server closes kept connections within seconds, and a training takes longer."""
    client.claim(Capability(), request_id="id-1")
    client._transport._local.connection.sock.shutdown(socket.SHUT_RDWR)
    client.hurry(5.0)
    client.release(JOB, TOKEN, "stopped")
    assert receiver.verbs() == ["claim", "release"]


def test_a_refusal_carries_status_and_reason_but_no_token(
    receiver: FakeReceiver, client: FleetClient
) -> None:
    receiver.answer["cancel"] = lambda seen: (409, {"ok": False, "error": "the job is already completed"})
    with pytest.raises(Refused) as caught:
        client.cancel(JOB)
    assert (caught.value.status, caught.value.reason) == (409, "the job is already completed")
    assert receiver.of("cancel")[0].headers["X-Operator-Token"] == "operator-secret"
    assert "secret" not in f"{caught.value}{caught.value!r}{client!r}"
    assert client.requeue(JOB)["ok"] is True  # a refusal does not spoil the connection


def test_410_is_the_end_of_the_lease(receiver: FakeReceiver, client: FleetClient) -> None:
    receiver.answer["heartbeat"] = lambda seen: (410, {"error": "gone", "reason": "the job was cancelled"})
    with pytest.raises(LeaseGone, match="the job was cancelled") as caught:
        client.heartbeat(JOB, TOKEN)
    assert TOKEN not in str(caught.value)
    assert retry_reason(caught.value) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>Welcome to the hotel's WLAN</html>"),
        (502, b"<html>Bad Gateway</html>"),
        (404, b"<html>Not Found</html>"),
        (200, b"[1, 2]"),
        (200, b'{"status": "o'),
        (200, b"\xff\xfe"),
        (302, b"{}"),
    ],
)
def test_what_the_receiver_never_says_is_no_answer(
    receiver: FakeReceiver, client: FleetClient, status: int, body: bytes
) -> None:
    receiver.answer["health"] = lambda seen: (status, body)
    with pytest.raises(Unreachable, match="not the receiver"):
        client.health()


def test_nobody_at_the_address_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        Unreachable, match=rf"GET /v1/health at http://127.0.0.1:{port} got no answer"
    ) as caught:
        FleetClient(f"http://127.0.0.1:{port}").health()
    assert retry_reason(caught.value) == "no answer"


def test_a_receiver_that_hangs_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = FleetClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(Unreachable, match="got no answer in time"):
            client.health()


def test_a_waiting_claim_can_be_interrupted_and_the_lease_still_be_released(receiver: FakeReceiver) -> None:
    client = FleetClient(receiver.url, timeout_s=5.0)
    reached, let_go = threading.Event(), threading.Event()

    def wait(seen: object) -> tuple[int, dict[str, object]]:
        reached.set()
        let_go.wait(10)
        return 200, {"job": None}

    receiver.answer["claim"] = wait

    def interrupt() -> None:
        reached.wait(10)
        client.hurry(1.0)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Unreachable):
        client.claim(Capability(), request_id="id-1", wait_s=60.0)
    let_go.set()
    with pytest.raises(Unreachable, match="this worker is stopping"):
        client.claim(Capability(), request_id="id-1")
    client.release(JOB, TOKEN, "stopped")


@pytest.mark.parametrize(
    ("status", "body", "again"),
    [
        (400, {}, False),
        (400, {"status": "sha-mismatch"}, True),
        (401, {}, False),
        (403, {}, False),
        (404, {}, False),
        (409, {}, False),
        (410, {}, False),
        (413, {}, False),
        (429, {}, True),
        (500, {}, True),
        (503, {}, True),
        (507, {}, True),
    ],
)
def test_what_is_worth_asking_again_is_decided_in_one_place(
    status: int, body: dict[str, object], again: bool
) -> None:
    assert (retry_reason(Refused("PUT /x", status, "why", body)) is not None) is again


def test_pauses_grow_to_a_limit_and_are_spread_from_zero() -> None:
    longest = [backoff_s(attempt, 1.0) for attempt in range(8)]
    assert longest == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert backoff_s(5, 0.0) == 0.0
    assert backoff_s(5, 0.5) == 16.0
    assert backoff_s(10_000, 1.0) == 60.0


# -- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar.zst"
    path.write_bytes(bytes(range(256)) * 12_000)  # 3 MB: several blocks
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_upload_streams_the_file_and_reports_progress(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    reports: list[tuple[int, int]] = []
    status = client.upload(JOB, TOKEN, bundle, sha(bundle), lambda done, total: reports.append((done, total)))
    seen = receiver.of("model")[0]
    assert status == "stored"
    assert seen.raw == bundle.read_bytes()
    assert seen.headers["X-Content-SHA256"] == sha(bundle)
    assert reports[-1] == (len(seen.raw), len(seen.raw))
    assert len(reports) == 3


def test_bytes_damaged_on_the_way_are_worth_sending_again(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    with pytest.raises(Refused) as caught:
        client.upload(JOB, TOKEN, bundle, "0" * 64)
    assert caught.value.reason == "sha-mismatch"
    assert retry_reason(caught.value) == "the bytes were damaged on the way"


def test_a_large_upload_goes_on_where_the_receiver_says(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    receiver.answer["upload"] = lambda seen: (200, {"ok": True, "offset": 1_000_000})
    receiver.answer["model"] = lambda seen: (201, {"status": "stored"})
    reports: list[tuple[int, int]] = []
    client.upload(JOB, TOKEN, bundle, sha(bundle), lambda done, total: reports.append((done, total)))
    seen, size = receiver.of("model")[0], bundle.stat().st_size
    assert seen.headers["Content-Range"] == f"bytes 1000000-{size - 1}/{size}"
    assert seen.raw == bundle.read_bytes()[1_000_000:]
    assert reports[-1] == (size, size)
    asked = receiver.of("upload")[0]
    assert (asked.headers["X-Content-SHA256"], asked.headers["X-Lease-Token"]) == (sha(bundle), TOKEN)


def test_a_small_upload_asks_nothing(receiver: FakeReceiver, client: FleetClient, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    assert client.upload(JOB, TOKEN, small, sha(small)) == "stored"
    assert receiver.verbs() == ["model"]


def test_an_upload_that_the_receiver_has_stored_for_this_lease_is_not_sent_again(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    receiver.answer["upload"] = lambda seen: (200, {"ok": True, "offset": 5, "status": "stored"})
    assert client.upload(JOB, TOKEN, bundle, sha(bundle)) == "already-present"
    assert receiver.verbs() == ["upload"]


def test_an_upload_of_which_all_bytes_came_is_ended_with_an_empty_body(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    size = bundle.stat().st_size
    receiver.answer["upload"] = lambda seen: (200, {"ok": True, "offset": size})
    receiver.answer["model"] = lambda seen: (201, {"status": "stored"})
    client.upload(JOB, TOKEN, bundle, sha(bundle))
    seen = receiver.of("model")[0]
    assert (seen.headers["Content-Range"], seen.raw) == (f"bytes */{size}", b"")


def test_a_corrected_offset_is_believed_and_one_that_makes_no_sense_starts_anew(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    receiver.answer["upload"] = lambda seen: (200, {"ok": True, "offset": 1_000_000})
    told = iter([2_000_000, 10**12])

    def answer(seen: Seen) -> tuple[int, dict[str, object]]:
        offset = next(told, None)
        return (201, {"status": "stored"}) if offset is None else (416, {"error": "no", "offset": offset})

    receiver.answer["model"] = answer
    client.upload(JOB, TOKEN, bundle, sha(bundle))
    ranges = [seen.headers.get("Content-Range", "whole").partition("-")[0] for seen in receiver.of("model")]
    assert ranges == ["bytes 1000000", "bytes 2000000", "whole"]


def test_a_receiver_that_names_ever_other_offsets_is_not_asked_for_ever(
    receiver: FakeReceiver, client: FleetClient, bundle: Path
) -> None:
    receiver.answer["upload"] = lambda seen: (200, {"ok": True, "offset": 1})
    offsets = itertools.count(2)
    receiver.answer["model"] = lambda seen: (
        (416, {"error": "no", "offset": next(offsets)})
        if "Content-Range" in seen.headers
        else (201, {"status": "stored"})
    )
    assert client.upload(JOB, TOKEN, bundle, sha(bundle)) == "stored"
    assert len(receiver.of("model")) == 7


class TakesBundles(BaseHTTPRequestHandler):
    """Reads the body and stores it, in its words."""

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        body = b'{"status": "stored"}' if len(self.rfile.read(size)) == size else b'{"status": "cut short"}'
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with the openssl program")
def test_an_upload_over_tls_is_sent_although_the_protocol_itself_has_something_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(range(256)))
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("localhost", 0), TakesBundles) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.handle_request, daemon=True).start()
        client = FleetClient(f"https://localhost:{server.server_address[1]}", timeout_s=5.0)
        assert client.upload(JOB, TOKEN, small, sha(small)) == "stored"


class RefusesAtOnce(BaseHTTPRequestHandler):
    """Answers before it has read the body, and hangs up."""

    def do_PUT(self) -> None:
        body = b'{"error": "the bundle is over the limit of 1 MiB"}'
        self.send_response(413)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_answer_before_the_end_of_the_upload_is_heard(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(64 * 1024 * 1024)
    sent: list[int] = []
    with HTTPServer(("127.0.0.1", 0), RefusesAtOnce) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        client = FleetClient(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=5.0)
        with pytest.raises(FleetError) as caught:
            client.upload(JOB, TOKEN, large, "0" * 64, lambda done, total: sent.append(done))
    assert isinstance(caught.value, Refused | Unreachable)  # the kernel may reset the connection first
    assert max(sent, default=0) < 64 * 1024 * 1024


def test_a_dataset_arrives_whole_or_not_at_all(
    receiver: FakeReceiver, client: FleetClient, tmp_path: Path
) -> None:
    receiver.datasets["d" * 64] = b"x" * 3_000_000
    client.fetch_dataset("d" * 64, tmp_path / "set")
    assert (tmp_path / "set").read_bytes() == b"x" * 3_000_000
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(404, {"error": "no such data set"}, Refused), (200, b"<html>hotel</html>", Unreachable)],
)
def test_a_dataset_that_is_not_given_leaves_nothing(
    receiver: FakeReceiver,
    client: FleetClient,
    tmp_path: Path,
    status: int,
    body: bytes,
    kind: type[FleetError],
) -> None:
    receiver.answer["dataset"] = lambda seen: (status, body)
    with pytest.raises(kind):
        client.fetch_dataset("d" * 64, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


class BreaksOff(BaseHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 400)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_download_that_breaks_off_is_unreachable_and_leaves_nothing(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        client = FleetClient(f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(Unreachable, match="broke off after 400 of 1000 bytes"):
            client.download_model("a" * 64, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# -- addresses ---------------------------------------------------------------------------------------------


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    path = tmp_path / "receiver.sock"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}')

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        assert FleetClient(f"unix:{path}").health() == {"status": "ok"}
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8445",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://x:99999",
        "unix:relative.sock",
        "http://x/?q",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="expected http://HOST:PORT"):
        FleetClient(url)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="must not hold a user name") as caught:
        FleetClient("http://me:hunter2@x:1")
    assert "hunter2" not in str(caught.value)


def test_an_ipv6_address_and_a_path_prefix_are_understood() -> None:
    transport = FleetClient("http://[::1]:8445/lab/")._transport
    assert transport._prefix == "/lab"
    connection = transport._connect(1.0)
    assert (connection.host, connection.port) == ("::1", 8445)


def test_reads_return_rows_and_refuse_what_is_none(receiver: FakeReceiver, client: FleetClient) -> None:
    receiver.answer["jobs"] = lambda seen: (200, {"jobs": [{"name": "a"}]})
    receiver.answer["workers"] = lambda seen: (200, {"workers": "many"})
    assert client.jobs("pending") == [{"name": "a"}]
    assert receiver.of("jobs")[0].path == "/v1/jobs?status=pending"
    with pytest.raises(Unreachable):
        client.workers()
