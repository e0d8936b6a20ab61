"""The short way to the workers' handlers answers what the long way answers; and what a claim says on a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.ballast import Ballast
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet.direct import Direct
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue

MANIFEST = """
name = "direct"
[[hosts]]
name = "a"
slots = 9
[[jobs]]
model = "gbt"
mode = "realistic"
"""
NOBODY = "f" * 64
REQUESTS: list[tuple[str, str, object, dict[str, str]]] = [
    ("POST", "/v1/job/claim", {"capability": {}}, {"X-Lab-Host": "a", "X-Claim-Request": "r"}),
    ("POST", "/v1/job/claim", {"capability": {}}, {"X-Lab-Host": "stranger"}),
    ("POST", "/v1/job/claim", {"capability": {}}, {}),
    ("POST", "/v1/job/claim", {"capability": 7}, {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/claim", b"[" * 70_000, {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/claim", b"\xff", {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/claim/", {"capability": {}}, {"X-Lab-Host": "a"}),
    ("GET", "/v1/job/claim", None, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/heartbeat", None, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/heartbeat", {"progress": 1}, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/complete", {"artifact_id": NOBODY}, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/fail", {"error": "x", "exit_code": 2**40}, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/release", {}, {"X-Lab-Host": "../x"}),
    ("POST", "/v1/job//heartbeat", {}, {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/a/b/heartbeat", {}, {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/%00/heartbeat", {}, {"X-Lab-Host": "a"}),
    ("POST", "/v1/job/%ff%0a/release", {}, {"X-Lab-Host": "a"}),
    ("PUT", f"/v1/job/{NOBODY}/heartbeat", {}, {"X-Lab-Host": "a"}),
    ("POST", f"/v1/job/{NOBODY}/nothing", {}, {"X-Lab-Host": "a"}),
]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


def _shown(answer: Answer) -> tuple[object, ...]:
    headers = {key: value for key, value in answer.headers.items() if key not in ("date", "server")}
    return answer.status, answer.raw, headers


@pytest.mark.parametrize(
    "request_of_both", REQUESTS, ids=lambda one: f"{one[0]} {one[1][:40]} {one[2]!r:.20}"
)
def test_both_ways_answer_the_same(
    receiver: LiveReceiver,
    monkeypatch: pytest.MonkeyPatch,
    request_of_both: tuple[str, str, object, dict[str, str]],
) -> None:
    method, path, body, headers = request_of_both
    short = receiver.send(method, path, body, headers)
    monkeypatch.setattr(Direct, "_handler", lambda self, scope: None)
    assert _shown(receiver.send(method, path, body, headers)) == _shown(short)
    assert short.status < 500


@pytest.mark.parametrize(
    "error", [QueueUnavailable("disk full"), OSError(5, "I/O"), ZeroDivisionError("defect")]
)
def test_both_ways_turn_an_error_into_the_same_words(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(JobQueue, "claim", fail)
    short = receiver.worker("POST", "/v1/job/claim", {"capability": {}})
    monkeypatch.setattr(Direct, "_handler", lambda self, scope: None)
    long = receiver.worker("POST", "/v1/job/claim", {"capability": {}})
    assert _shown(long) == _shown(short)
    assert short.status == (500 if isinstance(error, ZeroDivisionError) else 503)


def test_on_a_full_disk_no_job_is_handed_out_and_everything_else_goes_on(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=1 << 20)
    ballast.restore()
    with live_receiver(tmp_path, MANIFEST, ballast=ballast) as receiver:
        job_id = receiver.worker("POST", "/v1/job/claim", {"capability": {}}).body["job_id"]
        ballast.give_up()
        refused = receiver.worker("POST", "/v1/job/claim", {"capability": {}})
        assert refused.status == 503
        assert "disk" in refused.body["error"]
        assert "disk" in receiver.send("GET", "/v1/health").body["disk"]
        assert receiver.worker("POST", f"/v1/job/{job_id}/heartbeat").status == 200
        assert receiver.worker("POST", f"/v1/job/{job_id}/release").status == 200
        why = receiver.send("GET", f"/v1/job/{job_id}/eligibility").body
        assert (why["claimable"], "no job is handed out" in why["summary"]) == (False, True), (
            "as a claim is answered"
        )
        assert [check["constraint"] for check in why["job_checks"] if not check["ok"]] == ["disk"]
        assert receiver.operator(f"/v1/job/{job_id}/cancel").status == 200
        ballast.restore()
        assert receiver.send("GET", "/v1/health").body == {"status": "ok"}
        assert receiver.worker("POST", "/v1/job/claim", {"capability": {}}).status == 200
