"""No input gets a 5xx: each bad request is a clear 4xx in JSON, changes nothing and loses nothing."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_http_contract import MANIFEST
from tests.factories.live_receiver import LiveReceiver, live_receiver

DATA = b"some artifact"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path_factory.mktemp("bad"), MANIFEST) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_changes(receiver: LiveReceiver) -> Iterator[None]:
    before = receiver.send("GET", "/v1/jobs").body, receiver.send("GET", "/v1/workers").body
    yield
    assert (receiver.send("GET", "/v1/jobs").body, receiver.send("GET", "/v1/workers").body) == before


BODIES: list[bytes] = [
    b"",
    b"no json",
    b"[]",
    b"[1, 2]",
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe{}",
    b'{"capability": 7}',
    b'{"capability": []}',
    b'{"capability": {"cores": "four"}}',
    b'{"capability": {"ram_gib": {}}}',
    b'{"capability": {"gpus": [{"name": 1}]}}',
    b'{"capability": {"models": "gbt"}}',
    b'{"capability": {"has_cuda": 1}}',
    b'{"capability": {"cores": 1e999}}',
    b'{"capability": {"ram_gib": NaN}}',
    b'{"capability": {"cores": ' + b"9" * 400 + b"}}",
    b'{"capability": {"cores": -1}}',
    b'{"capability": {"ram_gib": -0.5}}',
    b'{"capability": {"vram_gib": 1e300}}',
    b'{"capability": {"gpus": [' + b'{"name": "g", "vram_gib": 1},' * 64 + b'{"name": "g", "vram_gib": 1}]}}',
    b'{"capability": {"os": "' + b"x" * 300 + b'"}}',
    b'{"capability": {"os": "\\ud800"}}',
    b'{"wait_s": "long"}',
    b'{"wait_s": {}}',
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"{" * 100,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:40]))
def test_a_claim_with_a_bad_body_is_400(receiver: LiveReceiver, body: bytes) -> None:
    answer = receiver.worker("POST", "/v1/job/claim", body)
    assert answer.status == 413 if len(body) > 64 * 1024 else 400
    assert answer.body["error"]


@pytest.mark.parametrize("size", [64 * 1024 + 1, 4 * 1024 * 1024])
def test_a_huge_body_is_413_not_memory(receiver: LiveReceiver, size: int) -> None:
    assert receiver.worker("POST", "/v1/job/claim", b"{" + b" " * size).status == 413


@pytest.mark.parametrize(
    "host", ["", " ", ".hidden", "../etc", "a/b", "a b", "a" * 65, "h\xf6st", "a;b", "a%00b", "-\t-"]
)
def test_a_malformed_host_is_400(receiver: LiveReceiver, host: str) -> None:
    for path in ("claim", f"{'f' * 64}/heartbeat", f"{'f' * 64}/complete", f"{'f' * 64}/fail"):
        answer = receiver.worker("POST", f"/v1/job/{path}", {}, host=host)
        assert answer.status == 400
        assert "X-Lab-Host" in answer.body["error"]


def test_a_missing_host_is_400(receiver: LiveReceiver) -> None:
    assert receiver.send("POST", "/v1/job/claim", {"capability": {}}).status == 400
    assert receiver.send("PUT", f"/v1/model/{'f' * 64}", DATA).status == 400


@pytest.mark.parametrize(
    "artifact_id", [5, None, True, [], {}, "", "x", "../../x", "F" * 64, "f" * 63, "f" * 65]
)
def test_an_artifact_id_that_is_none_is_400_before_anything_happens(
    receiver: LiveReceiver, artifact_id: object
) -> None:
    answer = receiver.worker("POST", f"/v1/job/{'f' * 64}/complete", {"artifact_id": artifact_id})
    assert answer.status == 400


@pytest.mark.parametrize(
    "digest", ["", "x", "0" * 63, "Z" * 64, "0" * 64 + "0", "../" + "0" * 61, "\xe4" * 64]
)
def test_a_malformed_digest_is_400(receiver: LiveReceiver, digest: str) -> None:
    answer = receiver.worker("PUT", f"/v1/model/{'f' * 64}", DATA, **{"X-Content-SHA256": digest})
    assert answer.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v1/job/..%2f..%2fetc%2fpasswd/cancel",
        "/v1/job/%00/cancel",
        "/v1/job/%ff%fe/cancel",
        "/v1/job/x/cancel",
        f"/v1/job/{'f' * 4000}/cancel",
        "/v1/job//cancel",
    ],
)
def test_a_strange_job_id_is_404(receiver: LiveReceiver, path: str) -> None:
    assert receiver.operator(path).status == 404


@pytest.mark.parametrize(
    "path", ["/v1/model/..%2f..%2fx", "/v1/model/../../x", "/v1/dataset/..%2fx", "/v1/model/x"]
)
def test_no_path_leads_out_of_the_store(receiver: LiveReceiver, path: str) -> None:
    assert receiver.send("GET", path).status in (400, 404)


@pytest.mark.parametrize("query", ["status=done", "status=", "status=%ff", "status=PENDING"])
def test_an_unknown_status_is_400(receiver: LiveReceiver, query: str) -> None:
    assert receiver.send("GET", f"/v1/jobs?{query}").status == 400


@pytest.mark.parametrize("code", [2**63, 10**30, -(2**63)])
def test_an_exit_code_that_no_system_has_is_400(receiver: LiveReceiver, code: int) -> None:
    answer = receiver.worker("POST", f"/v1/job/{'f' * 64}/fail", {"error": "e", "exit_code": code})
    assert answer.status == 400


def test_a_slash_at_the_end_is_404_and_no_redirect_to_a_host_the_client_names(receiver: LiveReceiver) -> None:
    answer = receiver.send("GET", "/v1/jobs/", headers={"Host": "elsewhere.example"})
    assert (answer.status, "location" in answer.headers) == (404, False)


def test_a_refused_upload_is_answered_although_its_body_never_comes(receiver: LiveReceiver) -> None:
    lines = b"PUT /v1/model/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(lines)
        assert client.recv(12) == b"HTTP/1.1 400"


def test_unknown_endpoints_and_methods_answer_in_json(receiver: LiveReceiver) -> None:
    assert receiver.send("GET", "/nothing").status == 404
    missing = receiver.send("GET", "/v1/nothing")
    assert (missing.status, "error" in missing.body) == (404, True)
    wrong = receiver.send("DELETE", "/v1/jobs")
    assert (wrong.status, "error" in wrong.body) == (405, True)


def test_a_header_sent_twice_is_400(receiver: LiveReceiver) -> None:
    lines = (
        b"POST /v1/manifest/reload HTTP/1.1\r\nHost: x\r\nX-Operator-Token: a\r\n"
        b"X-Operator-Token: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    assert _raw(receiver, lines).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "length", [b"Content-Length: -1", b"Content-Length: ten", b"Transfer-Encoding: chunked", b"X-None: 1"]
)
def test_an_upload_without_an_honest_length_is_400(receiver: LiveReceiver, length: bytes) -> None:
    lines = (
        f"PUT /v1/model/{'f' * 64} HTTP/1.1\r\nHost: x\r\nX-Lab-Host: a\r\nX-Content-SHA256: {DIGEST}\r\n".encode()
        + length
        + b"\r\nConnection: close\r\n\r\n"
        + (b"0\r\n\r\n" if b"chunked" in length else b"")
    )
    assert _raw(receiver, lines).startswith(b"HTTP/1.1 400")


def test_a_body_that_stops_in_the_middle_changes_nothing(receiver: LiveReceiver) -> None:
    lines = b"POST /v1/job/claim HTTP/1.1\r\nHost: x\r\nX-Lab-Host: a\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as client:
        client.sendall(lines)
    assert receiver.send("GET", "/v1/health").status == 200


def test_an_upload_cut_in_the_middle_is_no_obstacle_to_a_whole_one(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as own:
        job = own.worker("POST", "/v1/job/claim", {"capability": {}}).body
        lines = (
            f"PUT /v1/model/{job['job_id']} HTTP/1.1\r\nHost: x\r\nX-Lab-Host: a\r\n"
            f"X-Content-SHA256: {DIGEST}\r\nContent-Length: 1000\r\n\r\n"
        ).encode() + b"half"
        with socket.create_connection(("127.0.0.1", own.port), timeout=5) as client:
            client.sendall(lines)
        whole = own.worker("PUT", f"/v1/model/{job['job_id']}", DATA, **{"X-Content-SHA256": DIGEST})
        assert whole.status == 201
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 4] == []
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_long_error_text_is_kept_by_its_end(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as own:
        job = own.worker("POST", "/v1/job/claim", {"capability": {}}).body
        text = "x" * 500_000 + "the real cause"
        assert own.worker("POST", f"/v1/job/{job['job_id']}/fail", {"error": text}).status == 200
        kept = own.send("GET", f"/v1/job/{job['job_id']}").body["job"]["last_error"]
        assert len(kept) <= 8192
        assert kept.endswith("the real cause")
        too_long = own.worker("POST", f"/v1/job/{job['job_id']}/fail", {"error": "x" * 2_000_000})
        assert too_long.status == 413


def test_a_broken_manifest_at_start_admits_nobody(tmp_path: Path) -> None:
    """An unreadable policy must never mean "no policy"."""
    from tests.factories.fleet import job
    from training.fleet.queue import JobQueue
    from training.fleet.receiver import make_app
    from training.fleet.store import ModelStore

    path = tmp_path / "m.toml"
    path.write_text("[[jobs]\n")
    queue = JobQueue(tmp_path / "q.db")
    queue.sync_from_manifest([job().to_dict()])
    store = ModelStore(tmp_path / "models", tmp_path / "incoming", tmp_path / "models" / "index.jsonl")
    make_app(queue=queue, store=store, manifest_path=path)
    assert not queue.claim("a", {}).admitted
    queue.close()


def test_an_unknown_host_is_403_once_the_manifest_names_hosts(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST + '[[hosts]]\nname = "known"\n') as own:
        refused = own.worker("POST", "/v1/job/claim", {"capability": {}}, host="stranger")
        assert refused.status == 403
        assert "unknown_hosts" in refused.body["error"]
        assert own.worker("POST", f"/v1/job/{'f' * 64}/heartbeat", host="stranger").status in (403, 404)
        assert own.worker("POST", "/v1/job/claim", {"capability": {}}, host="known").body["job_id"]


def _raw(receiver: LiveReceiver, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as client:
        client.sendall(data)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    answer = b"".join(parts)
    body = answer.partition(b"\r\n\r\n")[2]
    if body.startswith(b"{"):
        assert "error" in json.loads(body)
    return answer
