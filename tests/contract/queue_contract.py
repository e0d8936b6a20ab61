"""What every queue back end promises. A back end's own test hands in a factory (see test_queue_sqlite.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import ARTIFACT, OTHER_ARTIFACT, cpu_host, cuda_host, job, job_id, manifest
from training.fleet.lifecycle import Phase
from training.fleet.queue import JobQueue
from training.fleet.rows import Outcome
from training.fleet.types import Capability, FailClass, HostSpec

Open = Callable[[ManualClock], JobQueue]


class QueueContract:
    """Inherit, provide the fixture `open_queue`: a function that opens the same database again and again."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def queue(self, open_queue: Open, clock: ManualClock) -> Iterator[JobQueue]:
        opened = open_queue(clock)
        yield opened
        opened.close()

    def phase(self, queue: JobQueue, name: str = "gbt-realistic") -> Phase:
        row = queue.get(job_id(name))
        assert row is not None
        return row.phase

    def claimed(self, queue: JobQueue, host: str = "a", **fields: object) -> tuple[str, str | None]:
        """Claim the one job with a token; returns (job id, token)."""
        found = queue.claim(host, cpu_host(), with_token=True)
        assert found.row is not None
        assert found.lease is not None
        return found.row.job_id, found.lease.token

    def lapsed(self, queue: JobQueue, clock: ManualClock) -> tuple[str, str | None]:
        """The one job, claimed by "a" and silent for a whole lease; returns (job id, token)."""
        queue.apply_manifest(manifest(job()))
        lease = self.claimed(queue)
        clock.advance(queue.stale_after_s)
        queue.sweep_stale()
        return lease

    # -- the manifest

    def test_a_reload_is_idempotent(self, queue: JobQueue) -> None:
        wanted = manifest(job("x"), job("y"))
        assert queue.apply_manifest(wanted)["added"] == 2
        again = queue.apply_manifest(wanted)
        assert again == {"added": 0, "updated": 0, "unchanged": 2, "removed": 0, "retrained": 0}

    def test_a_reload_keeps_what_is_done(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
        queue.apply_manifest(manifest(job(priority=7)))
        row = queue.get(found)
        assert row is not None
        assert (row.status, row.artifact_id, row.priority) == ("completed", ARTIFACT, 7)

    def test_a_removed_job_is_held_until_it_returns(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), job("y")))
        assert queue.apply_manifest(manifest(job("y")))["removed"] == 1
        first = queue.claim_next(worker_hostname="a", capability=cpu_host())
        assert first is not None
        assert first.name == "y"
        assert queue.claim_next(worker_hostname="b", capability=cpu_host()) is None
        queue.apply_manifest(manifest(job("x"), job("y")))
        back = queue.claim_next(worker_hostname="b", capability=cpu_host())
        assert back is not None
        assert back.name == "x"

    def test_changed_constraints_apply_to_waiting_jobs(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(require_cuda=True)))
        assert queue.claim_next(worker_hostname="a", capability=cpu_host()) is None
        queue.apply_manifest(manifest(job(require_cuda=False)))
        assert queue.claim_next(worker_hostname="a", capability=cpu_host()) is not None

    def test_new_data_makes_a_result_stale_and_retrains_only_if_asked(self, queue: JobQueue) -> None:
        from training.fleet.specs import Reference, stale_of

        keep, again = job("keep"), job("again", on_change="retrain")
        old, new = Reference("1" * 64, "t" * 64), Reference("2" * 64, "t" * 64)
        jobs = [keep.to_dict(), again.to_dict()]
        queue.sync_from_manifest(jobs, reference=old)
        for name in ("keep", "again"):
            found, token = self.claimed(queue)
            queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
            assert name
        counts = queue.sync_from_manifest(jobs, reference=new)
        assert counts["retrained"] == 1
        kept, redone = queue.get(keep.job_id), queue.get(again.job_id)
        assert kept is not None
        assert redone is not None
        assert stale_of(kept, new) == ["data changed"]
        assert (redone.phase, redone.generation, redone.artifact_id) == ("pending", 2, None)

    def test_a_job_without_an_id_gets_the_one_its_content_has(self, queue: JobQueue) -> None:
        wanted = {"model": "gbt", "mode": "oracle", "hyper": {"num_leaves": 31.0}}
        queue.sync_from_manifest([wanted])
        same = wanted | {"hyper": {"num_leaves": 31}, "name": "renamed"}
        assert queue.sync_from_manifest([same])["updated"] == 1

    def test_a_job_waits_in_words_when_there_is_no_host_at_all(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found = queue.explain(job_id("gbt-realistic"))
        assert found is not None
        assert "no worker has called yet" in found["summary"]

    # -- claims

    def test_the_largest_priority_goes_first_then_the_oldest(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("old"), job("new"), job("urgent", priority=5)))
        order = []
        for host in "abc":
            row = queue.claim_next(worker_hostname=host, capability=cpu_host())
            order.append(row.name if row else None)
        assert order == ["urgent", "old", "new"]

    def test_the_row_that_a_claim_returns_is_the_one_on_disk(self, queue: JobQueue) -> None:
        queue.sync_from_manifest([job(f"j{n}").to_dict() for n in range(20)])
        for n in range(20):
            row = queue.claim_next(worker_hostname=f"host-{n}")
            assert row is not None
            assert row == queue.get(row.job_id)

    def test_a_claim_skips_what_the_host_cannot_run(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("big", priority=9, require_cuda=True), job("small")))
        row = queue.claim_next(worker_hostname="a", capability=cpu_host())
        assert row is not None
        assert row.name == "small"

    def test_policy_given_with_the_claim_is_obeyed(self, queue: JobQueue) -> None:
        queue.sync_from_manifest([job().to_dict()])
        denied = HostSpec("a", deny_jobs=("gbt",))
        assert queue.claim_next(worker_hostname="a", capability={"cores": 2}, host_spec=denied) is None
        assert queue.claim_next(worker_hostname="a", capability={"cores": 2}, host_spec=None) is not None

    def test_an_unknown_host_is_not_admitted(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(), hosts={"known": HostSpec("known")}))
        refused = queue.claim("stranger", cpu_host())
        assert not refused.admitted
        assert "unknown_hosts" in refused.reason

    def test_a_host_gets_no_more_jobs_than_it_has_slots(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), job("y"), job("z"), hosts={"a": HostSpec("a", slots=2)}))
        taken = [queue.claim_next(worker_hostname="a", capability=cpu_host()) for _ in range(3)]
        assert [row is not None for row in taken] == [True, True, False]

    def test_the_same_claim_request_gets_the_same_lease(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job("x"), job("y")))
        first = queue.claim("a", cpu_host(), with_token=True, claim_request="r1")
        second = queue.claim("a", cpu_host(), with_token=True, claim_request="r1")
        assert first.row is not None
        assert second.row is not None
        assert first.lease is not None
        assert second.lease is not None
        assert (first.row.job_id, first.lease.token) == (second.row.job_id, second.lease.token)
        assert second.row.attempts == 1

    def test_epochs_grow_and_are_never_reused(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        epochs = []
        for _ in range(3):
            found, token = self.claimed(queue)
            row = queue.get(found)
            assert row is not None
            epochs.append(row.epoch)
            queue.release(found, "a", token=token)
        assert epochs == [1, 2, 3]

    def test_a_cuda_wish_delays_a_cpu_host_for_the_grace_period(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        other = job("other", require_cuda=True, priority=9)
        queue.apply_manifest(manifest(other, job(prefer_cuda=True), prefer_cuda_grace_s=60.0))
        assert queue.claim_next(worker_hostname="gpu", capability=cuda_host()) is not None, (
            "the CUDA host is busy now"
        )
        assert queue.claim_next(worker_hostname="cpu", capability=cpu_host()) is None
        clock.advance(61)
        queue.heartbeat(job_id("other"), "gpu")
        assert queue.claim_next(worker_hostname="cpu", capability=cpu_host()) is not None

    def test_a_restart_begins_the_manifests_grace_anew(
        self, queue: JobQueue, open_queue: Open, clock: ManualClock
    ) -> None:
        wanted = manifest(job(prefer_cuda=True), prefer_cuda_grace_s=10.0)
        queue.apply_manifest(wanted)
        queue.claim("gpu", cuda_host())
        queue.release(job_id("gbt-realistic"), "gpu")
        queue.cancel(job_id("gbt-realistic"))
        queue.requeue(job_id("gbt-realistic"))
        again = open_queue(clock)
        try:
            again.apply_manifest(wanted)
            assert again.claim("cpu", cpu_host()).row is None
            clock.advance(10.5)
            assert again.claim("cpu", cpu_host()).row is not None
        finally:
            again.close()

    def test_a_repeated_claim_after_a_reload_still_names_its_own_dataset(self, queue: JobQueue) -> None:
        from training.fleet.specs import Reference

        queue.sync_from_manifest([job().to_dict()], reference=Reference("1" * 64))
        queue.claim("a", cpu_host(), claim_request="r")
        queue.sync_from_manifest([job().to_dict()], reference=Reference("2" * 64))
        again = queue.claim("a", cpu_host(), claim_request="r")
        assert again.lease is not None
        assert again.lease.dataset_id == "1" * 64

    def test_a_refused_host_leaves_no_trace(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(), hosts={"known": HostSpec("known")}))
        queue.claim("stranger", cpu_host())
        assert queue.workers() == []

    @pytest.mark.parametrize("late", ["fail", "release"])
    def test_a_host_that_comes_back_late_was_not_lost(
        self, queue: JobQueue, clock: ManualClock, late: str
    ) -> None:
        found, token = self.lapsed(queue, clock)
        self._send(queue, late, found, token)
        row = queue.get(found)
        assert row is not None
        assert row.host_losses == 0

    def test_an_unripe_job_never_hides_a_ripe_one(self, queue: JobQueue) -> None:
        queue.claim("gpu", cuda_host())
        queue.apply_manifest(manifest(job("unripe", priority=9, prefer_cuda=True), job("ripe")))
        row = queue.claim_next(worker_hostname="cpu", capability=cpu_host())
        assert row is not None
        assert row.name == "ripe"

    # -- leases

    def test_the_first_heartbeat_runs_the_job_and_renews_it(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        for _ in range(5):
            clock.advance(queue.stale_after_s * 0.9)
            assert queue.heartbeat(found, "a", token=token)
            assert queue.sweep_stale() == 0
        assert self.phase(queue) == "running"

    def test_a_silent_lease_lapses_exactly_when_it_is_over(self, queue: JobQueue, clock: ManualClock) -> None:
        queue.apply_manifest(manifest(job()))
        self.claimed(queue)
        clock.advance(queue.stale_after_s - 1)
        assert queue.sweep_stale() == 0
        clock.advance(1)
        assert queue.sweep_stale() == 1
        assert self.phase(queue) == "pending_lapsed"

    def test_a_wall_clock_step_neither_ends_nor_prolongs_a_lease(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job()))
        self.claimed(queue)
        clock.step_wall(400 * 86400)
        assert queue.sweep_stale() == 0
        clock.step_wall(-50 * 365 * 86400)
        clock.advance(queue.stale_after_s)
        assert queue.sweep_stale() == 1

    @pytest.mark.parametrize("late", ["heartbeat", "complete", "release", "fail"])
    def test_a_late_holder_is_heard_while_nobody_else_was_given_the_job(
        self, queue: JobQueue, clock: ManualClock, late: str
    ) -> None:
        found, token = self.lapsed(queue, clock)
        after = {"heartbeat": "running", "complete": "completed", "release": "pending", "fail": "pending"}
        assert self._send(queue, late, found, token)
        assert self.phase(queue) == after[late]

    @pytest.mark.parametrize("late", ["heartbeat", "complete", "release", "fail"])
    def test_a_late_holder_is_refused_after_a_new_claim(
        self, queue: JobQueue, clock: ManualClock, late: str
    ) -> None:
        found, token = self.lapsed(queue, clock)
        self.claimed(queue, "b")
        refused = self._send(queue, late, found, token)
        assert (bool(refused), refused.http_status) == (False, 410)
        assert self.phase(queue) == "claimed"

    def test_a_healed_lapse_does_not_count_as_a_loss(self, queue: JobQueue, clock: ManualClock) -> None:
        found, token = self.lapsed(queue, clock)
        queue.heartbeat(found, "a", token=token)
        row = queue.get(found)
        assert row is not None
        assert (row.host_losses, row.last_error, row.lapsed) == (0, None, False)

    def test_a_zombie_of_the_same_host_cannot_touch_the_newer_claim(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job()))
        found, old = self.claimed(queue)
        clock.advance(queue.stale_after_s)
        queue.sweep_stale()
        _, new = self.claimed(queue)
        assert not queue.complete(found, "a", artifact_id=ARTIFACT, token=old)
        assert queue.complete(found, "a", artifact_id=ARTIFACT, token=new)

    def test_a_lease_with_a_token_is_closed_to_requests_without_it(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, _ = self.claimed(queue)
        for token in (None, "", "wrong", "tökén"):
            refused = queue.heartbeat(found, "a", token=token)
            assert (bool(refused), refused.http_status) == (False, 410)

    def test_the_token_of_another_host_does_not_count(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        assert not queue.heartbeat(found, "b", token=token)

    def test_a_plain_client_is_judged_by_host(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        row = queue.claim_next(worker_hostname="a", capability=cpu_host())
        assert row is not None
        assert not queue.heartbeat(row.job_id, "b")
        assert queue.heartbeat(row.job_id, "a")
        assert queue.complete(row.job_id, "a", artifact_id=ARTIFACT)

    # -- results

    def test_completion_without_the_uploaded_artifact_is_refused(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        refused = queue.complete(found, "a", artifact_id=ARTIFACT, token=token, require_upload=True)
        assert (bool(refused), refused.http_status) == (False, 409)
        queue.record_upload(found, 1, ARTIFACT, 10)
        queue.record_upload(found, 1, ARTIFACT, 10)
        assert queue.complete(found, "a", artifact_id=ARTIFACT, token=token, require_upload=True)

    def test_an_upload_of_an_earlier_attempt_does_not_count(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.record_upload(found, 1, ARTIFACT, 10)
        queue.release(found, "a", token=token)
        found, token = self.claimed(queue)
        assert not queue.complete(found, "a", artifact_id=ARTIFACT, token=token, require_upload=True)

    def test_a_repeated_completion_gets_the_same_answer_and_no_second_effect(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        assert queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
        before = queue.audit(found)
        assert queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
        conflict = queue.complete(found, "a", artifact_id=OTHER_ARTIFACT, token=token)
        assert (bool(conflict), conflict.http_status) == (False, 409)
        assert queue.audit(found) == before

    @pytest.mark.parametrize("event", ["fail", "release"])
    def test_a_repeated_goodbye_gets_the_same_answer_and_no_second_effect(
        self, queue: JobQueue, event: str
    ) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        assert self._send(queue, event, found, token)
        before = queue.get(found), queue.audit(found)
        assert self._send(queue, event, found, token)
        assert (queue.get(found), queue.audit(found)) == before

    # -- budgets

    def test_program_failures_and_host_losses_have_budgets_of_their_own(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job(), max_failures=2, max_host_losses=2, pause_after_failures=0))
        found, token = self.claimed(queue)
        queue.fail(found, "a", error="boom", token=token)
        self.claimed(queue)
        clock.advance(queue.stale_after_s)
        queue.sweep_stale()
        assert self.phase(queue) == "pending_lapsed", "one failure and one loss use up neither budget"
        found, token = self.claimed(queue)
        queue.fail(found, "a", error="boom again", token=token)
        row = queue.get(found)
        assert row is not None
        assert (row.status, row.last_error, row.attempts) == ("failed", "boom again", 3)

    def test_used_up_losses_fail_the_job_but_its_late_holder_may_still_complete(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job(), max_host_losses=1))
        found, token = self.claimed(queue)
        clock.advance(queue.stale_after_s)
        queue.sweep_stale()
        assert self.phase(queue) == "failed_lapsed"
        assert queue.complete(found, "a", artifact_id=ARTIFACT, token=token)

    @pytest.mark.parametrize(
        ("fail_class", "phase"),
        [("program", "pending"), ("bad_config", "failed"), ("preempted", "pending"), ("timeout", "pending")],
    )
    def test_the_class_of_a_failure_decides_whether_it_is_tried_again(
        self, queue: JobQueue, fail_class: FailClass, phase: Phase
    ) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.fail(found, "a", error="x", token=token, fail_class=fail_class)
        assert self.phase(queue) == phase

    def test_preemption_and_release_use_no_budget(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(), max_failures=1, max_host_losses=1))
        for _ in range(4):
            found, token = self.claimed(queue)
            queue.fail(found, "a", error="desktop user is back", token=token, fail_class="preempted")
        row = queue.get(job_id("gbt-realistic"))
        assert row is not None
        assert (row.status, row.program_failures, row.attempts) == ("pending", 0, 4)

    def test_out_of_memory_is_retried_only_on_a_bigger_host(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        queue.claim("big", cpu_host(ram_gib=64.0))  # takes the job; give it back so that "small" gets it
        queue.release(job_id("gbt-realistic"), "big")
        queue.cancel(job_id("gbt-realistic"))
        queue.requeue(job_id("gbt-realistic"))
        found, token = self.claimed(queue, "small")
        queue.fail(found, "small", error="killed", token=token, fail_class="oom")
        assert queue.claim_next(worker_hostname="small", capability=cpu_host()) is None
        assert queue.claim_next(worker_hostname="big", capability=cpu_host(ram_gib=64.0)) is not None

    def test_out_of_gpu_memory_asks_for_a_bigger_gpu(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(model="gru")))
        queue.claim("big", cuda_host(vram_gib=48.0))
        queue.release(job_id("gbt-realistic"), "big")
        queue.cancel(job_id("gbt-realistic"))
        queue.requeue(job_id("gbt-realistic"))
        row = queue.claim_next(worker_hostname="gpu", capability=cuda_host(vram_gib=8.0))
        assert row is not None
        queue.fail(row.job_id, "gpu", error="CUDA out of memory", fail_class="oom")
        back = queue.get(row.job_id)
        assert back is not None
        assert back.learned.more_vram_than_gib == 8.0

    def test_out_of_memory_with_no_bigger_host_fails(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.fail(found, "a", error="killed", token=token, fail_class="oom")
        assert self.phase(queue) == "failed"

    def test_a_host_that_fails_everything_is_paused_until_a_reload(self, queue: JobQueue) -> None:
        wanted = manifest(*(job(name) for name in "wxyz"))
        queue.apply_manifest(wanted)
        for _ in range(3):
            found, token = self.claimed(queue)
            queue.cancel(found) if token is None else queue.fail(found, "a", error="no GPU", token=token)
            queue.cancel(found)
        assert queue.claim("a", cpu_host()).row is None
        assert "3 jobs failed" in queue.claim("a", cpu_host()).reason
        queue.apply_manifest(wanted)
        assert queue.claim("a", cpu_host()).row is not None

    def test_a_success_in_between_keeps_a_host_going(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(*(job(name) for name in "uvwxyz")))
        for turn in range(5):
            found, token = self.claimed(queue)
            if turn == 2:
                queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
            else:
                queue.fail(found, "a", error="x", token=token)
                queue.cancel(found)
        assert queue.claim("a", cpu_host()).row is not None

    # -- the operator

    def test_cancel_ends_the_lease(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        assert queue.cancel(found)
        assert queue.cancel(found), "twice is once"
        refused = queue.heartbeat(found, "a", token=token)
        assert (refused.http_status, "cancelled" in refused.reason) == (410, True)
        assert not queue.complete(found, "a", artifact_id=ARTIFACT, token=token)

    def test_requeue_gives_fresh_budgets(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job(), max_failures=1))
        found, token = self.claimed(queue)
        queue.fail(found, "a", error="x", token=token)
        assert self.phase(queue) == "failed"
        assert queue.requeue(found)
        row = queue.get(found)
        assert row is not None
        assert (row.phase, row.program_failures, row.last_error) == ("pending", 0, None)

    def test_a_forced_requeue_starts_a_generation_and_keeps_the_old_artifact(self, queue: JobQueue) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.complete(found, "a", artifact_id=ARTIFACT, token=token)
        assert queue.requeue(found).http_status == 409
        assert queue.requeue(found, force=True)
        row = queue.get(found)
        assert row is not None
        assert (row.generation, row.attempts, row.artifact_id) == (2, 0, None)
        assert [attempt.artifact_id for attempt in queue.attempts(found)] == [ARTIFACT]

    def test_unknown_jobs_are_404(self, queue: JobQueue) -> None:
        missing = "f" * 64
        answers = [queue.cancel(missing), queue.requeue(missing), queue.heartbeat(missing, "a")]
        answers += [queue.fail(missing, "a", error=""), queue.release(missing, "a")]
        answers += [queue.complete(missing, "a", artifact_id=ARTIFACT), queue.standing(missing, "a", None)]
        assert {found.http_status for found in answers} == {404}
        assert queue.get(missing) is None
        assert queue.explain(missing) is None

    # -- durability and the trail

    def test_a_restart_keeps_everything_and_gives_leases_one_full_period(
        self, queue: JobQueue, open_queue: Open, clock: ManualClock
    ) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.heartbeat(found, "a", token=token)
        clock.advance(queue.stale_after_s - 1)
        again = open_queue(clock)
        try:
            clock.advance(queue.stale_after_s - 1)
            assert again.sweep_stale() == 0
            assert again.heartbeat(found, "a", token=token)
        finally:
            again.close()

    def test_the_trail_tells_the_rows_story(self, queue: JobQueue, clock: ManualClock) -> None:
        queue.apply_manifest(manifest(job()))
        found, token = self.claimed(queue)
        queue.heartbeat(found, "a", token=token)
        queue.fail(found, "a", error="x", token=token)
        queue.cancel(found)
        trail = [(entry["event"], entry["from_phase"], entry["to_phase"]) for entry in queue.audit(found)]
        assert trail == [
            ("reload", "", "pending"),
            ("claim", "pending", "claimed"),
            ("heartbeat", "claimed", "running"),
            ("fail", "running", "pending"),
            ("cancel", "pending", "cancelled"),
        ]
        assert token is not None
        assert token not in str(queue.audit(found))

    def test_the_workers_list_says_who_is_there(self, queue: JobQueue, clock: ManualClock) -> None:
        spec = HostSpec("a", capability=Capability(ram_gib=4.0))
        queue.apply_manifest(manifest(job(), job("gpu", require_cuda=True), hosts={"a": spec}))
        queue.claim("a", cpu_host())
        (worker,) = queue.workers()
        assert (worker["host"], worker["live"], worker["busy"], worker["slots"]) == ("a", True, 1, 1)
        assert worker["effective"]["ram_gib"] == 4.0
        assert worker["mismatches"]
        assert worker["eligible_jobs"] == 0
        clock.advance(10_000)
        queue.sweep_stale()
        assert queue.workers()[0]["live"] is False
        assert queue.workers()[0]["eligible_jobs"] == 1

    def _send(self, queue: JobQueue, event: str, found: str, token: str | None) -> Outcome:
        calls = {
            "heartbeat": lambda: queue.heartbeat(found, "a", token=token),
            "complete": lambda: queue.complete(found, "a", artifact_id=ARTIFACT, token=token),
            "release": lambda: queue.release(found, "a", token=token),
            "fail": lambda: queue.fail(found, "a", error="late", token=token),
        }
        return calls[event]()
