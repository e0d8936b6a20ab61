"""Nothing blocks the event loop: every endpoint of the live receiver, under a watch for blocking calls."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.factories import artifacts
from tests.factories.enrolling import Machine, enrolled
from tests.factories.fleet_pki import FLEET, FleetPki
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet.client import FleetClient
from training.fleet.routes import ROUTES
from training.fleet.types import DatasetPin

blockbuster = pytest.importorskip("blockbuster")

MANIFEST = """
name = "watched"
[[hosts]]
name = "a"
slots = 9
[[jobs]]
model = "gbt"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "oracle"
[[jobs]]
model = "gru"
mode = "oracle"
"""
BUNDLE = bytes(range(256)) * 8192  # 2 MiB: several blocks of the upload's pipeline
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    authority = FleetPki(tmp_path).authority
    with live_receiver(tmp_path, MANIFEST, max_artifact_bytes=4 << 20, authority=authority) as running:
        packed = tmp_path / "dataset.tar.zst"
        packed.write_bytes(BUNDLE)
        running.coordinator.datasets[DIGEST] = DatasetPin(DIGEST, str(packed))
        yield running


@pytest.fixture
def blocked(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What called something that blocks on a thread with an event loop; also when somebody caught the error."""
    found: list[str] = []
    original = blockbuster.BlockingError.__init__

    def note(self: Exception, name: str) -> None:
        original(self, name)
        found.append(name)

    monkeypatch.setattr(blockbuster.BlockingError, "__init__", note)
    with blockbuster.blockbuster_ctx() as watch:
        for name in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
            watch.functions[name].deactivate()  # log lines: a pipe to the journal, which does not fill up
        yield found


def claimed(receiver: LiveReceiver) -> str:
    answer = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}})
    return str(answer.body["job_id"])


def _heartbeat(receiver: LiveReceiver) -> list[Answer]:
    path = f"/v1/job/{claimed(receiver)}/heartbeat"
    return [receiver.worker("POST", path) for _ in range(2)]  # the first is written, the second only noted


def _upload(receiver: LiveReceiver) -> list[Answer]:
    path = f"/v1/model/{claimed(receiver)}"
    return [receiver.worker("PUT", path, BUNDLE, **{"X-Content-SHA256": DIGEST}) for _ in range(2)]


def _complete(receiver: LiveReceiver) -> list[Answer]:
    job_id = claimed(receiver)
    return [
        receiver.worker("PUT", f"/v1/model/{job_id}", BUNDLE, **{"X-Content-SHA256": DIGEST}),
        receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": DIGEST}),
        receiver.send("GET", f"/v1/model/{DIGEST}"),
        receiver.send("GET", f"/v1/model/{DIGEST}", headers={"Range": "bytes=5-9"}),
        receiver.send("HEAD", f"/v1/model/{DIGEST}"),
    ]


def _verify(receiver: LiveReceiver) -> list[Answer]:
    job_id = claimed(receiver)
    return [
        receiver.worker("PUT", f"/v1/model/{job_id}", BUNDLE, **{"X-Content-SHA256": DIGEST}),
        receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": DIGEST}),
        receiver.operator(f"/v1/job/{job_id}/verify"),
        receiver.send("GET", "/v1/jobs?kind=shadow"),
    ]


def _log(receiver: LiveReceiver) -> list[Answer]:
    job_id = claimed(receiver)
    news = {"points": [{"step": 1}], "usage": {"cpu_percent": 5.0}}
    return [
        receiver.worker("POST", f"/v1/job/{job_id}/heartbeat"),
        receiver.worker("POST", f"/v1/job/{job_id}/heartbeat", news),
        receiver.worker("POST", f"/v1/job/{job_id}/log", {"offset": 0, "text": "one line\n"}),
        receiver.send("GET", f"/v1/job/{job_id}/log"),
        receiver.send("GET", f"/v1/job/{job_id}/progress"),
    ]


def _provenance(receiver: LiveReceiver) -> list[Answer]:
    """Signed as the result is accepted, or afterwards, where no key was at hand then."""
    authority, receiver.coordinator.authority = receiver.coordinator.authority, None
    late = artifacts.complete_next(receiver, artifacts.packed(artifacts.files()))
    receiver.coordinator.authority = authority
    soon = artifacts.complete_next(receiver, artifacts.packed({"metrics.json": "{}"}))
    return [receiver.send("GET", f"/v1/model/{one}/provenance") for one in (late, late, soon)]


def _verb(name: str, body: dict[str, str]) -> Callable[[LiveReceiver], list[Answer]]:
    return lambda receiver: [receiver.worker("POST", f"/v1/job/{claimed(receiver)}/{name}", body)]


def _get(path: str) -> Callable[[LiveReceiver], list[Answer]]:
    return lambda receiver: [receiver.send("GET", path.replace("JOB", claimed(receiver)))]


def _look_into(path: str) -> Callable[[LiveReceiver], list[Answer]]:
    def ask(receiver: LiveReceiver) -> list[Answer]:
        artifact_id = artifacts.complete_next(receiver, artifacts.packed(artifacts.files()))
        return [receiver.send("GET", f"/v1/model/{artifact_id}{path}") for _ in range(2)]

    return ask


def _operate(path: str, body: object = None) -> Callable[[LiveReceiver], list[Answer]]:
    return lambda receiver: [receiver.operator(path.replace("JOB", claimed(receiver)), body)]


def _notify_test(receiver: LiveReceiver) -> list[Answer]:
    """To a port where nobody listens (discard)."""
    nobody = '[notify]\nsmtp_host = "127.0.0.1"\nsmtp_port = 9\nmail_from = "a@b"\nmail_to = ["c@d"]\n'
    receiver.manifest.write_text(MANIFEST + nobody, encoding="utf-8")
    assert receiver.operator("/v1/manifest/reload").status == 200
    return [receiver.operator("/v1/notify/test")]


def _events(receiver: LiveReceiver) -> list[Answer]:
    """Of a stream what was, and what then happens."""
    stream = FleetClient(receiver.url).events(0)
    assert next(stream).kind == "hello"
    job_id = claimed(receiver)
    assert job_id in [event.data["job_id"] for event in itertools.islice(stream, 4)]
    stream.close()
    return [receiver.send("HEAD", "/v1/events"), receiver.send("GET", "/v1/events?kind=none")]


def _renew_late(receiver: LiveReceiver) -> list[Answer]:
    folder = FleetPki(receiver.manifest.parent / "other", name=FLEET).host(
        "a"
    )  # another fleet of the same name
    return [Machine(receiver).renew_late(folder)]


ACTS: dict[tuple[str, str], Callable[[LiveReceiver], list[Answer]]] = {
    ("POST", "/v1/job/claim"): lambda receiver: [
        receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}}),
        receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}, "wait_s": 0.05}),
    ],
    ("POST", "/v1/job/{id}/heartbeat"): _heartbeat,
    ("POST", "/v1/job/{id}/complete"): _complete,
    ("POST", "/v1/job/{id}/fail"): _verb("fail", {"error": "x"}),
    ("POST", "/v1/job/{id}/release"): _verb("release", {"reason": "x"}),
    ("PUT", "/v1/model/{id}"): _upload,
    ("GET", "/v1/job/{id}/upload"): lambda receiver: [
        receiver.worker("GET", f"/v1/job/{claimed(receiver)}/upload?sha256={DIGEST}", **{"X-Content-SHA256": DIGEST})
    ],
    ("GET", "/v1/dataset/{digest}"): _get(f"/v1/dataset/{DIGEST}"),
    ("GET", "/v1/jobs"): _get("/v1/jobs"),
    ("GET", "/v1/job/{id}"): _get("/v1/job/JOB"),
    ("GET", "/v1/job/{id}/eligibility"): _get("/v1/job/JOB/eligibility"),
    ("GET", "/v1/host/{name}/eligibility"): _get("/v1/host/a/eligibility"),
    ("GET", "/v1/model/{id}"): _complete,
    ("GET", "/v1/models"): _get("/v1/models"),
    ("GET", "/v1/model/{id}/files"): _look_into("/files"),
    ("GET", "/v1/model/{id}/file/{name:path}"): _look_into("/file/plots/roc.csv"),
    ("GET", "/v1/model/{id}/lineage"): _look_into("/lineage"),
    ("GET", "/v1/model/{id}/provenance"): _provenance,
    ("GET", "/v1/workers"): _get("/v1/workers"),
    ("GET", "/v1/health"): _get("/v1/health"),
    ("GET", "/v1/overview"): _get("/v1/overview"),
    ("GET", "/v1/resolve"): lambda receiver: [
        receiver.send("GET", "/v1/resolve?job=gbt"),
        receiver.send("GET", "/v1/resolve?host=b"),
    ],
    ("GET", "/v1/events"): _events,
    ("GET", "/v1/audit"): _get("/v1/audit?job=JOB&host=a&limit=5"),
    ("GET", "/metrics"): _get("/metrics"),
    ("POST", "/v1/notify/test"): _notify_test,
    ("GET", "/openapi.json"): _get("/openapi.json"),
    ("POST", "/v1/job/{id}/log"): _log,
    ("GET", "/v1/job/{id}/log"): _get("/v1/job/JOB/log"),
    ("GET", "/v1/job/{id}/progress"): _get("/v1/job/JOB/progress"),
    ("GET", "/v1/host/{name}"): _get("/v1/host/a"),
    ("GET", "/v1/host/{name}/history"): _get("/v1/host/a/history"),
    ("GET", "/v1/hosts/history"): _get("/v1/hosts/history"),
    ("POST", "/v1/job/{id}/cancel"): _operate("/v1/job/JOB/cancel"),
    ("POST", "/v1/job/{id}/requeue"): _operate("/v1/job/JOB/requeue", {"force": True}),
    ("POST", "/v1/job/{id}/verify"): _verify,
    ("POST", "/v1/manifest/plan"): lambda receiver: [
        receiver.operator("/v1/manifest/plan"),
        receiver.operator("/v1/manifest/plan", {"text": MANIFEST}),
    ],
    ("POST", "/v1/manifest/reload"): _operate("/v1/manifest/reload"),
    ("POST", "/v1/host/{name}/drain"): _operate("/v1/host/a/drain", {"reason": "x"}),
    ("POST", "/v1/host/{name}/undrain"): _operate("/v1/host/a/undrain"),
    ("POST", "/v1/host/{name}/resume"): _operate("/v1/host/a/resume"),
    ("POST", "/v1/fleet/pause"): _operate("/v1/fleet/pause", {"reason": "x"}),
    ("POST", "/v1/gc"): lambda receiver: [
        *_complete(receiver),
        receiver.operator("/v1/gc", {"dry_run": True}),
        receiver.operator("/v1/gc", {"dry_run": False}),
    ],
    ("POST", "/v1/fleet/resume"): _operate("/v1/fleet/resume"),
    ("GET", "/v1/enrol/ca"): lambda receiver: [receiver.send("GET", "/v1/enrol/ca")],
    ("POST", "/v1/enrol/join"): lambda receiver: [enrolled(receiver, "a")],
    ("POST", "/v1/enrol/renew"): lambda receiver: [
        receiver.send("POST", "/v1/enrol/renew", {"csr_pem": Machine(receiver).csr()})
    ],
    ("POST", "/v1/enrol/renew-late"): _renew_late,
    ("POST", "/v1/identity/{role}/{name}/token"): _operate("/v1/identity/reader/r/token"),
    ("POST", "/v1/identity/{role}/{name}/revoke"): _operate("/v1/identity/host/a/revoke", {"reason": "x"}),
    ("GET", "/v1/identities"): lambda receiver: [enrolled(receiver, "a"), receiver.send("GET", "/v1/identities")],
    ("POST", "/v1/job/{id}/pause"): _operate("/v1/job/JOB/pause", {"reason": "x"}),
    ("POST", "/v1/job/{id}/resume"): _operate("/v1/job/JOB/resume"),
}  # fmt: skip


def test_every_endpoint_is_watched() -> None:
    assert set(ACTS) == {(item.method, item.path) for item in ROUTES}


@pytest.mark.parametrize("endpoint", ACTS, ids=" ".join)
def test_no_endpoint_blocks_the_loop(
    receiver: LiveReceiver, blocked: list[str], endpoint: tuple[str, str]
) -> None:
    answers = ACTS[endpoint](receiver)
    assert blocked == []
    assert all(answer.status < 500 for answer in answers), [answer.body for answer in answers]


def test_the_watch_sees_a_call_that_blocks(
    receiver: LiveReceiver,
    blocked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the tests above would prove nothing."""
    parts = receiver.coordinator

    def write(*_: object, **__: object) -> bool:
        parts.queue.flush_heartbeats()
        return True

    monkeypatch.setattr(parts.queue, "renew_lease", write)
    _heartbeat(receiver)
    assert any("sqlite3" in name for name in blocked)
