"""A drained host finishes what it has and gets nothing new; and which hosts are forgotten."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, cuda_host, job, job_id, manifest
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import cli, exits, hosts, wire
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.types import HostSpec
from training.fleet.verbs import Terminal

MANIFEST = """
name = "drain"
[[hosts]]
name = "a"
[[hosts]]
name = "box"
[[jobs]]
model = "gbt"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "realistic"
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> Iterator[JobQueue]:
    opened = JobQueue(tmp_path / "q.db", clock=clock)
    opened.apply_manifest(
        manifest(job("x"), job("y"), hosts={"a": HostSpec("a", slots=2), "b": HostSpec("b")})
    )
    yield opened
    opened.close()


def claim(receiver: LiveReceiver, host: str = "a", **body: object) -> dict[str, object]:
    answer = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}, **body}, host=host)
    assert answer.status == 200
    assert isinstance(answer.body, dict)
    return answer.body


def blockers(queue: JobQueue, name: str, host: str) -> dict[str, tuple[str, str]]:
    found = queue.explain(job_id(name))
    assert found is not None
    (entry,) = [entry for entry in found["hosts"] if entry["host"] == host]
    return {
        check["constraint"]: (check["message"], check["hint"]) for check in entry["checks"] if not check["ok"]
    }


class TestDrain:
    def test_a_drained_host_finishes_what_it_has_and_gets_nothing_new(self, queue: JobQueue) -> None:
        held = queue.claim("a", cpu_host()).row
        assert held is not None
        assert hosts.drain(queue, "a", "moves to another room")
        refused = queue.claim("a", cpu_host())
        assert refused.row is None
        assert refused.reason == "a is drained and takes no more jobs: moves to another room"
        assert queue.heartbeat(held.job_id, "a")
        assert queue.complete(held.job_id, "a", artifact_id="c" * 64)
        assert queue.claim("b", cpu_host()).row is not None, "the others go on"

    def test_why_names_the_reason_and_the_way_back(self, queue: JobQueue) -> None:
        queue.claim("a", cpu_host())
        hosts.drain(queue, "a", "moves")
        assert blockers(queue, "y", "a") == {
            "not_drained": ("a is drained and takes no more jobs: moves", "cis490-jobs undrain a")
        }
        hosts.undrain(queue, "a")
        assert blockers(queue, "y", "a") == {}
        assert queue.claim("a", cpu_host()).row is not None

    def test_it_survives_a_restart_and_a_reload(self, tmp_path: Path) -> None:
        wanted = manifest(job("x"), hosts={"a": HostSpec("a")})
        for life in range(3):
            queue = JobQueue(tmp_path / "q.db")
            queue.apply_manifest(wanted)
            if life == 0:
                hosts.drain(queue, "a", "moves")
                queue.apply_manifest(wanted)
            if life == 2:
                assert hosts.undrain(queue, "a")
            assert (queue.claim("a", cpu_host()).row is not None) == (life == 2)
            queue.close()

    def test_each_change_has_its_audit_row_and_a_repetition_none(self, queue: JobQueue) -> None:
        for reason in ("moves", "moves", "is broken"):
            assert hosts.drain(queue, "a", reason)
        for _ in range(2):
            assert hosts.undrain(queue, "a", actor="somebody")
        assert [(row["event"], row["detail"], row["actor"]) for row in hosts.audit_of(queue, "a")] == [
            ("drain", "moves", "operator"),
            ("drain", "is broken", "operator"),
            ("undrain", "is broken", "somebody"),
        ]
        assert hosts.audit_of(queue, "b") == []

    def test_an_unknown_host_is_refused_and_a_known_one_need_not_have_called(self, queue: JobQueue) -> None:
        for verb in (hosts.drain(queue, "c", "moves"), hosts.undrain(queue, "c")):
            assert (verb.ok, verb.http_status) == (False, 404)
            assert "cis490-jobs workers" in verb.reason
        assert hosts.drain(queue, "b", "not unpacked yet")
        queue.apply_manifest(manifest(job("x")))
        assert hosts.undrain(queue, "b"), "gone from the manifest, and still to be undrained"

    @pytest.mark.parametrize("how", ["drained", "paused"])
    def test_a_preferred_host_that_takes_no_jobs_holds_nothing_up(self, queue: JobQueue, how: str) -> None:
        bad = [job(f"bad{n}", priority=9, require_cuda=True) for n in range(2)]
        queue.apply_manifest(
            manifest(job("wish", prefer_cuda=True), *bad, pause_after_failures=2, max_failures=1)
        )
        first = queue.claim("gpu", cuda_host()).row
        assert first is not None
        assert queue.claim("a", cpu_host()).row is None, "the host with CUDA is preferred"
        if how == "drained":
            hosts.drain(queue, "gpu", "moves")
        else:
            queue.fail(first.job_id, "gpu", error="x")
            second = queue.claim("gpu", cuda_host()).row
            assert second is not None
            queue.fail(second.job_id, "gpu", error="x")
        row = queue.claim("a", cpu_host()).row
        assert row is not None
        assert row.name == "wish"

    def test_a_drain_whose_transaction_fails_has_not_happened(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        hosts.drain(queue, "b", "moves")
        monkeypatch.setattr(hosts, "_audit", broken)
        (failed,) = queue.run_batch([lambda: hosts.drain(queue, "a", "moves")])
        assert isinstance(failed, QueueUnavailable)
        (failed,) = queue.run_batch([lambda: hosts.undrain(queue, "b")])
        assert isinstance(failed, QueueUnavailable)
        assert queue.matcher.drained == {"b": "moves"}
        assert queue.claim("a", cpu_host()).row is not None
        assert queue.claim("b", cpu_host()).row is None


class TestOverHttp:
    def test_drain_and_undrain_answer_what_came_of_it(self, receiver: LiveReceiver) -> None:
        claim(receiver)
        first = receiver.operator("/v1/host/a/drain", {"reason": "  new\tpower supply "})
        wanted = {"ok": True, "host": "a", "drained_reason": "new power supply", "busy": 1}
        assert (first.status, first.body) == (200, wanted)
        assert receiver.operator("/v1/host/a/drain", {"reason": "new power supply"}).body == wanted
        (worker,) = receiver.send("GET", "/v1/workers").body["workers"]
        assert worker["drained_reason"] == "new power supply"
        assert receiver.operator("/v1/host/a/undrain").body == wanted | {"drained_reason": None}
        assert receiver.operator("/v1/host/a/undrain").status == 200

    @pytest.mark.parametrize(
        ("path", "body", "status", "part"),
        [
            ("/v1/host/zzz/drain", {}, 404, "no host zzz"),
            ("/v1/host/zzz/undrain", {}, 404, "no host zzz"),
            ("/v1/host/.a%20b/drain", {}, 404, "no such host"),
            ("/v1/host/a/drain", {"reason": 7}, 400, "$.reason"),
            ("/v1/host/a/drain", {"reason": "x" * 201}, 400, "at most 200"),
            ("/v1/host/a/drain", b"{", 400, "not JSON"),
        ],
    )
    def test_what_is_refused_and_how(
        self, receiver: LiveReceiver, path: str, body: object, status: int, part: str
    ) -> None:
        answer = receiver.operator(path, body)
        assert answer.status == status
        assert part in answer.body["error"]
        assert receiver.queue.matcher.drained == {}

    @pytest.mark.parametrize("verb", ["drain", "undrain"])
    def test_only_the_operator_may(self, receiver: LiveReceiver, verb: str) -> None:
        assert receiver.operator(f"/v1/host/a/{verb}", token="wrong").status == 401
        assert receiver.send("POST", f"/v1/host/a/{verb}").status == 401

    def test_without_a_reason_there_is_a_plain_one(self, receiver: LiveReceiver) -> None:
        for body in (None, {}, {"reason": " "}):
            answer = receiver.operator("/v1/host/a/drain", body)
            assert answer.body["drained_reason"] == wire.DrainRequest().reason

    def test_a_claim_that_waits_is_served_at_the_moment_of_undrain(self, receiver: LiveReceiver) -> None:
        receiver.operator("/v1/host/a/drain")
        found: list[dict[str, object]] = []
        waits = threading.Thread(target=lambda: found.append(claim(receiver, wait_s=20)))
        waits.start()
        while "a" not in receiver.queue.matcher.seen:
            assert waits.is_alive()
        receiver.operator("/v1/host/a/undrain")
        waits.join(timeout=10)
        assert [answer["name"] for answer in found] == ["gbt-realistic"]


class TestCommandLine:
    def run(self, receiver: LiveReceiver, *argv: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        env = {"CIS490_RECEIVER_URL": receiver.url, "CIS490_OPERATOR_TOKEN": TOKEN}
        code = cli.run(argv, Terminal(env, out, err, lambda: 0.0, lambda: 0.0, 80))
        return code, out.getvalue() + err.getvalue()

    def test_drain_and_undrain_say_what_came_of_it(self, receiver: LiveReceiver) -> None:
        claim(receiver, "box")
        assert self.run(receiver, "drain", "box", "--reason", "moves") == (
            exits.OK,
            "box: drained, it finishes the 1 it has and takes no more jobs (moves)\n  undo: cis490-jobs undrain box\n",
        )
        assert self.run(receiver, "drain", "a")[1].startswith("a: drained, it takes no more jobs (drained by")
        assert "draining" in self.run(receiver, "workers")[1]
        assert "box is drained and takes no more jobs: moves" in self.run(receiver, "why", "--host", "box")[1]
        assert "drained: moves" in self.run(receiver, "status")[1]
        assert self.run(receiver, "undrain", "box")[1].startswith("box: takes jobs again\n")

    def test_both_answer_in_json(self, receiver: LiveReceiver) -> None:
        for argv in (("drain", "a", "--json"), ("undrain", "a", "--json")):
            code, out = self.run(receiver, *argv)
            assert code == exits.OK
            assert json.loads(out)["host"] == "a"

    def test_an_unknown_host_is_refused(self, receiver: LiveReceiver) -> None:
        code, out = self.run(receiver, "drain", "bxo")
        assert code == exits.USAGE
        assert 'no host is called "bxo"' in out


class TestForgetting:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hosts, "MAX_UNKNOWN_HOSTS", 3)

    def known(self, queue: JobQueue) -> list[str]:
        assert sorted(queue.matcher.seen) == [row["host"] for row in queue.read("workers")]
        return sorted(queue.matcher.seen)

    def call(self, queue: JobQueue, clock: ManualClock, *names: str) -> None:
        for name in names:
            clock.advance(1)
            queue.claim(name, cpu_host(models=[]))  # fits nothing

    def test_the_unknown_hosts_that_were_silent_longest_are_forgotten(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job("x")))
        self.call(queue, clock, "u1", "u2", "u3", "u1", "u4", "u5")
        assert self.known(queue) == ["u1", "u4", "u5"]

    def test_never_one_of_the_manifest_or_with_a_lease_or_drained(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        named = {"named": HostSpec("named")}
        queue.apply_manifest(manifest(job("x"), hosts=named, unknown_hosts="allow"))
        self.call(queue, clock, "named", "drained")
        hosts.drain(queue, "drained", "moves")
        assert queue.claim("holder", cpu_host()).row is not None
        self.call(queue, clock, *(f"u{n}" for n in range(9)))
        assert self.known(queue) == ["drained", "holder", "named", "u8"]

    def test_a_long_table_of_earlier_days_is_cut_at_the_next_new_host(
        self, queue: JobQueue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(hosts, "MAX_UNKNOWN_HOSTS", 100)
        queue.apply_manifest(manifest(job("x")))
        self.call(queue, clock, *(f"u{n}" for n in range(20)))
        monkeypatch.setattr(hosts, "MAX_UNKNOWN_HOSTS", 3)
        self.call(queue, clock, "u7", "new")
        assert len(self.known(queue)) == 3
        assert set(queue.matcher._fits) <= set(queue.matcher.seen), "nothing is kept of the forgotten"
        assert {"u7", "new"} <= set(self.known(queue))

    def test_a_failed_transaction_forgets_nobody(self, queue: JobQueue, clock: ManualClock) -> None:
        queue.apply_manifest(manifest(job("x")))
        self.call(queue, clock, "u1", "u2", "u3")

        def late_failure() -> None:
            queue.claim("u4", cpu_host(models=[]))
            raise sqlite3.OperationalError("disk I/O error")

        queue.run_batch([late_failure])
        assert self.known(queue) == ["u1", "u2", "u3"]
