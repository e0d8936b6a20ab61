"""Every endpoint after which a claim that waits may get a job calls it; the table has them all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.factories.fleet import cpu_host, cuda_host, job, job_id, manifest
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet.routes import ROUTES

NOBODY_CAN = '[[jobs]]\nmodel = "transformer"\nmode = "oracle"\nrequire_cuda = true\n'
SOMEBODY_CAN = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
BUNDLE = b"some artifact"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()
AT_ONCE_S = 4.0
"""Much less than any timer that would find it out, and than the claim waits."""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, NOBODY_CAN) as running:
        yield running


def _holds_one_of_two(receiver: LiveReceiver) -> None:
    """The host `w` has one slot; it holds x, and y waits."""
    receiver.queue.apply_manifest(manifest(job("x", priority=1), job("y")))
    answer = receiver.worker("POST", "/v1/job/claim", {"capability": cpu_host().to_dict()}, host="w")
    assert answer.body["name"] == "x"
    uploaded = receiver.worker(
        "PUT", f"/v1/model/{job_id('x')}", BUNDLE, host="w", **{"X-Content-SHA256": DIGEST}
    )
    assert uploaded.status == 201


def _prefers_another(receiver: LiveReceiver) -> None:
    """The one job waits for the host `gpu`, which is live."""
    receiver.queue.claim("gpu", cuda_host())
    receiver.queue.apply_manifest(manifest(job("x", prefer_cuda=True), prefer_cuda_grace_s=1000.0))


def _is_cancelled(receiver: LiveReceiver) -> None:
    receiver.queue.apply_manifest(manifest(job("x")))
    assert receiver.queue.cancel(job_id("x"))


def _is_completed(receiver: LiveReceiver) -> None:
    """The host `w` has done the one job, so it may verify it."""
    receiver.queue.apply_manifest(manifest(job("x")))
    assert receiver.queue.claim("w", cpu_host()).row is not None
    assert receiver.queue.complete(job_id("x"), "w", artifact_id=DIGEST)


def _is_drained(receiver: LiveReceiver) -> None:
    receiver.queue.claim("w", cpu_host())
    receiver.queue.apply_manifest(manifest(job("x")))
    assert receiver.operator("/v1/host/w/drain").status == 200


def _is_paused_by_failures(receiver: LiveReceiver) -> None:
    receiver.queue.apply_manifest(manifest(job("x", priority=1), job("y"), pause_after_failures=1))
    assert receiver.queue.claim("w", cpu_host()).row is not None
    assert receiver.queue.fail(job_id("x"), "w", error="x")


def _fleet_is_paused(receiver: LiveReceiver) -> None:
    receiver.queue.apply_manifest(manifest(job("x")))
    assert receiver.operator("/v1/fleet/pause").status == 200


def _job_is_paused(receiver: LiveReceiver) -> None:
    receiver.queue.apply_manifest(manifest(job("x")))
    assert receiver.operator(f"/v1/job/{job_id('x')}/pause").status == 200


def _verb(name: str, body: dict[str, str]) -> Callable[[LiveReceiver], int]:
    return lambda receiver: receiver.worker("POST", f"/v1/job/{job_id('x')}/{name}", body, host="w").status


def _operate(path: str) -> Callable[[LiveReceiver], int]:
    return lambda receiver: receiver.operator(path.replace("JOB", job_id("x"))).status


def _loses_its_gpu(receiver: LiveReceiver) -> int:
    body = {"capability": cpu_host(models=[]).to_dict()}
    return receiver.worker("POST", "/v1/job/claim", body, host="gpu").status


def _reload(receiver: LiveReceiver) -> int:
    receiver.manifest.write_text(NOBODY_CAN + SOMEBODY_CAN, encoding="utf-8")
    return receiver.operator("/v1/manifest/reload").status


@dataclass(frozen=True)
class Opens:
    """So that the host `w` waits in vain, and what then gives it a job."""

    before: Callable[[LiveReceiver], object]
    act: Callable[[LiveReceiver], int]


OPENS_NOTHING = None
TABLE: dict[tuple[str, str], Opens | None] = {
    ("POST", "/v1/job/claim"): Opens(_prefers_another, _loses_its_gpu),
    ("POST", "/v1/job/{id}/heartbeat"): OPENS_NOTHING,  # from a lapse it takes a job back, else nothing moves
    ("POST", "/v1/job/{id}/complete"): Opens(_holds_one_of_two, _verb("complete", {"artifact_id": DIGEST})),
    ("POST", "/v1/job/{id}/fail"): Opens(_holds_one_of_two, _verb("fail", {"error": "x"})),
    ("POST", "/v1/job/{id}/release"): Opens(_holds_one_of_two, _verb("release", {})),
    ("PUT", "/v1/model/{id}"): OPENS_NOTHING,
    ("GET", "/v1/job/{id}/upload"): OPENS_NOTHING,
    ("GET", "/v1/dataset/{digest}"): OPENS_NOTHING,
    ("GET", "/v1/jobs"): OPENS_NOTHING,
    ("GET", "/v1/job/{id}"): OPENS_NOTHING,
    ("GET", "/v1/job/{id}/eligibility"): OPENS_NOTHING,
    ("GET", "/v1/host/{name}/eligibility"): OPENS_NOTHING,
    ("GET", "/v1/model/{id}"): OPENS_NOTHING,
    ("GET", "/v1/models"): OPENS_NOTHING,
    ("GET", "/v1/model/{id}/files"): OPENS_NOTHING,
    ("GET", "/v1/model/{id}/file/{name:path}"): OPENS_NOTHING,
    ("GET", "/v1/model/{id}/lineage"): OPENS_NOTHING,
    ("GET", "/v1/model/{id}/provenance"): OPENS_NOTHING,
    ("GET", "/v1/workers"): OPENS_NOTHING,
    ("GET", "/v1/health"): OPENS_NOTHING,
    ("GET", "/v1/overview"): OPENS_NOTHING,
    ("GET", "/v1/resolve"): OPENS_NOTHING,
    ("GET", "/v1/events"): OPENS_NOTHING,
    ("GET", "/v1/audit"): OPENS_NOTHING,
    ("GET", "/metrics"): OPENS_NOTHING,
    ("POST", "/v1/notify/test"): OPENS_NOTHING,
    ("GET", "/openapi.json"): OPENS_NOTHING,
    ("POST", "/v1/job/{id}/log"): OPENS_NOTHING,
    ("GET", "/v1/job/{id}/log"): OPENS_NOTHING,
    ("GET", "/v1/job/{id}/progress"): OPENS_NOTHING,
    ("GET", "/v1/host/{name}"): OPENS_NOTHING,
    ("GET", "/v1/host/{name}/history"): OPENS_NOTHING,
    ("GET", "/v1/hosts/history"): OPENS_NOTHING,
    ("POST", "/v1/job/{id}/cancel"): Opens(_holds_one_of_two, _operate("/v1/job/JOB/cancel")),
    ("POST", "/v1/job/{id}/requeue"): Opens(_is_cancelled, _operate("/v1/job/JOB/requeue")),
    ("POST", "/v1/job/{id}/verify"): Opens(_is_completed, _operate("/v1/job/JOB/verify")),
    ("POST", "/v1/manifest/plan"): OPENS_NOTHING,
    ("POST", "/v1/manifest/reload"): Opens(lambda receiver: None, _reload),
    ("POST", "/v1/host/{name}/drain"): Opens(_prefers_another, _operate("/v1/host/gpu/drain")),
    ("POST", "/v1/host/{name}/undrain"): Opens(_is_drained, _operate("/v1/host/w/undrain")),
    ("POST", "/v1/host/{name}/resume"): Opens(_is_paused_by_failures, _operate("/v1/host/w/resume")),
    ("POST", "/v1/fleet/pause"): OPENS_NOTHING,
    ("POST", "/v1/gc"): OPENS_NOTHING,
    ("POST", "/v1/fleet/resume"): Opens(_fleet_is_paused, _operate("/v1/fleet/resume")),
    ("POST", "/v1/job/{id}/pause"): OPENS_NOTHING,
    ("GET", "/v1/enrol/ca"): OPENS_NOTHING,
    ("POST", "/v1/enrol/join"): OPENS_NOTHING,
    ("POST", "/v1/enrol/renew"): OPENS_NOTHING,
    ("POST", "/v1/enrol/renew-late"): OPENS_NOTHING,
    ("POST", "/v1/identity/{role}/{name}/token"): OPENS_NOTHING,
    ("POST", "/v1/identity/{role}/{name}/revoke"): OPENS_NOTHING,  # its leases last until they end
    ("GET", "/v1/identities"): OPENS_NOTHING,
    ("POST", "/v1/job/{id}/resume"): Opens(_job_is_paused, _operate("/v1/job/JOB/resume")),
}


def test_of_every_endpoint_it_is_said_whether_it_may_give_a_waiting_claim_a_job() -> None:
    assert set(TABLE) == {(item.method, item.path) for item in ROUTES}


@pytest.mark.parametrize("endpoint", [key for key, found in TABLE.items() if found], ids=" ".join)
def test_a_claim_that_waits_gets_its_job_at_once_after(
    endpoint: tuple[str, str], receiver: LiveReceiver
) -> None:
    case, waiters = TABLE[endpoint], receiver.coordinator.waiters
    assert case is not None
    case.before(receiver)
    body = {"capability": cpu_host().to_dict(), "wait_s": 8.0}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.worker, "POST", "/v1/job/claim", body, host="w")
        wait_until(lambda: len(waiters) == 1 and not waiters.wake_up_under_way, "a claim that waits")
        assert not waiting.done()
        assert case.act(receiver) == 200
        assert waiting.result(timeout=AT_ONCE_S).body.get("job_id"), "it was called, and got it"
