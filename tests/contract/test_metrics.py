"""`GET /metrics`: what Prometheus reads, parsed with the library's own parser."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from tests.factories.fleet import cpu_host, job_id
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet.metrics import OUTCOMES
from training.fleet.request_times import BOUNDS_S, RequestTimes
from training.fleet.types import STATUSES

MANIFEST = """
name = "measured"
[[hosts]]
name = "a"
slots = 9
[[hosts]]
name = "never-called"
[[jobs]]
model = "gbt"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "oracle"
"""
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "operator-guide.md"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


def _scrape(receiver: LiveReceiver) -> Answer:
    found = receiver.send("GET", "/metrics")
    assert found.status == 200
    return found


def _figures(receiver: LiveReceiver) -> dict[str, float]:
    """`name{label="value"}` -> figure."""
    found = {}
    for family in parser.text_string_to_metric_families(_scrape(receiver).raw.decode()):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def _claimed(receiver: LiveReceiver) -> str:
    answer = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}})
    return str(answer.body["job_id"])


def test_jobs_hosts_claims_and_attempts_are_counted(receiver: LiveReceiver) -> None:
    _figures(receiver)  # counting goes on from the last look
    first, second = _claimed(receiver), _claimed(receiver)
    bundle = b"some artifact"
    digest = hashlib.sha256(bundle).hexdigest()
    receiver.worker("PUT", f"/v1/model/{first}", bundle, **{"X-Content-SHA256": digest})
    receiver.worker("POST", f"/v1/job/{first}/complete", {"artifact_id": digest})
    receiver.worker("POST", f"/v1/job/{second}/fail", {"error": "x"})
    looks = [_figures(receiver), _figures(receiver)]
    for found in looks:  # asking again counts nothing twice
        assert {status: found[f'cis490_jobs{{status="{status}"}}'] for status in STATUSES} == {
            "pending": 1, "claimed": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 0
        }  # fmt: skip
        assert found["cis490_claims_total"] == 2
        assert [found[f'cis490_attempts_total{{outcome="{word}"}}'] for word in OUTCOMES] == [1, 1, 0, 0, 0]
        assert found['cis490_attempt_duration_seconds_count{outcome="completed"}'] == 1
        assert found["cis490_artifact_bytes_total"] == len(bundle)
        assert found['cis490_hosts{state="idle"}'] == found['cis490_hosts{state="unseen"}'] == 1
        assert found["cis490_db_size_bytes"] > 0
        assert found['cis490_disk_free_bytes{volume="database"}'] > 0
        assert found["cis490_disk_full"] == found["cis490_events_streams"] == 0
        assert found["process_resident_memory_bytes"] > 0
    found = looks[-1]
    claims = 'cis490_request_duration_seconds_count{method="POST",route="/v1/job/claim",status="200"}'
    assert found[claims] == 2


def test_a_lease_that_ends_and_a_cancel_are_outcomes(receiver: LiveReceiver) -> None:
    first, second = _claimed(receiver), _claimed(receiver)
    receiver.operator(f"/v1/job/{first}/cancel")
    lease = receiver.queue.leases.get(second)
    assert lease is not None
    receiver.queue.sweep_stale(lease.deadline_s)
    found = _figures(receiver)
    assert [found[f'cis490_attempts_total{{outcome="{word}"}}'] for word in OUTCOMES] == [0, 0, 0, 1, 1]
    assert found["cis490_lease_expired_total"] == 1


def test_what_was_rolled_back_or_happened_before_the_start_is_not_counted(
    receiver: LiveReceiver, tmp_path: Path
) -> None:
    def half() -> None:
        receiver.queue.claim("a", cpu_host())
        raise LookupError("and no further")

    receiver.queue.run_batch([half])
    assert _figures(receiver)["cis490_claims_total"] == 0
    _claimed(receiver)
    (tmp_path / "again").mkdir()
    with sqlite3.connect(tmp_path / "again" / "training_jobs.db") as copy:
        receiver.queue._connection.backup(copy)
    copy.close()
    with live_receiver(tmp_path / "again", MANIFEST) as second:
        assert _figures(second)["cis490_claims_total"] == 0
        assert _figures(receiver)["cis490_claims_total"] == 1


def test_paths_with_ids_are_one_route_and_nonsense_is_another(receiver: LiveReceiver) -> None:
    for n in range(20):
        receiver.worker("POST", f"/v1/job/{job_id(str(n))}/heartbeat")
        receiver.send("GET", f"/v1/job/{job_id(str(n))}")
        receiver.send("GET", f"/nonsense/{n}")
        receiver.send("PATCH" if n % 2 else "DELETE", "/v1/jobs")
    counts = {name for name in _figures(receiver) if name.startswith("cis490_request_duration_seconds_count")}
    routes = {str(re.findall(r'route="([^"]*)"', name)[0]) for name in counts}
    assert routes == {"/v1/job/{id}/heartbeat", "/v1/job/{id}", "/v1/health", "/v1/jobs", "other"}
    assert len(counts) == 5, counts


def test_the_format_follows_what_was_asked_for(receiver: LiveReceiver) -> None:
    plain = _scrape(receiver)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    modern = receiver.send("GET", "/metrics", headers={"Accept": f"{OPENMETRICS},text/plain;q=0.1"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(openmetrics_parser.text_string_to_metric_families(modern.raw.decode()))  # type: ignore[no-untyped-call]
    assert "cis490_claims" in {family.name for family in families}


def test_every_figure_follows_the_naming_rules_and_has_a_text(receiver: LiveReceiver) -> None:
    _claimed(receiver)
    text = _scrape(receiver).raw.decode()
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.name.startswith(("cis490_", "process_"))
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        if "duration" in family.name or "age" in family.name:
            assert family.name.endswith("_seconds")


def test_exactly_the_figures_of_the_receiver_are_documented(receiver: LiveReceiver) -> None:
    section = GUIDE.read_text(encoding="utf-8").split("\n## Figures for Prometheus\n")[1].split("\n## ")[0]
    families = parser.text_string_to_metric_families(_scrape(receiver).raw.decode())
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("cis490_")
    }
    assert set(re.findall(r"(?m)^\| `(cis490_[a-z0-9_]+)`", section)) == served


def test_a_time_falls_into_the_bucket_that_it_is_no_larger_than() -> None:
    times = RequestTimes({"handler": "/x"})
    for took_s in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 1e9):
        times.note("handler", "GET", 200, took_s)
    ((key, found),) = times.all()
    buckets, total = found.cumulative()
    assert key == ("/x", "GET", 200)
    assert [count for _, count in buckets][:2] == [2, 3]
    assert buckets[-1:] == [("+Inf", 4)]
    assert total == pytest.approx(1e9 + BOUNDS_S[0] * 2.01)
