"""Jobs, hosts and queues for tests: only what a test says differs from the plainest case."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from training.fleet.types import Capability, HostSpec, JobSpec, Manifest, Policy

ARTIFACT = "c" * 64
OTHER_ARTIFACT = "d" * 64


def job_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def job(name: str = "gbt-realistic", **fields: Any) -> JobSpec:
    """A job whose id comes from its name."""
    values: dict[str, Any] = {
        "job_id": job_id(name), "model": "gbt", "mode": "realistic", "hyper": {}, "split_recipe": "host_disjoint",
        "train_hosts": (), "seed": 0, "name": name,
    }  # fmt: skip
    return JobSpec(**(values | fields))


def manifest(*jobs: JobSpec, hosts: Mapping[str, HostSpec] | None = None, **policy: Any) -> Manifest:
    return Manifest(name="test", hosts=hosts or {}, jobs=jobs, policy=Policy(**policy))


def cpu_host(**fields: Any) -> Capability:
    values: dict[str, Any] = {"hostname": "cpu", "ram_gib": 16.0, "has_cuda": False, "cores": 4}
    return Capability(**(values | fields))


def cuda_host(**fields: Any) -> Capability:
    values: dict[str, Any] = {
        "hostname": "gpu",
        "ram_gib": 32.0,
        "has_cuda": True,
        "vram_gib": 24.0,
        "cores": 8,
    }
    return Capability(**(values | fields))
