"""What `why` suggests: the smallest changes, the best first, and nothing that no change can mend."""

from __future__ import annotations

from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, cuda_host, job, job_id, manifest
from training.fleet import hosts, shadows, situation, steering, suggestions
from training.fleet.changes import RANK, Change
from training.fleet.fixes import lowered
from training.fleet.queue import JobQueue
from training.fleet.suggestions import Suggestion, apply, suggest
from training.fleet.types import Capability, HostSpec, JobSpec, Manifest

LIVE_S = 90.0


class Lab:
    """A queue in memory, its manifest, and hosts that report."""

    def __init__(self, *jobs: JobSpec, named: dict[str, dict[str, Any]] | None = None, **policy: Any) -> None:
        self.clock = ManualClock()
        self.queue = JobQueue(":memory:", clock=self.clock, live_s=LIVE_S)
        specs = {name: HostSpec(name, **fields) for name, fields in (named or {}).items()}
        self.manifest: Manifest = manifest(*jobs, hosts=specs, **policy)
        self.queue.apply_manifest(self.manifest, trainer_digest="t" * 64)

    def report(self, host: str, capability: Capability) -> None:
        with self.queue.atomic():
            self.queue.saw(host, capability)

    def asked(self, name: str = "gbt-realistic", disk: str | None = None) -> list[Suggestion]:
        found = self.queue.situation(job_id(name), disk=disk)
        assert found is not None
        made = suggest(found, situation.verdicts(found))
        for one in made:  # whatever is suggested would work
            after = apply(found, one.changes)
            for host in one.hosts:
                assert not situation.blockers(after, host), (one, host)
        return made


def kinds(found: list[Suggestion]) -> list[list[str]]:
    return [[change.kind for change in one.changes] for one in found]


def only(found: list[Suggestion]) -> Change:
    """The one change of the first suggestion."""
    (change,) = found[0].changes
    return change


def test_a_job_that_can_start_or_runs_needs_no_change() -> None:
    lab = Lab(job())
    lab.report("a", cpu_host())
    assert lab.asked() == []
    lab.queue.claim("a", cpu_host())
    assert lab.asked() == []


class TestOneChange:
    def test_a_denied_model_is_taken_out_of_the_list_at_its_line(self) -> None:
        lab = Lab(job(), named={"a": {"deny_jobs": ("mlp", "gbt"), "lines": {"": 3, "deny_jobs": 4}}})
        lab.report("a", cpu_host())
        change = only(lab.asked())
        assert (change.kind, change.host, change.line, change.new) == ("remove_deny", "a", 4, ["mlp"])
        assert change.text == 'manifest line 4: remove "gbt" from deny_jobs of a'
        assert change.command == "cis490-jobs reload"

    def test_a_minimum_is_lowered_to_what_a_host_nominally_has(self) -> None:
        lab = Lab(job(min_ram_gib=24.0))
        lab.report("a", cpu_host(ram_gib=15.5))
        change = only(lab.asked())
        assert (change.kind, change.key, change.old, change.new) == (
            "lower_min_ram",
            "min_ram_gib",
            24.0,
            16.0,
        )

    @pytest.mark.parametrize(
        ("wanted", "found", "expected"),
        [
            (24.0, 23.99, 23.0),
            (24.0, 15.5, 16.0),
            (8.0, 7.5, 7.0),
            (10.0, None, 0.0),
            (1.0, 0.5, 0.5),
            (4.0, 0.0, 0.0),
        ],
    )
    def test_the_lower_minimum_is_a_tidy_number_that_the_host_meets(
        self, wanted: float, found: float | None, expected: float
    ) -> None:
        assert lowered(wanted, found) == expected

    def test_a_host_that_is_not_allowed_is_added_to_the_jobs_list(self) -> None:
        lab = Lab(job(allowed_hosts=("b",)))
        lab.report("a", cpu_host())
        assert kinds(lab.asked())[0] == ["add_allowed_host"]

    def test_a_capability_that_the_manifest_makes_too_small_is_declared_no_longer(self) -> None:
        lab = Lab(job(min_ram_gib=16.0), named={"a": {"capability": Capability(ram_gib=8.0)}})
        lab.report("a", cpu_host(ram_gib=32.0))
        found = kinds(lab.asked())
        assert ["declare"] in found
        assert ["lower_min_ram"] in found

    def test_another_trainer_is_brought_up_to_date_before_any_trainer_is_let_in(self) -> None:
        lab = Lab(job())
        lab.report("a", cpu_host(trainer_digest="u" * 64))
        assert kinds(lab.asked()) == [["update_trainer"], ["any_trainer"]]

    def test_an_unknown_host_is_named_in_the_manifest(self) -> None:
        lab = Lab(job())
        lab.report("a", cpu_host())
        lab.queue.apply_manifest(manifest(job(), hosts={"b": HostSpec("b", deny_jobs=("gbt",))}))
        assert [
            found for found in kinds(lab.asked()) if found in (["add_host"], ["allow_unknown_hosts"])
        ] == [
            ["add_host"],
            ["allow_unknown_hosts"],
        ]

    def test_a_worker_that_is_silent_is_started(self) -> None:
        lab = Lab(job(), named={"a": {}})
        lab.report("a", cpu_host())
        lab.clock.advance(LIVE_S + 1)
        (first, *_) = lab.asked()
        assert kinds([first]) == [["start_worker"]]
        assert suggestions.starts(first) == "when a calls"

    def test_of_a_host_that_never_called_it_is_said_what_nobody_knows(self) -> None:
        lab = Lab(job(require_cuda=True, min_vram_gib=10.0), named={"a": {}})
        change = only(lab.asked())
        assert (
            change.text == "start the worker on a (nobody knows yet whether it has CUDA, >= 10 GiB of VRAM)"
        )
        assert change.new == {"has_cuda": True, "vram_gib": 10.0}

    def test_a_host_that_is_paused_or_drained_and_a_fleet_or_job_that_is_paused_are_resumed(self) -> None:
        lab = Lab(job())
        lab.report("a", cpu_host())
        hosts.drain(lab.queue, "a", "new fans")
        assert lab.asked()[0].to_dict()["command"] == "cis490-jobs undrain a"
        hosts.undrain(lab.queue, "a")
        steering.pause_fleet(lab.queue, "moving")
        assert only(lab.asked()).command == "cis490-jobs resume"
        steering.resume_fleet(lab.queue)
        steering.pause_job(lab.queue, job_id("gbt-realistic"), "later")
        assert only(lab.asked()).command == "cis490-jobs resume gbt-realistic"

    def test_what_has_ended_is_queued_again(self) -> None:
        lab = Lab(job())
        lab.report("a", cpu_host())
        lab.queue.cancel(job_id("gbt-realistic"))
        assert only(lab.asked()).command == "cis490-jobs requeue gbt-realistic"
        lab.queue.requeue(job_id("gbt-realistic"))
        lab.queue.claim("a")
        lab.queue.complete(job_id("gbt-realistic"), "a", artifact_id="c" * 64)
        assert only(lab.asked()).command == "cis490-jobs requeue --force gbt-realistic"

    def test_a_held_job_is_put_back_and_a_full_disk_is_emptied(self) -> None:
        lab = Lab(job(), job("other"))
        lab.report("a", cpu_host())
        assert kinds(lab.asked(disk="the disk is full")) == [["free_disk"]]
        lab.queue.apply_manifest(manifest(job("other")))
        assert kinds(lab.asked())[0] == ["put_back"]

    def test_without_any_host_one_is_enrolled(self) -> None:
        (one,) = Lab(job(require_cuda=True)).asked()
        assert kinds([one]) == [["enrol_host"]]
        assert one.changes[0].text == "enrol another host with CUDA: start its worker"


class TestOrder:
    def test_fewer_changes_go_before_more_and_more_than_one_more_is_left_out(self) -> None:
        lab = Lab(
            job(min_ram_gib=24.0),
            named={
                "one": {"deny_jobs": ("gbt",)},
                "two": {"deny_jobs": ("gbt",)},
                "three": {"deny_jobs": ("gbt",), "allow_jobs": ("mlp",)},
            },
        )
        lab.report("one", cpu_host(ram_gib=64.0))
        for name in ("two", "three"):
            lab.report(name, cpu_host(ram_gib=8.0))
        assert kinds(lab.asked()) == [["remove_deny"], ["remove_deny", "lower_min_ram"]]

    def test_what_takes_effect_at_once_goes_before_what_waits_for_a_host(self) -> None:
        lab = Lab(job(), named={"gone": {}, "here": {"deny_jobs": ("gbt",)}})
        lab.report("gone", cpu_host())
        lab.clock.advance(LIVE_S + 1)
        lab.report("here", cpu_host())
        assert kinds(lab.asked()) == [["remove_deny"], ["start_worker"]]

    def test_a_command_goes_before_an_edit(self) -> None:
        lab = Lab(job(), named={"a": {"deny_jobs": ("gbt",)}, "b": {}})
        lab.report("a", cpu_host())
        lab.report("b", cpu_host())
        hosts.drain(lab.queue, "b", "new fans")
        assert kinds(lab.asked()) == [["undrain"], ["remove_deny"]]

    def test_only_to_wait_goes_last_and_where_a_slot_is_all_that_is_missing_more_slots_go_first(self) -> None:
        lab = Lab(job(priority=1), job("next"), named={"a": {}})
        lab.queue.claim("a", cpu_host())
        found = lab.asked("next")
        assert kinds(found) == [["add_slots"], ["wait_slot"]]
        assert suggestions.starts(found[1]) == "when a has a free slot"

    def test_a_first_host_table_is_not_suggested_for_it_would_shut_out_all_others(self) -> None:
        lab = Lab(job(priority=1), job("next"))
        lab.queue.claim("a", cpu_host())
        assert kinds(lab.asked("next")) == [["wait_slot"]]

    def test_the_same_change_for_several_hosts_is_said_once(self) -> None:
        lab = Lab(job())
        for name in "abc":
            lab.report(name, cpu_host())
        lab.queue.cancel(job_id("gbt-realistic"))
        (one,) = lab.asked()
        assert one.hosts == ("a", "b", "c")

    def test_what_a_reload_does_by_itself_is_no_change_of_its_own(self) -> None:
        lab = Lab(job(), named={"a": {"deny_jobs": ("gbt",)}}, pause_after_failures=1)
        lab.report("a", cpu_host())
        lab.queue.apply_manifest(
            manifest(job(), job("x", model="mlp"), hosts=lab.manifest.hosts, pause_after_failures=1)
        )
        lab.queue.claim("a")
        lab.queue.fail(job_id("x"), "a", error="no")
        assert kinds(lab.asked())[0] == ["remove_deny"]


class TestWhatPastAttemptsTaught:
    def test_a_job_that_ran_out_of_memory_needs_a_larger_host_or_has_to_forget(self) -> None:
        lab = Lab(job())
        lab.report("small", cpu_host(ram_gib=8.0))
        lab.report("large", cpu_host(ram_gib=64.0))
        hosts.drain(lab.queue, "large", "x")
        lab.queue.claim("small")
        lab.queue.fail(job_id("gbt-realistic"), "small", error="killed", fail_class="oom")
        found = lab.asked()
        assert kinds(found)[:2] == [["undrain"], ["forget_attempts"]]
        assert found[1].changes[0].text.startswith("make the job smaller")

    def test_a_released_job_waits_for_its_host_or_the_grace_period(self) -> None:
        lab = Lab(job(priority=1), job("other"))
        lab.queue.claim("a", cpu_host())
        lab.queue.release(job_id("gbt-realistic"), "a")
        lab.report("b", cpu_host())
        hosts.drain(lab.queue, "b", "x")  # so that a alone could start it
        assert lab.asked() == []
        hosts.undrain(lab.queue, "b")
        lab.queue.claim("a")  # takes it back
        lab.queue.release(job_id("gbt-realistic"), "a")
        hosts.drain(lab.queue, "a", "x")
        assert lab.asked() == [], "a takes no jobs now, so b need not wait for it"


class TestWhatNobodyCanChange:
    def test_a_verification_run_has_no_lines_in_the_manifest(self) -> None:
        lab = Lab(job(), named={"a": {}, "b": {"deny_jobs": ("gbt",)}})
        lab.queue.claim("a", cpu_host())
        lab.queue.complete(job_id("gbt-realistic"), "a", artifact_id="c" * 64)
        made = shadows.start(lab.queue, job_id("gbt-realistic"))
        assert made.row is not None
        lab.report("b", cpu_host())
        hosts.drain(lab.queue, "a", "x")
        found = lab.queue.situation(made.row.job_id)
        assert found is not None
        assert kinds(suggest(found, situation.verdicts(found))) == [["undrain"]]

    def test_a_host_does_not_get_a_gpu(self) -> None:
        lab = Lab(job(require_cuda=True), named={"a": {}})
        lab.report("a", cpu_host())
        assert kinds(lab.asked()) == [["drop_require_cuda"], ["enrol_host"]]

    def test_a_gpu_that_the_manifest_hides_is_shown_again(self) -> None:
        lab = Lab(job(require_cuda=True), named={"a": {"capability": Capability(has_cuda=False)}})
        lab.report("a", cuda_host())
        assert ["declare"] in kinds(lab.asked())


def test_every_kind_of_change_has_a_rank_and_can_be_applied() -> None:
    from training.fleet.changes import _APPLY

    assert set(RANK) == set(_APPLY)
