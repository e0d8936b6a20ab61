"""What a failure teaches, and whether the job is tried again."""

from __future__ import annotations

import pytest

from tests.factories.fleet import cpu_host, cuda_host, job
from training.fleet.budgets import learn, may_retry, pause_reason
from training.fleet.eligibility import HostView, Learned, Rules
from training.fleet.types import FailClass, Policy

SMALL, BIG = HostView("small", None, cpu_host(ram_gib=8.0)), HostView("big", None, cpu_host(ram_gib=64.0))


def again(
    fail_class: FailClass,
    learned: Learned | None = None,
    *,
    failures: int = 1,
    hosts: tuple[HostView, ...] = (),
) -> bool:
    return may_retry(
        job(),
        learned or Learned(),
        fail_class,
        failures=failures,
        policy=Policy(),
        hosts=hosts,
        rules=Rules(),
    )


def test_a_failure_remembers_its_host_and_drops_the_wish_for_another() -> None:
    taught = learn(Learned(failed_hosts=("b",), wait_for_host="b"), "gbt", "a", cpu_host(), "program")
    assert taught == Learned(failed_hosts=("a", "b"))


def test_out_of_memory_asks_for_more_of_what_ran_out() -> None:
    assert learn(Learned(), "gbt", "a", cpu_host(ram_gib=8.0), "oom").more_ram_than_gib == 8.0
    assert learn(Learned(), "gru", "a", cuda_host(vram_gib=12.0), "oom").more_vram_than_gib == 12.0
    bigger = Learned(more_vram_than_gib=24.0, more_ram_than_gib=24.0)
    assert learn(bigger, "gru", "a", cuda_host(vram_gib=12.0), "oom").more_vram_than_gib == 24.0
    assert learn(bigger, "gbt", "a", cpu_host(ram_gib=8.0), "oom").more_ram_than_gib == 24.0


@pytest.mark.parametrize(("failures", "tried"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_program_failure_is_tried_again_until_the_budget_is_used_up(failures: int, tried: bool) -> None:
    assert again("program", failures=failures) is tried


def test_a_bad_configuration_is_never_tried_again() -> None:
    assert not again("bad_config")


def test_out_of_memory_is_tried_again_only_where_there_is_more() -> None:
    taught = learn(Learned(), "gbt", "small", SMALL.capability, "oom")
    assert again("oom", taught, hosts=(SMALL, BIG))
    assert not again("oom", taught, hosts=(SMALL,))
    assert not again("oom", taught, failures=3, hosts=(BIG,))


def test_a_host_pauses_after_so_many_failures_unless_the_policy_says_never() -> None:
    assert pause_reason(2, Policy()) is None
    assert pause_reason(3, Policy()) == "3 jobs failed on it in a row"
    assert pause_reason(99, Policy(pause_after_failures=0)) is None


def test_a_model_that_uses_no_gpu_ran_out_of_ram_even_on_a_gpu_host() -> None:
    assert learn(Learned(), "gbt", "a", cuda_host(ram_gib=32.0), "oom") == Learned(more_ram_than_gib=32.0)


def test_out_of_memory_on_a_host_of_unknown_size_sends_the_job_elsewhere() -> None:
    assert learn(Learned(), "gbt", "a", cpu_host(ram_gib=None), "oom") == Learned(failed_hosts=("a",))
    assert learn(Learned(), "gru", "a", cuda_host(vram_gib=None), "oom") == Learned(failed_hosts=("a",))
