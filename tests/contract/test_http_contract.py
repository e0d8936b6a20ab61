"""The eleven endpoints as CONTRACT describes them, through a plain client: no token, no added header."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from training.fleet.queue import JobQueue
from training.fleet.receiver import bind
from training.fleet.receiver_settings import ListenAddress
from training.fleet.types import DatasetPin

MANIFEST = """
name = "contract"
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 5
[[jobs]]
model = "mlp"
mode = "oracle"
[[jobs]]
model = "transformer"
mode = "oracle"
require_cuda = true
"""
BUNDLE = b"not really a tar.zst, the receiver never unpacks"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    """One receiver for the tests that change nothing in it."""
    with live_receiver(tmp_path_factory.mktemp("shared"), MANIFEST) as running:
        yield running


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


def claim(receiver: LiveReceiver, host: str = "a") -> dict[str, object]:
    answer = receiver.worker(
        "POST", "/v1/job/claim", {"capability": {"hostname": host, "cores": 4}}, host=host
    )
    assert answer.status == 200
    assert isinstance(answer.body, dict)
    return answer.body


def put(
    receiver: LiveReceiver, job_id: object, data: bytes = BUNDLE, digest: str = DIGEST, host: str = "a"
) -> Answer:
    return receiver.worker("PUT", f"/v1/model/{job_id}", data, host=host, **{"X-Content-SHA256": digest})


@pytest.mark.parametrize(("asked", "status"), [("bytes=x", 400), ("bytes=900-", 416), ("bytes=2-5", 206)])
def test_a_dataset_is_served_in_ranges_and_refused_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, status: int
) -> None:
    packed = tmp_path / "episodes.tar.zst"
    packed.write_bytes(b"0123456789")
    pins = {DIGEST: DatasetPin(DIGEST, str(packed))}
    with monkeypatch.context() as known:
        known.setattr(JobQueue, "datasets", lambda queue: pins)
        (tmp_path / "own").mkdir()
        with live_receiver(tmp_path / "own", MANIFEST) as own:
            answer = own.send("GET", f"/v1/dataset/{DIGEST}", headers={"Range": asked})
            assert answer.status == status
            assert answer.raw == b"2345" if status == 206 else answer.body["error"]
            packed.unlink()
            gone = own.send("GET", f"/v1/dataset/{DIGEST}")
            assert (gone.status, "is gone" in gone.body["error"]) == (404, True)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be moved away there")
def test_a_database_that_cannot_be_opened_for_reading_is_503_in_words(receiver: LiveReceiver) -> None:
    path = Path(receiver.queue._path)
    path.rename(path.with_suffix(".moved"))
    answer = receiver.send("GET", "/v1/jobs")
    path.with_suffix(".moved").rename(path)
    assert answer.status == 503
    assert "cannot open the database" in answer.body["error"]
    assert receiver.send("GET", "/v1/jobs").status == 200


def test_a_plain_client_goes_through_all_eleven_endpoints(receiver: LiveReceiver) -> None:
    assert receiver.send("GET", "/v1/health").body == {"status": "ok"}

    first = claim(receiver)
    assert {"job_id", "name", "spec", "attempts"} <= set(first)
    assert (first["name"], first["attempts"]) == ("gbt-realistic", 1)
    job_id = first["job_id"]
    beat = receiver.worker("POST", f"/v1/job/{job_id}/heartbeat")
    assert (beat.status, beat.body["ok"]) == (200, True)
    stored = put(receiver, job_id)
    assert stored.status == 201
    assert stored.body == {"status": "stored", "artifact_id": DIGEST, "size_bytes": len(BUNDLE)}
    again = put(receiver, job_id)
    assert (again.status, again.body) == (200, {"status": "already-present", "artifact_id": DIGEST})
    done = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": DIGEST})
    assert (done.status, done.body) == (200, {"ok": True})

    second = claim(receiver)
    failed = receiver.worker("POST", f"/v1/job/{second['job_id']}/fail", {"error": "no such column: sys.cpu"})
    assert (failed.status, failed.body) == (200, {"ok": True})
    assert claim(receiver, "b")["name"] == "mlp-oracle"

    listed = receiver.send("GET", "/v1/jobs").body["jobs"]
    keys = {
        "job_id", "name", "model", "mode", "priority", "status", "claimed_by", "claimed_at", "heartbeat_at",
        "completed_at", "attempts", "last_error", "artifact_id",
    }  # fmt: skip
    assert all(keys <= set(job) for job in listed)
    assert {job["name"]: job["status"] for job in listed} == {
        "gbt-realistic": "completed", "mlp-oracle": "claimed", "transformer-oracle": "pending",
    }  # fmt: skip
    assert [job["name"] for job in receiver.send("GET", "/v1/jobs?status=pending").body["jobs"]] == [
        "transformer-oracle"
    ]
    workers = {worker["host"]: worker for worker in receiver.send("GET", "/v1/workers").body["workers"]}
    assert workers["a"]["capability"] == {"hostname": "a", "cores": 4}

    waiting = next(job["job_id"] for job in listed if job["name"] == "transformer-oracle")
    assert receiver.operator(f"/v1/job/{waiting}/cancel").body == {"ok": True}
    assert receiver.operator(f"/v1/job/{waiting}/requeue").body == {"ok": True}
    reloaded = receiver.operator("/v1/manifest/reload")
    assert reloaded.status == 200
    assert (reloaded.body["ok"], reloaded.body["n_jobs"]) == (True, 3)
    assert reloaded.body["counts"]["unchanged"] == 3
    index = [json.loads(line) for line in (receiver.store_root / "index.jsonl").read_text().splitlines()]
    assert {row["artifact_id"] for row in index} == {DIGEST}
    assert (receiver.store_root / "gbt_realistic" / DIGEST / "bundle.tar.zst").read_bytes() == BUNDLE


def test_nothing_eligible_is_a_null_job(receiver: LiveReceiver) -> None:
    for host in ("a", "b"):
        claim(receiver, host)
    answer = claim(receiver, "c")
    assert answer["job"] is None
    assert answer["reason"]


@pytest.mark.parametrize("path", ["heartbeat", "complete", "fail", "release"])
def test_a_job_of_another_worker_is_gone(receiver: LiveReceiver, path: str) -> None:
    job_id = claim(receiver)["job_id"]
    body = {"artifact_id": DIGEST} if path == "complete" else {}
    answer = receiver.worker("POST", f"/v1/job/{job_id}/{path}", body, host="b")
    assert answer.status == 410
    assert answer.body["reason"]


def test_an_error_text_is_optional_and_shown(receiver: LiveReceiver) -> None:
    job_id = claim(receiver)["job_id"]
    assert receiver.worker("POST", f"/v1/job/{job_id}/fail").status == 200
    job = receiver.send("GET", f"/v1/job/{job_id}").body["job"]
    assert job["last_error"] == "no error message"


def test_a_wrong_digest_is_refused_and_leaves_nothing(receiver: LiveReceiver) -> None:
    job_id = claim(receiver)["job_id"]
    answer = put(receiver, job_id, digest="0" * 64)
    assert answer.status == 400
    assert (answer.body["status"], answer.body["actual_sha256"]) == ("sha-mismatch", DIGEST)
    assert not [path for path in receiver.store_root.parent.rglob("*") if path.name == "bundle.tar.zst"]
    assert not list((receiver.store_root.parent / "incoming").iterdir())


def test_an_upload_for_an_unknown_job_is_404_and_for_a_foreign_one_410(receiver: LiveReceiver) -> None:
    assert put(receiver, "f" * 64).status == 404
    assert put(receiver, claim(receiver)["job_id"], host="b").status == 410


def test_a_too_large_artifact_is_413(receiver: LiveReceiver) -> None:
    data = b"x" * ((1 << 20) + 1)
    answer = put(receiver, claim(receiver)["job_id"], data, hashlib.sha256(data).hexdigest())
    assert answer.status == 413


def test_completion_without_the_upload_is_refused(receiver: LiveReceiver) -> None:
    job_id = claim(receiver)["job_id"]
    answer = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": DIGEST})
    assert answer.status == 409
    assert "PUT /v1/model" in answer.body["error"]


def test_an_illegal_operator_verb_is_409_and_an_unknown_job_404(receiver: LiveReceiver) -> None:
    job_id = claim(receiver)["job_id"]
    refused = receiver.operator(f"/v1/job/{job_id}/requeue")
    assert (refused.status, refused.body["ok"]) == (409, False)
    assert receiver.operator(f"/v1/job/{'f' * 64}/cancel").status == 404


def test_a_faulty_manifest_is_refused_and_the_old_one_stays(receiver: LiveReceiver) -> None:
    before = receiver.send("GET", "/v1/jobs").body
    receiver.manifest.write_text('[[jobs]]\nmodel = "gbt"\nmode = "sideways"\nhyper = { num_leafs = 3 }\n')
    answer = receiver.operator("/v1/manifest/reload")
    assert answer.status == 400
    assert "num_leaves" in answer.body["error"], "it says what was meant"
    assert receiver.send("GET", "/v1/jobs").body == before


@pytest.mark.parametrize("path", ["cancel", "requeue"])
@pytest.mark.parametrize("token", ["", "wrong", "tok\xe9n", TOKEN + "x"])
def test_operator_verbs_need_the_token(shared: LiveReceiver, path: str, token: str) -> None:
    assert shared.operator(f"/v1/job/{'f' * 64}/{path}", token=token).status == 401
    assert shared.operator("/v1/manifest/reload", token=token).status == 401


@pytest.mark.parametrize("configured", [None, "", "   "])
def test_without_a_configured_token_the_operator_verbs_are_closed(
    tmp_path: Path, configured: str | None
) -> None:
    with live_receiver(tmp_path, MANIFEST, operator_token=configured) as running:
        for token in ("", "x", "   "):
            assert running.operator("/v1/manifest/reload", token=token).status == 403


def test_a_protocol_2_lease_needs_its_token(receiver: LiveReceiver) -> None:
    got = receiver.worker(
        "POST", "/v1/job/claim", {"capability": {}}, **{"X-Fleet-Protocol": "2", "X-Claim-Request": "r"}
    ).body
    path, token = f"/v1/job/{got['job_id']}/heartbeat", got["lease_token"]
    assert (got["epoch"], got["lease_s"], got["heartbeat_s"]) == (1, 600.0, 30.0)
    assert receiver.worker("POST", path).status == 410
    assert receiver.worker("POST", path, **{"X-Lease-Token": "wrong"}).status == 410
    assert receiver.worker("POST", path, **{"X-Lease-Token": token}).status == 200
    everything = receiver.send("GET", f"/v1/job/{got['job_id']}").raw + receiver.send("GET", "/v1/jobs").raw
    assert token.encode() not in everything


def test_artifacts_come_out_again_in_whole_and_in_part(receiver: LiveReceiver) -> None:
    put(receiver, claim(receiver)["job_id"])
    assert receiver.send("GET", f"/v1/model/{DIGEST}").raw == BUNDLE
    head = receiver.send("HEAD", f"/v1/model/{DIGEST}")
    assert (head.status, head.raw, head.headers["content-length"]) == (200, b"", str(len(BUNDLE)))
    part = receiver.send("GET", f"/v1/model/{DIGEST}", headers={"Range": "bytes=4-9"})
    assert (part.status, part.raw) == (206, BUNDLE[4:10])
    assert receiver.send("GET", f"/v1/model/{'0' * 64}").status == 404
    for wrong, status in (
        ("bytes=abc", 400),
        ("bytes=-0", 416),
        ("bytes=0-0,-0", 416),
        ("lines=1-2", 400),
        ("bytes=9999-", 416),
        ("bytes=9-4", 416),
    ):
        refused = receiver.send("GET", f"/v1/model/{DIGEST}", headers={"Range": wrong})
        assert (refused.status, "error" in refused.body) == (status, True)


def test_a_claim_that_waits_gets_the_job_that_comes(receiver: LiveReceiver) -> None:
    for host in ("a", "b"):
        claim(receiver, host)
    answers: list[object] = []
    body = {"capability": {}, "wait_s": 20}
    waiting = threading.Thread(
        target=lambda: answers.append(receiver.worker("POST", "/v1/job/claim", body, host="c").body)
    )
    waiting.start()
    gone = next(job for job in receiver.send("GET", "/v1/jobs").body["jobs"] if job["claimed_by"] == "b")
    receiver.worker("POST", f"/v1/job/{gone['job_id']}/fail", {"error": "x"}, host="b")
    waiting.join(timeout=20)
    (got,) = answers
    assert isinstance(got, dict)
    assert got["job_id"] == gone["job_id"]


def test_the_interface_describes_itself(shared: LiveReceiver) -> None:
    document = shared.send("GET", "/openapi.json").body
    assert document["openapi"].startswith("3.")
    assert len(document["paths"]) >= 15
    assert "ClaimRequest" in document["components"]["schemas"]


def test_the_listening_socket_names_its_protocol_so_that_asyncio_sets_nodelay() -> None:
    """Without it each answer waited 40 ms for the client's delayed acknowledgement."""
    with bind(ListenAddress(port=0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_cancelled_job_frees_its_host_for_a_claim_that_waits(receiver: LiveReceiver) -> None:
    held = claim(receiver)
    answers: list[object] = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            receiver.worker("POST", "/v1/job/claim", {"capability": {}, "wait_s": 20}).body
        )
    )
    waiting.start()
    receiver.operator(f"/v1/job/{held['job_id']}/cancel")
    waiting.join(timeout=10)
    (got,) = answers
    assert isinstance(got, dict)
    assert got["name"] == "mlp-oracle"


def test_a_token_that_ends_in_an_odd_byte_is_still_the_token(tmp_path: Path) -> None:
    token = "voil\xe0"
    with live_receiver(tmp_path, MANIFEST, operator_token=token) as running:
        sent = token.encode("utf-8").decode("latin-1")
        assert running.operator("/v1/manifest/reload", token=sent).status == 200


def test_a_refused_heartbeat_says_which_part_was_wrong(receiver: LiveReceiver) -> None:
    got = receiver.worker("POST", "/v1/job/claim", {"capability": {}}, **{"X-Fleet-Protocol": "2"}).body
    path = f"/v1/job/{got['job_id']}/heartbeat"
    assert "X-Lease-Token is missing" in receiver.worker("POST", path).body["reason"]
    assert "another host" in receiver.worker("POST", path, host="b").body["reason"]
    assert "current lease" in receiver.worker("POST", path, **{"X-Lease-Token": "x"}).body["reason"]
    other = next(job for job in receiver.send("GET", "/v1/jobs?status=pending").body["jobs"])
    refused = receiver.worker("POST", f"/v1/job/{other['job_id']}/heartbeat").body
    assert "holds no lease" in refused["reason"]
