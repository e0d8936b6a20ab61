"""Logs, progress points and the use of machines over HTTP, at the real receiver."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.ballast import Ballast
from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet.host_history import state_of
from training.fleet.reports import MAX_LOG_BYTES, ProgressPoint
from training.fleet.segments import SegmentWriter
from training.fleet.telemetry import MAX_WAITING

MANIFEST = """
name = "told"
[[hosts]]
name = "a"
deny_jobs = ["gru"]
slots = 2
[[hosts]]
name = "b"
slots = 2
[[jobs]]
model = "gbt"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "oracle"
"""
USAGE = {
    "cpu_percent": 41.5, "ram_used_gib": 3.25, "disk_free_gib": 100.0, "job_rss_gib": 1.5,
    "gpus": [{"util_percent": 87.0, "vram_used_gib": 14.1, "temperature_c": 61.0}],
}  # fmt: skip
WRONG: tuple[dict[str, Any], ...] = (
    {"points": [{"step": 1}] * 257},
    {"points": [{"step": -1}]},
    {"points": [{"step": 2**60}]},
    {"points": [{"step": "1"}]},
    {"points": [{"loss": "low"}]},
    {"points": [{"unit": "u" * 65}]},
    {"points": [{"metric": {"m" * 65: 1.0}}]},
    {"points": [{"metric": {str(n): 1.0 for n in range(33)}}]},
    {"points": 7},
    {"usage": {"cpu_percent": 101}},
    {"usage": {"cpu_percent": -1}},
    {"usage": {"ram_used_gib": 1e300}},
    {"usage": {"gpus": [{"temperature_c": 1e9}]}},
    {"usage": {"gpus": [{}] * 65}},
    {"usage": []},
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: ManualClock) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, clock=clock) as running:
        yield running


def claim(receiver: LiveReceiver, host: str = "a", **more: Any) -> str:
    body = {"capability": cpu_host().to_dict(), **more}
    return str(receiver.worker("POST", "/v1/job/claim", body, host=host).body["job_id"])


def running(receiver: LiveReceiver, host: str = "a") -> str:
    job_id = claim(receiver, host)
    assert beat(receiver, job_id, host=host).status == 200
    return job_id


def beat(receiver: LiveReceiver, job_id: str, *, host: str = "a", **body: Any) -> Answer:
    return receiver.worker("POST", f"/v1/job/{job_id}/heartbeat", body, host=host)


def append(receiver: LiveReceiver, job_id: str, offset: int, text: str, *, host: str = "a") -> Answer:
    return receiver.worker("POST", f"/v1/job/{job_id}/log", {"offset": offset, "text": text}, host=host)


def log(receiver: LiveReceiver, job_id: str, query: str = "") -> Any:
    answer = receiver.send("GET", f"/v1/job/{job_id}/log{query}")
    assert answer.status == 200, answer.body
    return answer.body


def points(receiver: LiveReceiver, job_id: str) -> Any:
    return receiver.send("GET", f"/v1/job/{job_id}/progress").body


class TestLog:
    def test_what_was_appended_is_read_back(self, receiver: LiveReceiver) -> None:
        job_id = claim(receiver)  # before the first heartbeat, too
        assert append(receiver, job_id, 0, "wörd\n").body == {"ok": True, "offset": 6}
        assert append(receiver, job_id, 6, "more\n").body == {"ok": True, "offset": 11}
        found = log(receiver, job_id)
        assert (found["text"], found["offset"], found["next_offset"]) == ("wörd\nmore\n", 0, 11)
        assert (found["epoch"], found["epochs"], found["live"], found["empty_reason"]) == (1, [1], True, None)
        assert log(receiver, job_id, "?offset=6")["text"] == "more\n"
        assert log(receiver, job_id, "?tail=5")["text"] == "more\n"
        assert log(receiver, job_id, "?limit=4")["next_offset"] == 4

    def test_an_append_that_came_twice_is_answered_with_where_to_go_on(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        append(receiver, job_id, 0, "once\n")
        again = append(receiver, job_id, 0, "once\n")
        assert (again.status, again.body["offset"]) == (409, 5)
        assert log(receiver, job_id)["text"] == "once\n"

    def test_only_the_holder_of_the_lease_may_append(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        assert append(receiver, job_id, 0, "x", host="b").status == 410
        assert append(receiver, job_id, 0, "x", host="stranger").status == 403
        assert append(receiver, "f" * 64, 0, "x").status == 404
        assert log(receiver, job_id)["text"] == ""

    def test_who_has_a_token_must_show_it(self, receiver: LiveReceiver) -> None:
        body = {"capability": cpu_host().to_dict()}
        answer = receiver.worker("POST", "/v1/job/claim", body, **{"X-Fleet-Protocol": "2"}).body
        path, text = f"/v1/job/{answer['job_id']}/log", {"offset": 0, "text": "x"}
        assert receiver.worker("POST", path, text).status == 410
        assert receiver.worker("POST", path, text, **{"X-Lease-Token": "guessed"}).status == 410
        assert receiver.worker("POST", path, text, **{"X-Lease-Token": answer["lease_token"]}).status == 200

    def test_a_lapsed_lease_may_still_tell_and_a_replaced_one_not(
        self, receiver: LiveReceiver, clock: ManualClock
    ) -> None:
        job_id = running(receiver)
        append(receiver, job_id, 0, "before\n")
        clock.advance(700.0)
        receiver.queue.sweep_stale()
        assert append(receiver, job_id, 7, "lapsed\n").status == 200
        assert log(receiver, job_id)["text"] == "before\nlapsed\n"
        assert job_id in (claim(receiver, "b"), claim(receiver, "b"))
        assert append(receiver, job_id, 14, "too late\n").status == 410

    @pytest.mark.parametrize("verb", ["fail", "release", "complete"])
    def test_nothing_is_added_once_the_attempt_has_ended(self, receiver: LiveReceiver, verb: str) -> None:
        job_id, bundle = running(receiver), b"an artifact"
        append(receiver, job_id, 0, "said\n")
        digest = hashlib.sha256(bundle).hexdigest()
        receiver.worker("PUT", f"/v1/model/{job_id}", bundle, **{"X-Content-SHA256": digest})
        ended = receiver.worker("POST", f"/v1/job/{job_id}/{verb}", {"artifact_id": digest})
        assert ended.status == 200
        assert append(receiver, job_id, 5, "more\n").status == 410
        found = log(receiver, job_id)
        assert (found["text"], found["live"]) == ("said\n", False)

    def test_each_attempt_has_its_own(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        append(receiver, job_id, 0, "first\n")
        receiver.worker("POST", f"/v1/job/{job_id}/fail", {"error": "x"})
        while claim(receiver) != job_id:
            pass
        append(receiver, job_id, 0, "second\n")
        assert log(receiver, job_id)["text"] == "second\n"
        assert log(receiver, job_id, "?epoch=1")["text"] == "first\n"
        assert log(receiver, job_id)["epochs"] == [1, 2]
        refused = receiver.send("GET", f"/v1/job/{job_id}/log?epoch=9")
        assert (refused.status, refused.body["epochs"]) == (404, [1, 2])

    def test_an_empty_log_says_why(self, receiver: LiveReceiver) -> None:
        jobs = {row["name"]: row["job_id"] for row in receiver.send("GET", "/v1/jobs").body["jobs"]}
        never = log(receiver, jobs["mlp-oracle"])
        assert "never claimed" in never["empty_reason"]
        assert (never["epoch"], never["live"], never["epochs"]) == (None, False, [])
        job_id = running(receiver)
        assert "has printed nothing so far" in log(receiver, job_id)["empty_reason"]
        receiver.worker("POST", f"/v1/job/{job_id}/fail", {"error": "x"})
        assert "no output of attempt 1 on a was kept" in log(receiver, job_id)["empty_reason"]

    def test_a_log_is_bounded_and_says_what_is_gone(self, receiver: LiveReceiver) -> None:
        job_id, block, at = running(receiver), "x" * (MAX_LOG_BYTES - 1) + "\n", 0
        for _ in range(6):
            at = append(receiver, job_id, at, block).body["offset"]
        found = log(receiver, job_id)
        assert at == 6 * MAX_LOG_BYTES
        assert found["first_offset"] == found["offset"] == 2 * MAX_LOG_BYTES
        assert found["end_offset"] == at

    def test_what_is_no_append_is_refused(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        for body, status in (
            (b'{"offset": 0, "text": "' + b"x" * (MAX_LOG_BYTES + 1) + b'"}', 413),
            (b'{"offset": 0, "text": "' + b"x" * (8 * MAX_LOG_BYTES) + b'"}', 413),
            (b'{"offset": -1, "text": ""}', 400),
            (b'{"offset": 1e300, "text": ""}', 400),
            (b'{"offset": 9223372036854775807, "text": ""}', 400),
            (b'{"offset": NaN, "text": ""}', 400),
            (b'{"text": "x"}', 400),
            (b'{"offset": 0, "text": "\\ud800"}', 400),
            (b'{"offset": 0, "text": 7}', 400),
            (b"", 400),
        ):
            assert receiver.worker("POST", f"/v1/job/{job_id}/log", body).status == status, body[:80]
        assert log(receiver, job_id)["text"] == ""

    def test_what_is_no_number_is_refused(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        for query in ("offset=-1", "offset=x", "epoch=1.5", "limit=", "tail=9999999999999999"):
            assert receiver.send("GET", f"/v1/job/{job_id}/log?{query}").status == 400, query

    def test_control_characters_come_back_as_they_were_sent(self, receiver: LiveReceiver) -> None:
        job_id, text = running(receiver), "\x1b[31mred\x1b[0m\r\x00\x07\u202e"
        append(receiver, job_id, 0, text)
        assert log(receiver, job_id)["text"] == text

    def test_a_log_survives_a_restart_of_the_receiver(self, tmp_path: Path) -> None:
        with live_receiver(tmp_path, MANIFEST) as first:
            job_id = running(first)
            append(first, job_id, 0, "before\n")
            beat(first, job_id, points=[{"step": 1}], usage=USAGE)
        with live_receiver(tmp_path, MANIFEST) as second:
            assert append(second, job_id, 7, "after\n").status == 200
            assert log(second, job_id)["text"] == "before\nafter\n"
            assert [one["step"] for one in points(second, job_id)["points"]] == [1]
            assert points(second, job_id)["peak"]["job_rss_gib"] == 1.5

    def test_while_the_disk_is_full_logs_wait_and_heartbeats_do_not(self, tmp_path: Path) -> None:
        ballast = Ballast(tmp_path / "ballast", size_bytes=4096)
        ballast.restore()
        with live_receiver(tmp_path, MANIFEST, ballast=ballast) as full:
            job_id = running(full)
            ballast.give_up()
            refused = append(full, job_id, 0, "x")
            assert (refused.status, "is full" in refused.body["error"]) == (507, True)
            assert beat(full, job_id, points=[{"step": 1}]).status == 200
            assert log(full, job_id)["text"] == ""
            ballast.restore()
            assert append(full, job_id, 0, "x").status == 200

    def test_a_log_folder_that_cannot_be_used_harms_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "logs").write_text("a file where a folder is wanted")
        with live_receiver(tmp_path, MANIFEST) as broken:
            job_id = running(broken)
            assert append(broken, job_id, 0, "x").status == 503
            assert beat(broken, job_id, points=[{"step": 1}], usage=USAGE).status == 200
            assert broken.send("GET", f"/v1/job/{job_id}/progress").status == 503
            assert broken.worker("POST", f"/v1/job/{job_id}/fail", {"error": "x"}).status == 200
            assert broken.send("GET", "/v1/host/a").body["usage"]["cpu_percent"] == 41.5


class TestProgress:
    def test_a_client_that_sends_no_points_makes_one_by_each_new_progress(
        self, receiver: LiveReceiver
    ) -> None:
        job_id = running(receiver)
        for loss in (0.5, 0.5, 0.4):
            beat(receiver, job_id, progress={"step": 3, "loss": loss, "metric": {"val_loss": 0.6}})
        beat(receiver, job_id, progress={"step": -4})  # shown as it is, and not kept as a point
        found = points(receiver, job_id)["points"]
        assert [(one["step"], one["loss"], one["metric"]) for one in found] == [
            (3, 0.5, {"val_loss": 0.6}), (3, 0.4, {"val_loss": 0.6}),
        ]  # fmt: skip

    def test_points_come_back_in_order_and_placed_in_time(
        self, receiver: LiveReceiver, clock: ManualClock
    ) -> None:
        job_id = running(receiver)
        told = [
            {
                "step": step,
                "total": 9,
                "unit": "epoch",
                "loss": 1.0 / step,
                "metric": {"val": 0.5},
                "at_s": 50.0 + step,
            }
            for step in (1, 2)
        ]
        assert beat(receiver, job_id, points=told, sent_s=62.0).status == 200
        found = points(receiver, job_id)
        wall = clock.wall_s()
        assert [one["at"] for one in found["points"]] == [pytest.approx(wall - 11), pytest.approx(wall - 10)]
        assert found["points"][1] | {"at": 0} == {
            "at": 0, "step": 2, "total": 9, "unit": "epoch", "loss": 0.5, "metric": {"val": 0.5},
        }  # fmt: skip
        assert (found["epoch"], found["live"]) == (1, True)

    def test_a_clock_that_makes_no_sense_counts_as_now(
        self, receiver: LiveReceiver, clock: ManualClock
    ) -> None:
        job_id = running(receiver)
        for at_s, sent_s in ((99.0, 1.0), (1.0, None), (None, 5.0), (-1e300, 1e300)):
            beat(receiver, job_id, points=[{"step": 1, "at_s": at_s}], sent_s=sent_s)
        found = [one["at"] for one in points(receiver, job_id)["points"]]
        assert found == [pytest.approx(clock.wall_s())] * 4

    def test_they_stay_when_the_attempt_has_ended_with_the_most_that_it_used(
        self, receiver: LiveReceiver
    ) -> None:
        job_id = running(receiver)
        beat(receiver, job_id, points=[{"step": 1}], usage={**USAGE, "job_vram_gib": 7.0})
        beat(receiver, job_id, usage={"job_rss_gib": 0.5, "gpus": [{"util_percent": 3.0}]})
        receiver.worker("POST", f"/v1/job/{job_id}/fail", {"error": "x", "peak_rss_mib": 2048.0})
        found = points(receiver, job_id)
        assert len(found["points"]) == 1
        assert found["peak"] == {
            "job_rss_gib": 2.0, "job_vram_gib": 7.0, "gpu_util_percent": 87.0, "vram_used_gib": 14.1,
        }  # fmt: skip

    def test_a_long_training_is_thinned(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        for start in range(0, 2560, 256):
            beat(receiver, job_id, points=[{"step": step} for step in range(start, start + 256)])
        steps = [one["step"] for one in points(receiver, job_id)["points"]]
        assert (len(steps), steps[0], steps[-1]) == (1000, 0, 2559)

    def test_the_first_heartbeat_may_bring_some_too(self, receiver: LiveReceiver) -> None:
        job_id = claim(receiver)
        beat(receiver, job_id, points=[{"step": 1}])
        assert len(points(receiver, job_id)["points"]) == 1

    def test_points_of_who_does_not_hold_the_job_are_not_taken(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        assert beat(receiver, job_id, host="b", points=[{"step": 1}], usage=USAGE).status == 410
        assert points(receiver, job_id)["points"] == []
        assert receiver.coordinator.telemetry.usage("b") is None

    def test_what_no_machine_tells_is_refused(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        for body in WRONG:
            assert beat(receiver, job_id, **body).status == 400, body
        for text in (b'{"points": [{"loss": NaN}]}', b'{"points": [{"loss": 1e999}]}'):
            assert receiver.worker("POST", f"/v1/job/{job_id}/heartbeat", text).status == 400, text
        assert points(receiver, job_id)["points"] == []

    def test_a_million_points_are_refused_by_their_size(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        text = json.dumps({"points": [{"step": 1}] * 10_000}).encode()
        assert receiver.worker("POST", f"/v1/job/{job_id}/heartbeat", text).status == 413

    def test_keys_of_a_newer_worker_are_ignored(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        usage = {"fans": 2, "gpus": [{"watt": 300}]}
        newer: dict[str, Any] = {"points": [{"step": 1, "speed": 3}], "usage": usage, "mood": "good"}
        assert beat(receiver, job_id, **newer).status == 200
        assert len(points(receiver, job_id)["points"]) == 1


class TestEvents:
    @pytest.fixture
    def told(
        self, receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(
            receiver.coordinator.telemetry, "publish", lambda kind, data: found.append((kind, data))
        )
        return found

    def test_news_are_told_at_once(
        self, receiver: LiveReceiver, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        job_id = running(receiver)
        beat(receiver, job_id, points=[{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}], usage=USAGE)
        append(receiver, job_id, 0, "line\n")
        assert [kind for kind, _ in told] == ["progress", "usage", "log"]
        progress, usage, appended = (data for _, data in told)
        assert {"job_id": job_id, "host": "a", "epoch": 1, "step": 2, "loss": 0.5}.items() <= progress.items()
        assert progress["name"] in ("gbt-realistic", "mlp-oracle")
        assert {"host": "a", "cpu_percent": 41.5}.items() <= usage.items()
        assert appended == {"job_id": job_id, "host": "a", "epoch": 1, "next_offset": 5}

    def test_a_heartbeat_without_news_tells_nothing(
        self, receiver: LiveReceiver, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        job_id = running(receiver)
        beat(receiver, job_id)
        beat(receiver, job_id, points=[])
        append(receiver, job_id, 0, "")
        assert told == []

    def test_the_name_of_the_job_is_known_after_a_restart(
        self, tmp_path: Path, receiver: LiveReceiver
    ) -> None:
        job_id = running(receiver)
        lease = receiver.queue.leases.get(job_id)
        receiver.queue.rebuild()
        again = receiver.queue.leases.get(job_id)
        assert lease is not None
        assert again is not None
        assert again.name == lease.name != ""


class TestHosts:
    def test_a_host_tells_its_use_when_it_asks_for_a_job(
        self, receiver: LiveReceiver, clock: ManualClock
    ) -> None:
        claim(receiver, usage={"cpu_percent": 3.0})
        (row,) = receiver.send("GET", "/v1/workers").body["workers"]
        assert row["usage"] == {"at": pytest.approx(clock.wall_s()), "cpu_percent": 3.0}
        (seen, _) = receiver.send("GET", "/v1/overview").body["hosts"]
        assert seen["usage"] == row["usage"]

    def test_a_host_that_is_not_admitted_is_not_remembered(self, receiver: LiveReceiver) -> None:
        body = {"capability": {}, "usage": {"cpu_percent": 3.0}}
        assert receiver.worker("POST", "/v1/job/claim", body, host="stranger").status == 403
        assert receiver.coordinator.telemetry.usages() == {}

    def test_use_that_no_machine_has_is_refused_with_the_claim(self, receiver: LiveReceiver) -> None:
        body = {"capability": {}, "usage": {"cpu_percent": 300.0}}
        answer = receiver.worker("POST", "/v1/job/claim", body)
        assert (answer.status, answer.body["error"]) == (400, "usage.cpu_percent must lie between 0 and 100")

    def test_a_host_in_full(self, receiver: LiveReceiver) -> None:
        job_id = running(receiver)
        other = running(receiver)
        beat(receiver, job_id, usage=USAGE)
        receiver.worker("POST", f"/v1/job/{other}/fail", {"error": "no disk\nmore", "duration_s": 3.5})
        receiver.operator("/v1/host/a/drain", {"reason": "new fans"})
        found = receiver.send("GET", "/v1/host/a").body
        assert found["host"]["host"] == "a"
        assert found["host"]["usage"]["cpu_percent"] == 41.5
        assert found["state"] == "draining"
        assert found["drained_reason"] == "new fans"
        assert found["policy"]["deny_jobs"] == ["gru"]
        assert found["policy"]["lines"]["deny_jobs"] == 5
        assert [job["job_id"] for job in found["running"]] == [job_id]
        assert [row["event"] for row in found["audit"]] == ["drain"]
        assert found["failure_rate"] == {"failed": 1, "ended": 1}
        ended = next(one for one in found["attempts"] if one["outcome"])
        assert (ended["job_id"], ended["outcome"], ended["took_s"], ended["error"]) == (
            other,
            "failed",
            3.5,
            "no disk",
        )
        assert "token" not in ended
        assert {one["name"] for one in found["attempts"]} == {"gbt-realistic", "mlp-oracle"}

    def test_a_host_of_the_manifest_that_never_called(self, receiver: LiveReceiver) -> None:
        found = receiver.send("GET", "/v1/host/b").body
        assert (found["host"], found["state"], found["attempts"], found["usage"]) == (
            None,
            "unseen",
            [],
            None,
        )

    def test_an_unknown_host_is_answered_with_the_nearest_name(self, tmp_path: Path) -> None:
        with live_receiver(tmp_path, MANIFEST.replace('"a"', '"gpu-box-1"')) as receiver:
            for path in ("/v1/host/gpu-box-l", "/v1/host/gpu-box-l/history"):
                answer = receiver.send("GET", path)
                assert (answer.status, answer.body["did_you_mean"]) == (404, "gpu-box-1")

    def test_the_last_day_of_a_host(self, receiver: LiveReceiver, clock: ManualClock) -> None:
        job_id = running(receiver)
        beat(receiver, job_id, usage=USAGE)
        look(receiver)
        clock.advance(900.0)
        receiver.queue.sweep_stale()
        look(receiver)
        told = receiver.send("GET", "/v1/host/a/history?hours=1").body
        assert (told["step_s"], len(told["points"])) == (300, 12)
        assert [one["state"] for one in told["points"]][-5:] == [
            "unknown", "running", "unknown", "unknown", "lost",
        ]  # fmt: skip
        assert told["points"][-4]["gpu_util_percent"] == 87.0
        assert told["points"][0]["at"] == told["from_at"]
        strips = receiver.send("GET", "/v1/hosts/history").body
        assert strips["hosts"]["a"].endswith(".r..l")
        assert len(strips["hosts"]["a"]) == 288
        assert receiver.send("GET", "/v1/host/a").body["state_since"] == told["points"][-1]["at"]

    def test_the_last_day_survives_a_restart(self, tmp_path: Path, clock: ManualClock) -> None:
        with live_receiver(tmp_path, MANIFEST, clock=clock) as first:
            running(first)
            look(first)
        with live_receiver(tmp_path, MANIFEST, clock=clock) as second:
            assert second.send("GET", "/v1/hosts/history").body["hosts"]["a"].endswith(".r")

    @pytest.mark.parametrize("damage", [b"", b"no zlib", b"x\x9c\x03\x00\x00\x00\x00\x01"])
    def test_a_damaged_history_is_begun_anew(self, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/hosts.history").write_bytes(damage)
        with live_receiver(tmp_path, MANIFEST) as receiver:
            assert receiver.send("GET", "/v1/hosts/history").body["hosts"] == {}


def look(receiver: LiveReceiver) -> None:
    """What the reaper's timer does."""
    workers = receiver.queue.workers()
    history, wall = receiver.coordinator.telemetry.history, receiver.queue.clock.wall_s()
    for row in workers:
        history.look(row["host"], state_of(row), wall)


def test_a_disk_that_stands_still_delays_no_heartbeat(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = running(receiver)
    stuck, go_on = threading.Event(), threading.Event()
    original = SegmentWriter.append

    def hang(self: SegmentWriter, data: bytes) -> None:
        stuck.set()
        go_on.wait(20)
        original(self, data)

    monkeypatch.setattr(SegmentWriter, "append", hang)
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)
    with contextlib.closing(connection):
        body = json.dumps({"offset": 0, "text": "slow\n"})
        connection.request("POST", f"/v1/job/{job_id}/log", body, {"X-Lab-Host": "a"})
        assert stuck.wait(20)
        for step in range(5):
            assert beat(receiver, job_id, points=[{"step": step}], usage=USAGE).status == 200
        assert receiver.send("GET", "/v1/jobs").status == 200
        go_on.set()
        assert connection.getresponse().status == 200
    assert len(points(receiver, job_id)["points"]) == 5


def test_points_of_very_many_heartbeats_wait_as_one_piece_for_a_slow_disk(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fleet of a thousand hosts would lose points, and appends be refused, for one slow write."""
    job_id = running(receiver)
    go_on = threading.Event()
    original = SegmentWriter.append

    def hang(self: SegmentWriter, data: bytes) -> None:
        go_on.wait(20)
        original(self, data)

    monkeypatch.setattr(SegmentWriter, "append", hang)
    telemetry, lease = receiver.coordinator.telemetry, receiver.queue.leases.get(job_id)
    assert lease is not None
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)
    with contextlib.closing(connection):
        body = json.dumps({"offset": 0, "text": "slow\n"})
        connection.request("POST", f"/v1/job/{job_id}/log", body, {"X-Lab-Host": "a"})
        for step in range(2 * MAX_WAITING):
            telemetry.heard(lease, [ProgressPoint(step=step)], None, None)
        go_on.set()
        assert connection.getresponse().status == 200
    assert [one["step"] for one in points(receiver, job_id)["points"]] == list(range(2 * MAX_WAITING))
