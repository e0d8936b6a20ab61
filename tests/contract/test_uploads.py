"""Uploads over the real receiver: broken off at any byte and continued, taken over, at once, refused in words."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.upload import CuttingProxy
from cis490.ballast import Ballast
from cis490.blobs import pipeline
from cis490.clock import ManualClock
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import partials
from training.fleet.client import FleetClient
from training.fleet.coordinator import Coordinator

MANIFEST = 'name = "uploads"\n' + "".join(
    f'[[jobs]]\nname = "job-{seed}"\nmodel = "gbt"\nmode = "realistic"\nseed = {seed}\n' for seed in range(50)
)
BODY = random.Random(1).randbytes(257)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, max_artifact_bytes=8 << 20) as running:
        yield running


def claim(receiver: LiveReceiver, host: str = "a") -> str:
    answer = receiver.worker("POST", "/v1/job/claim", {"capability": {}}, host=host)
    job_id: str = answer.body["job_id"]
    return job_id


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(
    receiver: LiveReceiver, job: str, data: bytes, *, digest: str, span: str = "", host: str = "a"
) -> Answer:
    headers = {"X-Content-SHA256": digest} | ({"Content-Range": f"bytes {span}"} if span else {})
    return receiver.worker("PUT", f"/v1/model/{job}", data, host=host, **headers)


def offset(receiver: LiveReceiver, job: str, digest: str | None = None, host: str = "a") -> int:
    headers = {} if digest is None else {"X-Content-SHA256": digest}
    found: int = receiver.worker("GET", f"/v1/job/{job}/upload", host=host, **headers).body["offset"]
    return found


def send_part(
    receiver: LiveReceiver,
    job: str,
    data: bytes,
    *,
    digest: str,
    length: int,
    span: str = "",
    host: str = "a",
) -> socket.socket:
    """A request whose body stops; the connection stays open until the caller closes it."""
    lines = [
        f"PUT /v1/model/{job} HTTP/1.1", "Host: x", f"X-Lab-Host: {host}", f"X-Content-SHA256: {digest}",
        f"Content-Length: {length}", *([f"Content-Range: bytes {span}"] if span else []),
    ]  # fmt: skip
    connection = socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    return connection


def cut_at(receiver: LiveReceiver, job: str, data: bytes, at: int) -> str:
    """Send `data` up to byte `at` and hang up; its digest, once the receiver has noticed."""
    digest = sha(data)
    send_part(receiver, job, data[:at], digest=digest, length=len(data)).close()
    wait_until(lambda: offset(receiver, job, digest) == at, f"{at} bytes at the receiver")
    return digest


def part_files(receiver: LiveReceiver) -> list[Path]:
    return sorted((receiver.store_root.parent / "incoming").iterdir())


def stored(receiver: LiveReceiver, digest: str) -> bytes:
    path = receiver.store.path_of(digest)
    assert path is not None
    return path.read_bytes()


def test_an_upload_that_is_cut_at_any_byte_goes_on_from_there(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte offset of a body; each time other bytes, so that none of them is known already."""
    monkeypatch.setattr(partials, "SETTLE_S", 0.001)
    job = claim(receiver)
    for at in range(len(BODY)):
        data = at.to_bytes(2, "big") + BODY[2:]
        digest = cut_at(receiver, job, data, at)
        done = put(receiver, job, data[at:], digest=digest, span=f"{at}-{len(data) - 1}/{len(data)}")
        assert (done.status, done.body["size_bytes"]) == (201, len(data)), at
        assert stored(receiver, digest) == data
    assert part_files(receiver) == []
    print(f"{len(BODY)} cuts, {len(BODY)} continued")


def test_a_large_upload_that_is_cut_again_and_again_sends_nothing_twice(receiver: LiveReceiver) -> None:
    random01 = random.Random(7)
    job, data = claim(receiver), random01.randbytes(5_000_000)
    digest, at = sha(data), 0
    for cut in sorted(random01.sample(range(1, len(data)), 6)):
        span = f"{at}-{len(data) - 1}/{len(data)}"
        send_part(receiver, job, data[at:cut], digest=digest, length=len(data) - at, span=span).close()
        wait_until(lambda cut=cut: offset(receiver, job, digest) == cut, f"{cut} bytes")  # type: ignore[misc]
        at = cut
    done = put(receiver, job, data[at:], digest=digest, span=f"{at}-{len(data) - 1}/{len(data)}")
    assert done.status == 201
    assert stored(receiver, digest) == data


def test_ranges_may_follow_each_other(receiver: LiveReceiver) -> None:
    job, digest, total = claim(receiver), sha(BODY), len(BODY)
    first = put(receiver, job, BODY[:100], digest=digest, span=f"0-99/{total}")
    assert (first.status, first.body) == (202, {"status": "partial", "offset": 100})
    second = put(receiver, job, BODY[100:200], digest=digest, span=f"100-199/{total}")
    assert (second.status, second.body) == (202, {"status": "partial", "offset": 200})
    assert put(receiver, job, BODY[200:], digest=digest, span=f"200-{total - 1}/{total}").status == 201
    assert stored(receiver, digest) == BODY
    assert receiver.worker("POST", f"/v1/job/{job}/complete", {"artifact_id": digest}).status == 200


@pytest.mark.parametrize("start", [0, 99, 101, 150])
def test_a_range_from_a_wrong_offset_is_416_with_the_right_one_and_loses_nothing(
    receiver: LiveReceiver, start: int
) -> None:
    job, digest, total = claim(receiver), sha(BODY), len(BODY)
    put(receiver, job, BODY[:100], digest=digest, span=f"0-99/{total}")
    refused = put(receiver, job, BODY[start:], digest=digest, span=f"{start}-{total - 1}/{total}")
    assert (refused.status, refused.body.get("offset")) == (416, 100)
    assert put(receiver, job, BODY[100:], digest=digest, span=f"100-{total - 1}/{total}").status == 201


@pytest.mark.parametrize(
    "span",
    [
        "100-256", "100-256/*", "-256/257", "100-/257", "bytes 100-256/257", "256-100/257", "100-257/257",
        "100-199/257", "100-256/256", "*/257", "100-256/9999999999999999999999",
        "١٠٠-256/257",
    ],
)  # fmt: skip
def test_a_range_that_contradicts_itself_is_400_in_words_and_loses_nothing(
    receiver: LiveReceiver, span: str
) -> None:
    job, digest = claim(receiver), sha(BODY)
    put(receiver, job, BODY[:100], digest=digest, span=f"0-99/{len(BODY)}")
    headers = {"X-Content-SHA256": digest, "Content-Range": f"bytes {span}".encode().decode("latin-1")}
    refused = receiver.worker("PUT", f"/v1/model/{job}", BODY[100:], **headers)
    assert (refused.status, refused.body["offset"]) == (400, 100)
    assert "Content-Range" in refused.body["error"]
    assert put(receiver, job, BODY[100:], digest=digest, span=f"100-256/{len(BODY)}").status == 201


def test_a_put_without_a_range_starts_anew(receiver: LiveReceiver) -> None:
    job = claim(receiver)
    digest = cut_at(receiver, job, BODY, 100)
    assert put(receiver, job, BODY, digest=digest).status == 201
    assert stored(receiver, digest) == BODY


def test_an_upload_whose_bytes_all_came_is_ended_without_a_body(receiver: LiveReceiver) -> None:
    """The receiver was killed between the last byte and the answer."""
    job, digest, total = claim(receiver), sha(BODY), len(BODY)
    put(receiver, job, BODY[:100], digest=digest, span=f"0-99/{total}")
    early = put(receiver, job, b"", digest=digest, span=f"*/{total}")
    assert (early.status, early.body["offset"]) == (416, 100)
    send_part(receiver, job, BODY[100:], digest=digest, length=1000, span=f"100-1099/{1100}").close()
    wait_until(lambda: offset(receiver, job, digest) == total, "all bytes")
    assert put(receiver, job, b"", digest=digest, span=f"*/{total}").status == 201
    assert stored(receiver, digest) == BODY


def test_a_stored_upload_is_told_so_when_asked(receiver: LiveReceiver) -> None:
    """The answer was lost: nothing need be sent again, as these very bytes came under this very lease."""
    job, digest = claim(receiver), sha(BODY)
    put(receiver, job, BODY, digest=digest)
    headers = {"X-Content-SHA256": digest}
    answer = receiver.worker("GET", f"/v1/job/{job}/upload", **headers)
    assert answer.body == {"ok": True, "offset": len(BODY), "status": "stored"}
    other = claim(receiver, "b")
    found = receiver.worker("GET", f"/v1/job/{other}/upload", host="b", **headers)
    assert found.body == {"ok": True, "offset": 0}


def test_the_offset_without_a_digest_is_that_of_the_attempts_only_upload(receiver: LiveReceiver) -> None:
    job = claim(receiver)
    assert offset(receiver, job) == 0
    cut_at(receiver, job, BODY, 10)
    assert offset(receiver, job) == 10
    cut_at(receiver, job, BODY + b"other", 20)
    assert offset(receiver, job) == 20
    assert len(part_files(receiver)) == 1, "the earlier upload of the attempt was given up"


def test_an_upload_goes_on_after_a_restart_of_the_receiver(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as first:
        job = claim(first)
        digest = cut_at(first, job, BODY, 100)
    with live_receiver(tmp_path, MANIFEST) as second:
        assert offset(second, job, digest) == 100
        assert put(second, job, BODY[100:], digest=digest, span=f"100-256/{len(BODY)}").status == 201
        assert stored(second, digest) == BODY
        assert part_files(second) == []


def test_a_part_whose_bytes_were_damaged_is_found_out_and_dropped(receiver: LiveReceiver) -> None:
    """As a power cut may leave it: right length, wrong content."""
    job = claim(receiver)
    digest = cut_at(receiver, job, BODY, 100)
    (part,) = part_files(receiver)
    part.write_bytes(bytes(99))  # another length: the hash that is kept in memory cannot be trusted any more
    assert offset(receiver, job, digest) in (99, 100)
    refused = put(receiver, job, BODY[100:], digest=digest, span="100-256/257")
    assert (refused.status, refused.body["offset"]) == (416, 99)
    refused = put(receiver, job, BODY[99:], digest=digest, span="99-256/257")
    assert (refused.status, refused.body["status"]) == (400, "sha-mismatch")
    assert part_files(receiver) == []
    assert put(receiver, job, BODY, digest=digest).status == 201


def test_a_later_request_takes_over_from_one_whose_connection_is_half_dead(receiver: LiveReceiver) -> None:
    job, digest = claim(receiver), sha(BODY)
    half_dead = send_part(receiver, job, BODY[:100], digest=digest, length=len(BODY))
    wait_until(lambda: is_receiving(receiver, job), "the first request to be read")
    assert put(receiver, job, BODY[100:], digest=digest, span="100-256/257").status == 201
    assert stored(receiver, digest) == BODY
    assert b" 503 " in half_dead.recv(4096).partition(b"\r\n")[0]
    half_dead.close()


def is_receiving(receiver: LiveReceiver, job: str) -> bool:
    """Whether a body for the job is being read just now."""
    sessions = list(receiver.store._partials._sessions.values())
    return any(session.key.job_id == job and session.pump is not None for session in sessions)


def test_of_two_that_send_one_upload_the_later_is_served_and_the_bytes_do_not_mix(
    receiver: LiveReceiver,
) -> None:
    job, digest = claim(receiver), sha(BODY)
    connections = [
        send_part(receiver, job, BODY[:n], digest=digest, length=len(BODY)) for n in (10, 200, 100)
    ]
    assert put(receiver, job, BODY, digest=digest).status in (200, 201)
    assert stored(receiver, digest) == BODY
    for connection in connections:
        connection.close()
    wait_until(lambda: part_files(receiver) == [], "an empty folder")


def test_fifty_uploads_at_once_all_arrive(receiver: LiveReceiver) -> None:
    jobs = [(claim(receiver, f"h{n}"), f"h{n}", random.Random(n).randbytes(300_000 + n)) for n in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda one: put(receiver, one[0], one[2], digest=sha(one[2]), host=one[1]), jobs)
        )
    assert [answer.status for answer in answers] == [201] * 50
    assert all(stored(receiver, sha(data)) == data for _, _, data in jobs)
    assert part_files(receiver) == []


def test_fifty_uploads_of_one_artifact_at_once_give_one_file_and_fifty_right_answers(
    receiver: LiveReceiver,
) -> None:
    data = random.Random(0).randbytes(400_000)
    jobs = [(claim(receiver, f"h{n}"), f"h{n}") for n in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda one: put(receiver, one[0], data, digest=sha(data), host=one[1]), jobs))
    assert sorted({answer.status for answer in answers}) in ([200, 201], [201])
    assert [answer.status for answer in answers].count(201) == 1
    assert {answer.body["artifact_id"] for answer in answers} == {sha(data)}
    files = [path for path in receiver.store_root.rglob("bundle.tar.zst") if path.is_file()]
    assert len(files) == 1
    assert files[0].stat().st_nlink == 1
    rows = (receiver.store_root / "index.jsonl").read_text().splitlines()
    assert len(rows) == 50
    assert part_files(receiver) == []


@pytest.mark.parametrize("span", ["", "100-256/257"])
def test_a_wrong_digest_leaves_no_byte_behind(receiver: LiveReceiver, span: str) -> None:
    job, digest = claim(receiver), sha(b"something else")
    if span:
        put(receiver, job, BODY[:100], digest=digest, span=f"0-99/{len(BODY)}")
    refused = put(receiver, job, BODY[100:] if span else BODY, digest=digest, span=span)
    assert (refused.status, refused.body["actual_sha256"]) == (400, sha(BODY))
    assert part_files(receiver) == []
    assert [path for path in receiver.store_root.rglob("*") if path.is_file()] == []


def test_a_total_over_the_limit_is_413_at_the_first_range(receiver: LiveReceiver) -> None:
    job = claim(receiver)
    refused = put(receiver, job, BODY[:100], digest=sha(BODY), span=f"0-99/{(8 << 20) + 1}")
    assert refused.status == 413
    assert part_files(receiver) == []


def test_an_interrupted_upload_goes_on_under_a_lapsed_lease_but_not_after_another_claim(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    with live_receiver(tmp_path, MANIFEST, clock=clock, stale_after_s=10.0) as receiver:
        job = claim(receiver)
        digest = cut_at(receiver, job, BODY, 100)
        clock.advance(60.0)
        receiver.queue.sweep_stale()
        assert offset(receiver, job, digest) == 100
        assert put(receiver, job, BODY[100:], digest=digest, span="100-256/257").status == 201
        again = BODY + b"again"
        second = cut_at(receiver, job, again, 100)
        while claim(receiver, "b") != job:
            pass
        for answer in (
            receiver.worker("GET", f"/v1/job/{job}/upload"),
            put(receiver, job, again[100:], digest=second, span="100-261/262"),
        ):
            assert answer.status == 410
        assert receiver.worker("GET", f"/v1/job/{job}/upload", host="b").body == {"ok": True, "offset": 0}


def test_an_upload_whose_job_was_cancelled_while_it_arrived_is_410(receiver: LiveReceiver) -> None:
    job, digest = claim(receiver), sha(BODY)
    connection = send_part(receiver, job, BODY[:100], digest=digest, length=len(BODY))
    wait_until(lambda: is_receiving(receiver, job), "the upload to begin")
    assert receiver.operator(f"/v1/job/{job}/cancel").status == 200
    connection.sendall(BODY[100:])
    assert b" 410 " in connection.recv(4096).partition(b"\r\n")[0]
    connection.close()


def test_without_ballast_an_upload_is_507_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver_parts: list[Coordinator] = []
    make = Coordinator.__init__

    def keep(self: Coordinator, **values: Any) -> None:
        make(self, **values)
        receiver_parts.append(self)

    monkeypatch.setattr(Coordinator, "__init__", keep)
    with live_receiver(tmp_path, MANIFEST) as receiver:
        job = claim(receiver)
        ballast = Ballast(tmp_path / "ballast", size_bytes=1 << 20)
        monkeypatch.setattr(receiver_parts[0], "ballast", ballast)
        refused = put(receiver, job, BODY, digest=sha(BODY))
        assert refused.status == 507
        assert str(tmp_path) in refused.body["error"]
        assert "nothing needs a restart" in refused.body["error"]
        ballast.restore()
        assert put(receiver, job, BODY, digest=sha(BODY)).status == 201


def test_the_client_goes_on_after_cuts_and_sends_hardly_anything_twice(
    receiver: LiveReceiver, tmp_path: Path
) -> None:
    """Through a proxy that cuts the connection. A client that keeps its bundle open asks, and sends the rest."""
    job, data = claim(receiver), random.Random(3).randbytes(8 << 20)
    bundle = tmp_path / "bundle"
    bundle.write_bytes(data)
    proxy = CuttingProxy(receiver.port, [1_000_000, 3_000_001, 6_500_000])
    client = FleetClient(f"http://127.0.0.1:{proxy.port}", host="a", timeout_s=10.0)
    assert client.upload(job, None, bundle, sha(data)) == "stored"
    assert client.upload(job, None, bundle, sha(data)) == "already-present"
    client.close()
    proxy.close()
    assert stored(receiver, sha(data)) == data
    print(f"{len(data)} bytes, {proxy.passed_bytes} sent with 3 cuts")
    assert proxy.passed_bytes <= 1.1 * len(data)


def test_a_body_received_by_a_thread_is_kept_when_its_connection_ends(receiver: LiveReceiver) -> None:
    """A large body leaves the event loop; all else is as for a small one."""
    job, data = claim(receiver), random.Random(4).randbytes(4_000_000)
    digest = cut_at(receiver, job, data, 3_000_001)
    done = put(receiver, job, data[3_000_001:], digest=digest, span="3000001-3999999/4000000")
    assert done.status == 201
    assert stored(receiver, digest) == data
    whole = put(receiver, job, data[::-1], digest=sha(data[::-1]))
    assert (whole.status, whole.headers["connection"]) == (201, "close"), "the server did not see this body"


def test_a_large_upload_that_is_taken_over_stops_writing(receiver: LiveReceiver) -> None:
    job, data = claim(receiver), random.Random(5).randbytes(4_000_000)
    half_dead = send_part(receiver, job, data[:3_000_000], digest=sha(data), length=len(data))
    wait_until(lambda: offset(receiver, job, sha(data)) >= 1_500_000, "most of the first part")
    at = put(receiver, job, b"x", digest=sha(data), span=f"3999999-3999999/{len(data)}").body["offset"]
    assert at == 3_000_000
    half_dead.close()
    assert put(receiver, job, data[at:], digest=sha(data), span=f"{at}-3999999/4000000").status == 201
    assert stored(receiver, sha(data)) == data


def test_a_large_body_with_a_wrong_digest_leaves_no_byte_behind(receiver: LiveReceiver) -> None:
    job, data = claim(receiver), random.Random(6).randbytes(4_000_000)
    refused = put(receiver, job, data, digest=sha(b"other"))
    assert (refused.status, refused.body["actual_sha256"]) == (400, sha(data))
    assert part_files(receiver) == []


def test_more_large_bodies_than_there_are_threads_are_received_by_the_event_loop(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "DIRECT", 0)
    job, data = claim(receiver), random.Random(8).randbytes(4_000_000)
    whole = put(receiver, job, data, digest=sha(data))
    assert (whole.status, "connection" in whole.headers) == (201, False)
    assert stored(receiver, sha(data)) == data


@pytest.mark.parametrize("size", [257, 4_000_000], ids=["the event loop", "a thread"])
def test_a_sender_that_falls_silent_is_408_and_what_it_sent_is_kept(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its host was switched off: no end of the connection will ever come."""
    monkeypatch.setattr(pipeline, "IDLE_S", 0.2)
    job, data = claim(receiver), random.Random(9).randbytes(size)
    silent = send_part(receiver, job, data[: size // 2], digest=sha(data), length=size)
    said = b""
    while not said.endswith(b"}"):
        said += silent.recv(4096)
    silent.close()
    assert b" 408 " in said.partition(b"\r\n")[0]
    assert b"no further byte" in said
    assert offset(receiver, job, sha(data)) == size // 2
    span = f"{size // 2}-{size - 1}/{size}"
    assert put(receiver, job, data[size // 2 :], digest=sha(data), span=span).status == 201


@pytest.mark.parametrize("size", [257, 4_000_000], ids=["the event loop", "a thread"])
def test_a_sender_that_asks_first_sends_when_it_is_told_to(receiver: LiveReceiver, size: int) -> None:
    job, data = claim(receiver), random.Random(10).randbytes(size)
    lines = [
        f"PUT /v1/model/{job} HTTP/1.1", "Host: x", "X-Lab-Host: a", f"X-Content-SHA256: {sha(data)}",
        f"Content-Length: {size}", "Expect: 100-continue",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        assert b" 201 " in connection.recv(4096).partition(b"\r\n")[0]
    assert stored(receiver, sha(data)) == data


def test_what_follows_a_large_body_on_its_connection_is_not_taken_for_a_part_of_it(
    receiver: LiveReceiver,
) -> None:
    job, data = claim(receiver), random.Random(11).randbytes(4_000_000)
    next_request = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    connection = send_part(receiver, job, data + next_request, digest=sha(data), length=len(data))
    answer = connection.recv(4096)
    assert b" 201 " in answer.partition(b"\r\n")[0]
    assert b"connection: close" in answer, "the next request is to be sent on another connection"
    connection.close()
    assert stored(receiver, sha(data)) == data
