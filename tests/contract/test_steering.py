"""Pauses of the fleet, of a job and of a host: what they hold back, what goes on, what they survive, and who did it."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from cis490.database import sqlite
from tests.factories.fleet import ARTIFACT, cpu_host, job, job_id, manifest
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import cli, exits, hosts, steering, wire
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.rows import JobRow
from training.fleet.sql import MIGRATIONS
from training.fleet.types import HostSpec
from training.fleet.verbs import Terminal

MANIFEST = """
name = "steered"
[policy]
pause_after_failures = 1
[[hosts]]
name = "a"
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 1
[[jobs]]
model = "mlp"
mode = "realistic"
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    opened = JobQueue(tmp_path / "q.db", clock=ManualClock())
    opened.apply_manifest(manifest(job("x", priority=1), job("y"), hosts={"a": HostSpec("a", slots=9)}))
    yield opened
    opened.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


def row(queue: JobQueue, name: str) -> JobRow:
    found = queue.get(job_id(name))
    assert found is not None
    return found


def claimed(queue: JobQueue) -> str | None:
    found = queue.claim("a", cpu_host()).row
    return None if found is None else found.name


class TestFleet:
    def test_nothing_is_handed_out_and_the_claim_is_told_why(self, queue: JobQueue) -> None:
        assert steering.pause_fleet(queue, "the roof leaks") == 0
        refused = queue.claim("a", cpu_host())
        assert (refused.row, refused.reason) == (None, "the fleet is paused: the roof leaks")
        steering.resume_fleet(queue)
        assert claimed(queue) == "x"

    def test_why_names_it_for_every_host_with_the_command_that_ends_it(self, queue: JobQueue) -> None:
        steering.pause_fleet(queue, "the roof leaks")
        told = queue.explain(job_id("x"))
        assert told is not None
        (check,) = [one for one in told["hosts"][0]["checks"] if one["constraint"] == "fleet_not_paused"]
        assert (check["ok"], check["found"], check["hint"]) == (False, "the roof leaks", "cis490-jobs resume")
        assert not told["claimable"]

    def test_what_runs_goes_on_and_completes(self, queue: JobQueue) -> None:
        assert claimed(queue) == "x"
        assert steering.pause_fleet(queue, "later") == 1
        assert queue.heartbeat(job_id("x"), "a")
        assert queue.complete(job_id("x"), "a", artifact_id=ARTIFACT)

    def test_it_survives_a_restart_and_a_reload(self, queue: JobQueue, tmp_path: Path) -> None:
        steering.pause_fleet(queue, "the roof leaks")
        queue.apply_manifest(manifest(job("x")))
        assert claimed(queue) is None
        queue.close()
        again = JobQueue(tmp_path / "q.db")
        try:
            again.apply_manifest(manifest(job("x")))
            assert again.claim("a", cpu_host()).reason == "the fleet is paused: the roof leaks"
        finally:
            again.close()

    def test_each_change_has_its_audit_row_and_a_repetition_none(self, queue: JobQueue) -> None:
        for reason in ("one", "one", "two"):
            steering.pause_fleet(queue, reason, actor="operator")
        for _ in range(2):
            steering.resume_fleet(queue)
        trail = [(one["event"], one["actor"], one["detail"]) for one in hosts.audit_of(queue, "")]
        assert trail == [
            ("pause", "operator", "one"),
            ("pause", "operator", "two"),
            ("resume", "operator", "two"),
        ]

    def test_a_write_that_fails_leaves_it_as_it_was(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(queue, "audit_host", broken)
            (failed,) = queue.run_batch([lambda: steering.pause_fleet(queue, "x")])
        assert isinstance(failed, QueueUnavailable)
        assert queue.matcher.rules.paused_reason is None
        assert claimed(queue) == "x"


class TestJob:
    def test_it_is_passed_over_until_it_is_resumed(self, queue: JobQueue) -> None:
        assert steering.pause_job(queue, job_id("x"), "its data is being mended")
        assert (claimed(queue), claimed(queue)) == ("y", None)
        assert steering.resume_job(queue, job_id("x"))
        assert claimed(queue) == "x"

    def test_why_says_so_with_the_command_that_ends_it(self, queue: JobQueue) -> None:
        steering.pause_job(queue, job_id("x"), "its data is being mended")
        told = queue.explain(job_id("x"))
        assert told is not None
        (check,) = [one for one in told["job_checks"] if not one["ok"]]
        assert (check["constraint"], check["hint"]) == ("not_paused_job", "cis490-jobs resume x")
        assert check["message"] == "the job is paused: its data is being mended"

    def test_while_it_runs_the_pause_counts_from_the_next_time_on(self, queue: JobQueue) -> None:
        assert claimed(queue) == "x"
        assert steering.pause_job(queue, job_id("x"), "later")
        assert queue.heartbeat(job_id("x"), "a")
        assert queue.release(job_id("x"), "a")
        assert (row(queue, "x").status, claimed(queue), claimed(queue)) == ("pending", "y", None)

    def test_a_host_that_comes_back_after_a_lapse_goes_on_with_it(self, queue: JobQueue) -> None:
        assert claimed(queue) == "x"
        queue.sweep_stale(queue.clock.now_s() + queue.stale_after_s + 1)
        assert steering.pause_job(queue, job_id("x"), "later")
        assert queue.heartbeat(job_id("x"), "a")
        assert row(queue, "x").status == "running"

    def test_the_pause_outlives_a_reload_and_a_requeue(self, queue: JobQueue) -> None:
        steering.pause_job(queue, job_id("x"), "later")
        queue.cancel(job_id("x"))
        queue.requeue(job_id("x"))
        queue.apply_manifest(manifest(job("x")))
        assert (row(queue, "x").paused_reason, claimed(queue)) == ("later", None)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_what_has_ended_cannot_be_paused(self, queue: JobQueue, status: str) -> None:
        if status == "cancelled":
            queue.cancel(job_id("x"))
        else:
            assert claimed(queue) == "x"
            if status == "completed":
                queue.complete(job_id("x"), "a", artifact_id=ARTIFACT)
            else:
                queue.fail(job_id("x"), "a", error="x", fail_class="bad_config")
        refused = steering.pause_job(queue, job_id("x"), "later")
        assert (refused.http_status, refused.reason) == (
            409,
            f"the job is already {status}; there is nothing to pause",
        )

    def test_each_change_has_its_audit_row_and_a_repetition_none(self, queue: JobQueue) -> None:
        for reason in ("one", "one", "two", None, None):
            if reason is None:
                steering.resume_job(queue, job_id("x"))
            else:
                steering.pause_job(queue, job_id("x"), reason)
        trail = [
            (one["event"], one["detail"], one["from_phase"], one["to_phase"])
            for one in queue.audit(job_id("x"))
        ]
        assert trail[1:] == [
            ("pause", "one", "pending", "pending"),
            ("pause", "two", "pending", "pending"),
            ("resume", "two", "pending", "pending"),
        ]

    def test_it_is_not_counted_among_what_a_host_could_take(self, queue: JobQueue) -> None:
        steering.pause_job(queue, job_id("x"), "later")
        queue.claim("b", cpu_host(models=["none"]))
        hosts.drain(queue, "a", "x")
        claimed(queue)
        (worker,) = [one for one in queue.workers() if one["host"] == "a"]
        assert worker["eligible_jobs"] == 1


class TestHost:
    def test_resume_ends_a_pause_after_failures_and_forgets_them(
        self, queue: JobQueue, tmp_path: Path
    ) -> None:
        queue.apply_manifest(manifest(job("x", priority=1), job("y"), pause_after_failures=2))
        with queue.atomic():
            queue.saw("a", cpu_host())
            for name in ("one", "two"):
                queue.count_failure("a", name)
        assert claimed(queue) is None
        assert hosts.resume(queue, "a")
        with queue.atomic():
            queue.count_failure("a", "three")
        assert claimed(queue) == "x", "one failure is a new row of its own"
        queue.close()
        again = JobQueue(tmp_path / "q.db")
        assert (again.matcher.seen["a"].paused_reason, again.matcher.seen["a"].failures_in_a_row) == (None, 1)
        again.close()

    def test_the_pause_and_its_end_are_in_the_trail(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), pause_after_failures=1))
        with queue.atomic():
            queue.saw("a", cpu_host())
            queue.count_failure("a", "one")
        hosts.resume(queue, "a")
        hosts.resume(queue, "a")
        with queue.atomic():
            queue.count_failure("a", "two")
        queue.apply_manifest(manifest(job("x"), pause_after_failures=1))
        trail = [(one["actor"], one["event"], one["detail"]) for one in hosts.audit_of(queue, "a")]
        why = "1 jobs failed on it in a row"
        assert trail == [
            ("receiver", "pause", why),
            ("operator", "resume", why),
            ("receiver", "pause", why),
            ("manifest", "resume", why),
        ]

    def test_a_row_of_failures_that_is_not_full_yet_is_forgotten_too(self, queue: JobQueue) -> None:
        with queue.atomic():
            queue.saw("a", cpu_host())
            queue.count_failure("a", "one")
        assert hosts.resume(queue, "a")
        assert queue.matcher.seen["a"].failures_in_a_row == 0
        assert [one["detail"] for one in hosts.audit_of(queue, "a")] == ["1 failures forgotten"]

    def test_the_reason_why_it_gets_nothing_names_the_command(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), pause_after_failures=1))
        with queue.atomic():
            queue.saw("a", cpu_host())
            queue.count_failure("a", "one")
        told = queue.explain(job_id("x"))
        assert told is not None
        (check,) = [one for one in told["hosts"][0]["checks"] if one["constraint"] == "not_paused"]
        assert "cis490-jobs resume --host a" in check["hint"]

    def test_a_host_of_the_manifest_that_never_called_has_nothing_to_resume(self, queue: JobQueue) -> None:
        assert hosts.resume(queue, "a")
        assert hosts.audit_of(queue, "a") == []
        assert hosts.resume(queue, "zzz").http_status == 404


class TestMigration:
    def test_a_database_of_version_4_keeps_its_jobs_and_hands_them_out(self, tmp_path: Path) -> None:
        path = tmp_path / "old.db"
        old = sqlite.connect(str(path))
        sqlite.migrate(old, MIGRATIONS[:4])
        old.execute("INSERT INTO requirement_class (class_id, key) VALUES (1, ?)", (_class_of_x(tmp_path),))
        old.execute(
            "INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status) VALUES (?, 'x', 'gbt', "
            "'realistic', ?, 0, 1, 'pending')",
            (job_id("x"), json.dumps(job("x").to_dict())),
        )
        old.execute("INSERT INTO drained_host VALUES ('b', 'moves', 1.0)")
        old.execute("INSERT INTO upload VALUES (?, 1, ?, 5, 1.0)", (job_id("x"), ARTIFACT))
        old.close()
        queue = JobQueue(path)
        try:
            queue.apply_manifest(manifest(job("x")))
            assert (row(queue, "x").paused_reason, queue.matcher.rules.paused_reason) == (None, None)
            assert queue.matcher.drained == {"b": "moves"}
            assert queue.has_upload(job_id("x"), 1, ARTIFACT)
            assert claimed(queue) == "x"
        finally:
            queue.close()

    def test_the_search_for_the_next_job_stays_an_index_seek(self, queue: JobQueue) -> None:
        from training.fleet.sql import STATEMENTS

        for name, values in (
            ("class_head", {"class_id": 1, "most": 1}),
            ("class_following", {"class_id": 1, "most": 1}),
        ):
            plan = queue._connection.execute(f"EXPLAIN QUERY PLAN {STATEMENTS[name]}", values).fetchall()
            assert "USING" in plan[0]["detail"]
            assert "job_head" in plan[0]["detail"]
            assert len(plan) == 1, "no sorting"


def _class_of_x(folder: Path) -> str:
    queue = JobQueue(folder / "new.db")
    queue.apply_manifest(manifest(job("x")))
    (found,) = queue.read("classes")
    queue.close()
    return str(found["key"])


class TestOverHttp:
    def first(self, receiver: LiveReceiver) -> str:
        return str(receiver.send("GET", "/v1/jobs").body["jobs"][0]["job_id"])

    def test_pause_and_resume_answer_what_came_of_it(self, receiver: LiveReceiver) -> None:
        one = self.first(receiver)
        paused = receiver.operator("/v1/fleet/pause", {"reason": "  the\troof  leaks "})
        assert (paused.status, paused.body) == (
            200,
            {"ok": True, "fleet_paused": "the roof leaks", "running": 0},
        )
        assert receiver.send("GET", "/v1/overview").body["fleet_paused"] == "the roof leaks"
        assert receiver.operator("/v1/fleet/resume").body == {"ok": True, "fleet_paused": None, "running": 0}
        assert receiver.operator(f"/v1/job/{one}/pause").body["paused_reason"] == wire.PauseRequest().reason
        assert (
            receiver.send("GET", f"/v1/job/{one}").body["job"]["paused_reason"] == wire.PauseRequest().reason
        )
        claim = receiver.worker("POST", "/v1/job/claim", {"capability": {}}).body
        assert claim["name"] == "mlp-realistic"
        resumed = receiver.operator(f"/v1/job/{one}/resume").body
        assert (resumed["paused_reason"], resumed["status"], resumed["name"]) == (
            None,
            "pending",
            "gbt-realistic",
        )
        told = {"ok": True, "host": "a", "paused_reason": None, "drained_reason": None}
        assert receiver.operator("/v1/host/a/resume").body == told

    @pytest.mark.parametrize(
        ("path", "body", "status", "part"),
        [
            ("/v1/fleet/pause", {"reason": 7}, 400, "$.reason"),
            ("/v1/fleet/pause", {"reason": "x" * 201}, 400, "at most 200"),
            ("/v1/fleet/pause", b"{", 400, "not JSON"),
            ("/v1/job/zzz/pause", {}, 404, "no job zzz"),
            ("/v1/job/zzz/resume", {}, 404, "no job zzz"),
            ("/v1/host/zzz/resume", {}, 404, "no host zzz"),
            ("/v1/host/.a%20b/resume", {}, 404, "no such host"),
        ],
    )
    def test_what_is_refused_and_how(
        self, receiver: LiveReceiver, path: str, body: object, status: int, part: str
    ) -> None:
        answer = receiver.operator(path, body)
        assert answer.status == status
        assert part in answer.body["error"]
        assert receiver.queue.matcher.rules.paused_reason is None

    @pytest.mark.parametrize(
        "path", ["/v1/fleet/pause", "/v1/fleet/resume", "/v1/job/x/pause", "/v1/host/a/resume"]
    )
    def test_only_the_operator_may(self, receiver: LiveReceiver, path: str) -> None:
        assert receiver.operator(path, token="wrong").status == 401
        assert receiver.send("POST", path).status == 401


class TestCommandLine:
    def run(self, receiver: LiveReceiver, *argv: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        env = {"CIS490_RECEIVER_URL": receiver.url, "CIS490_OPERATOR_TOKEN": TOKEN}
        code = cli.run(argv, Terminal(env, out, err, lambda: 0.0, lambda: 0.0, 80))
        return code, out.getvalue() + err.getvalue()

    def test_the_fleet_is_paused_and_resumed(self, receiver: LiveReceiver) -> None:
        receiver.worker("POST", "/v1/job/claim", {"capability": {}})
        said = "the fleet is paused: no job is handed out; 1 job still runs and may finish (the roof leaks)"
        wanted = f"{said}\n  undo: cis490-jobs resume\n"
        assert self.run(receiver, "pause", "--reason", "the roof leaks") == (exits.OK, wanted)
        assert "fleet is paused: the roof leaks" in self.run(receiver, "status")[1]
        assert self.run(receiver, "resume")[1].startswith("the fleet is resumed: jobs are handed out again\n")

    def test_a_job_that_runs_goes_on_and_the_answer_says_so(self, receiver: LiveReceiver) -> None:
        receiver.worker("POST", "/v1/job/claim", {"capability": {}})
        code, out = self.run(receiver, "pause", "gbt-realistic")
        assert code == exits.OK
        assert "it runs on a and goes on; to stop it as well: cis490-jobs cancel gbt-realistic" in out
        assert (
            self.run(receiver, "resume", "gbt-realistic")[1] == "gbt-realistic: not paused; it is claimed\n"
        )
        assert "undo: cis490-jobs resume mlp-realistic" in self.run(receiver, "pause", "mlp-realistic")[1]
        assert "next: cis490-jobs why mlp-realistic" in self.run(receiver, "resume", "mlp-realistic")[1]

    def test_a_host_is_resumed_and_a_drain_is_not_forgotten(self, receiver: LiveReceiver) -> None:
        assert self.run(receiver, "resume", "--host", "a")[1].startswith("a: not paused, takes jobs again\n")
        receiver.operator("/v1/host/a/drain", {"reason": "moves"})
        assert "next: cis490-jobs undrain a" in self.run(receiver, "resume", "--host", "a")[1]

    def test_a_job_and_a_host_at_once_are_refused(self, receiver: LiveReceiver) -> None:
        code, out = self.run(receiver, "resume", "gbt-realistic", "--host", "a")
        assert (code, "not both" in out) == (exits.USAGE, True)

    def test_all_of_them_answer_in_json(self, receiver: LiveReceiver) -> None:
        for argv in (
            ["pause"],
            ["resume"],
            ["pause", "gbt-realistic"],
            ["resume", "gbt-realistic"],
            ["resume", "--host", "a"],
        ):
            code, out = self.run(receiver, *argv, "--json")
            assert (code, json.loads(out)["ok"]) == (exits.OK, True)
