"""Who may run what, and what the refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.fleet.eligibility import (
    Check,
    HostView,
    Learned,
    Requirement,
    Rules,
    admission,
    checks,
    effective,
    requirement_of,
    ripened,
)
from training.fleet.types import Capability, Gpu, HostSpec, JobSpec

GPU_BOX = Capability(
    hostname="gpu",
    ram_gib=31.2,
    has_cuda=True,
    vram_gib=23.99,
    gpus=[Gpu("RTX 4090", 23.99)],
    models=["gbt", "gru"],
)
CPU_BOX = Capability(hostname="cpu", ram_gib=15.5, has_cuda=False, models=["gbt", "mlp"])


def host(name: str = "cpu", capability: Capability = CPU_BOX, spec: HostSpec | None = None) -> HostView:
    return HostView(name, spec, capability, seen_s_ago=1.0)


def blockers(found: tuple[Check, ...]) -> list[str]:
    return [check.constraint for check in found if not check.ok]


def judge(
    requirement: Requirement, view: HostView, *others: HostView, rules: Rules | None = None
) -> list[str]:
    return blockers(checks(requirement, view, others, rules or Rules()))


def test_a_plain_job_runs_anywhere() -> None:
    assert judge(Requirement("gbt"), host()) == []


@pytest.mark.parametrize(
    ("requirement", "blocker"),
    [
        (Requirement("gru"), "model"),
        (Requirement("gbt", require_cuda=True), "require_cuda"),
        (Requirement("gbt", min_vram_gib=8), "min_vram_gib"),
        (Requirement("gbt", min_ram_gib=32), "min_ram_gib"),
        (Requirement("gbt", allowed_hosts=("other",)), "allowed_hosts"),
        (Requirement("gbt", more_ram_than_gib=15.5), "ram_after_oom"),
        (Requirement("gbt", more_vram_than_gib=8), "vram_after_oom"),
    ],
)
def test_each_constraint_blocks_by_itself_and_says_why(requirement: Requirement, blocker: str) -> None:
    found = checks(requirement, host(), (), Rules())
    assert blockers(found) == [blocker]
    (refused,) = (check for check in found if not check.ok)
    assert refused.message
    assert refused.hint
    assert refused.wanted
    assert refused.found


def test_deny_wins_over_allow_and_names_the_line() -> None:
    spec = HostSpec("cpu", allow_jobs=("gbt",), deny_jobs=("gbt",), lines={"deny_jobs": 31})
    (refused,) = (check for check in checks(Requirement("gbt"), host(spec=spec), (), Rules()) if not check.ok)
    assert refused.constraint == "deny_jobs"
    assert "line 31" in refused.message


def test_an_allow_list_excludes_every_other_model() -> None:
    assert judge(Requirement("mlp"), host(spec=HostSpec("cpu", allow_jobs=("gbt",)))) == ["allow_jobs"]


@pytest.mark.parametrize(("sold_gib", "reported_gib"), [(24, 23.988), (16, 15.5), (8, 7.6), (12, 12.0)])
def test_sizes_compare_nominally(sold_gib: float, reported_gib: float) -> None:
    view = host(capability=replace(GPU_BOX, vram_gib=reported_gib, ram_gib=reported_gib))
    assert judge(Requirement("gbt", min_vram_gib=sold_gib, min_ram_gib=sold_gib), view) == []


def test_the_next_smaller_size_is_too_small() -> None:
    assert judge(Requirement("gbt", min_vram_gib=24), host(capability=replace(GPU_BOX, vram_gib=22.0))) == [
        "min_vram_gib"
    ]


def test_what_a_host_does_not_report_does_not_satisfy_a_constraint() -> None:
    assert judge(Requirement("gbt", min_ram_gib=1, require_cuda=True), host(capability=Capability())) == [
        "require_cuda",
        "min_ram_gib",
    ]


def test_a_host_that_tells_no_models_counts_as_having_all() -> None:
    assert judge(Requirement("transformer"), host(capability=Capability())) == []


def test_another_trainer_is_not_eligible_unless_the_policy_says_any() -> None:
    view = host(capability=replace(CPU_BOX, trainer_digest="a" * 64))
    assert judge(Requirement("gbt"), view, rules=Rules(trainer_digest="b" * 64)) == ["trainer"]
    assert judge(Requirement("gbt"), view, rules=Rules(trainer="any", trainer_digest="b" * 64)) == []
    assert judge(Requirement("gbt"), view, rules=Rules(trainer_digest="a" * 64)) == []


def test_an_unknown_host_is_refused_once_the_manifest_names_any() -> None:
    assert judge(Requirement("gbt"), host(), rules=Rules(names_hosts=True)) == ["known_host"]
    assert judge(Requirement("gbt"), host(), rules=Rules(names_hosts=True, unknown_hosts="allow")) == []
    assert admission("cpu", None, Rules(names_hosts=True)).hint.startswith("add [[hosts]]")


def test_a_busy_a_paused_and_a_silent_host_get_nothing() -> None:
    assert judge(Requirement("gbt"), replace(host(), busy=1)) == ["free_slot"]
    assert judge(Requirement("gbt"), replace(host(), paused_reason="3 jobs failed")) == ["not_paused"]
    assert judge(Requirement("gbt"), replace(host(), live=False, seen_s_ago=None)) == ["live"]


def test_slots_default_to_one_for_each_gpu_else_one() -> None:
    two = replace(GPU_BOX, gpus=[Gpu("a", 8), Gpu("b", 8)])
    assert (host().slots, host(capability=two).slots, host(spec=HostSpec("cpu", slots=5)).slots) == (1, 2, 5)


def test_a_cuda_wish_holds_only_while_a_live_cuda_host_could_take_the_job() -> None:
    wish = Requirement("gbt", prefer_cuda=True)
    gpu = host("gpu", GPU_BOX)
    assert judge(wish, host(), gpu) == ["preference"]
    assert judge(wish, gpu, host()) == []
    assert judge(wish, host(), replace(gpu, live=False)) == []
    assert judge(wish, host(), replace(gpu, paused_reason="x")) == []
    assert judge(wish, host(), replace(gpu, spec=HostSpec("gpu", deny_jobs=("gbt",)))) == []
    assert judge(ripened(wish), host(), gpu) == []


def test_a_released_job_waits_for_its_host() -> None:
    wish = Requirement("gbt", wait_for_host="gpu")
    gpu = host("gpu", GPU_BOX)
    assert judge(wish, host(), gpu) == ["preference"]
    assert judge(wish, gpu, host()) == []
    assert judge(wish, host(), replace(gpu, live=False)) == []


def test_a_job_that_prefers_cuda_and_was_released_by_another_host_goes_back_to_that_one() -> None:
    """Else each of the two would wait for the other."""
    wish = Requirement("gbt", prefer_cuda=True, wait_for_host="cpu")
    cpu, gpu, third = host("cpu"), host("gpu", GPU_BOX), host("third")
    assert judge(wish, cpu, gpu, third) == []
    assert judge(wish, gpu, cpu, third) == ["preference"]
    assert judge(wish, third, cpu, gpu) == ["preference"]
    assert judge(wish, gpu, replace(cpu, live=False), third) == []
    assert judge(wish, third, replace(cpu, live=False), gpu) == ["preference"]


def test_a_job_that_failed_here_goes_elsewhere_first_and_comes_back_if_there_is_nobody() -> None:
    failed = Requirement("gbt", failed_hosts=("cpu",))
    gpu = host("gpu", GPU_BOX)
    assert judge(failed, host(), gpu) == ["preference"]
    assert judge(failed, host()) == []
    assert judge(replace(failed, failed_hosts=("cpu", "gpu")), host(), gpu) == []


def test_a_declared_capability_lowers_but_raises_only_by_force() -> None:
    low = HostSpec("cpu", capability=Capability(ram_gib=8, models=["gbt"]))
    found, notes = effective(CPU_BOX, low)
    assert (found.ram_gib, found.models) == (8, ["gbt"])
    assert len(notes) == 2
    high = HostSpec("cpu", capability=Capability(ram_gib=64, has_cuda=True))
    kept, notes = effective(CPU_BOX, high)
    assert kept == CPU_BOX
    assert "the host reports 15.5, which is used" in notes[0]
    forced, _ = effective(CPU_BOX, replace(high, force=True))
    assert (forced.ram_gib, forced.has_cuda) == (64, True)
    no_cuda, _ = effective(GPU_BOX, HostSpec("gpu", capability=Capability(has_cuda=False)))
    assert no_cuda.has_cuda is False


def test_without_a_spec_or_with_agreement_nothing_is_noted() -> None:
    assert effective(CPU_BOX, None) == (CPU_BOX, ())
    assert effective(CPU_BOX, HostSpec("cpu", capability=Capability(ram_gib=15.5))) == (CPU_BOX, ())
    assert effective(CPU_BOX, HostSpec("cpu", capability=Capability(os="Plan9")))[0] == CPU_BOX


def test_a_requirement_is_made_of_the_spec_and_of_what_attempts_taught() -> None:
    spec = JobSpec(
        job_id="a" * 64, model="gbt", mode="oracle", hyper={}, split_recipe="x", train_hosts=(), seed=0, name="n",
        require_cuda=True, prefer_cuda=True, allowed_hosts=("b", "a", "b"),
    )  # fmt: skip
    made = requirement_of(spec, Learned(failed_hosts=("z", "y"), more_vram_than_gib=8))
    assert made.allowed_hosts == ("a", "b")
    assert made.failed_hosts == ("y", "z")
    assert not made.prefer_cuda, "CUDA that is required need not be preferred"
    assert made.more_vram_than_gib == 8
