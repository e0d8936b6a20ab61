"""What a failure teaches, and whether the job is tried again. Pure.

Every failed attempt counts against the budget, and a host that failed a job gets it again only when
no other live host could take it (`eligibility.preference_check`): with several hosts each failure is
another host's word, with a single host the job still gets its further tries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from training.fleet.eligibility import HostView, Learned, Rules, fits, requirement_of
from training.fleet.types import Capability, FailClass, JobSpec, Policy
from training.trainer.options import MODELS

HOST_FAULTS: Final[frozenset[FailClass]] = frozenset(
    {"program", "bad_data", "missing", "no_cuda", "oom", "timeout", "stalled"}
)
"""Failures that may be the host's fault: several in a row pause it. A bad configuration never is."""


def learn(learned: Learned, model: str, host: str, capability: Capability, fail_class: FailClass) -> Learned:
    """What is known about where a job may run, after it failed on `host` with this `capability`.

    Out of memory means the GPU's for a model that uses one where there is one, else the machine's; a
    host that does not report the size is treated as one that failed the job.
    """
    known = replace(learned, wait_for_host="")
    elsewhere = replace(known, failed_hosts=tuple(sorted({*known.failed_hosts, host})))
    if fail_class != "oom":
        return elsewhere
    if capability.has_cuda and uses_gpu(model):
        floor_gib = max(known.more_vram_than_gib, capability.vram_gib or 0.0)
        return replace(known, more_vram_than_gib=floor_gib) if capability.vram_gib else elsewhere
    floor_gib = max(known.more_ram_than_gib, capability.ram_gib or 0.0)
    return replace(known, more_ram_than_gib=floor_gib) if capability.ram_gib else elsewhere


def uses_gpu(model: str) -> bool:
    """Does this model train on a GPU when there is one? An unknown model counts as one that does."""
    known = MODELS.get(model)
    return known is None or known.needs.cuda != "no"


def may_retry(
    spec: JobSpec,
    learned: Learned,
    fail_class: FailClass,
    *,
    failures: int,
    policy: Policy,
    hosts: Iterable[HostView],
    rules: Rules,
) -> bool:
    """May the job be tried again after its `failures`-th failure?

    A bad configuration fails everywhere. Out of memory needs a bigger host; without one it is final.
    """
    if fail_class == "bad_config" or failures >= policy.max_failures:
        return False
    if fail_class != "oom":
        return True
    requirement = requirement_of(spec, learned)
    return any(fits(requirement, host, rules) for host in hosts)


def pause_reason(failures_in_a_row: int, policy: Policy) -> str | None:
    """Why a host gets no further jobs, if its failures in a row say so."""
    limit = policy.pause_after_failures
    return f"{failures_in_a_row} jobs failed on it in a row" if limit and failures_in_a_row >= limit else None
