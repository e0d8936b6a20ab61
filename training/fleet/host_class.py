"""Which hosts can be expected to make the same bytes of the same job. Pure.

Trainings are repeatable on one machine. Across machines they are when what decides the arithmetic is the same:
operating system, processor architecture, the device that computes, and for torch its version.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from training.fleet import eligibility
from training.fleet.types import AllowedDevice, Capability, HostSpec
from training.trainer.options import MODELS, Needs

_UNKNOWN_NEEDS = Needs("preferred", 0.0, ("torch",))
"""Of a model that is not known here: as much as a model can depend on."""


@dataclass(frozen=True, slots=True)
class HostClass:
    """What has to be equal. None: not told by the host."""

    os: str | None
    arch: str | None
    device: str | None
    """The GPUs' names, or `cpu`."""
    torch_version: str | None
    """"" for a model that does not use torch."""

    @property
    def is_known(self) -> bool:
        """Did the host tell all of it?"""
        return None not in astuple(self)

    def __str__(self) -> str:
        torch = "" if self.torch_version == "" else f"torch {self.torch_version or 'not told'}"
        parts = [
            self.os or "system not told",
            self.arch or "architecture not told",
            self.device or "GPU not told",
        ]
        return ", ".join([*parts, torch] if torch else parts)


def as_used(detected: Capability, policy: HostSpec | None) -> Capability:
    """What a host reports, without the CUDA that the manifest takes from it. What the manifest claims beyond the report
    computes nothing, and is left out."""
    effective, _ = eligibility.effective(detected, policy)
    return replace(detected, has_cuda=False) if effective.has_cuda is False else detected


def device_for(effective: Capability, *, require_cuda: bool) -> AllowedDevice:
    """What a job may use on a host with this effective capability: a host that is to be one without CUDA gives none,
    though its trainer could find it. One that did not tell is left to its trainer."""
    return "cpu" if effective.has_cuda is False and not require_cuda else "auto"


def host_class(capability: Capability, model: str) -> HostClass:
    """The class of a host for one model; `capability` is the one `as_used`."""
    known = MODELS.get(model)
    needs = _UNKNOWN_NEEDS if known is None else known.needs
    uses_torch = "torch" in needs.libraries
    return HostClass(
        os=capability.os,
        arch=capability.arch,
        device=_device(capability) if needs.cuda == "preferred" else "cpu",
        torch_version=capability.torch_version if uses_torch else "",
    )


def is_same_class(name: str, one: HostClass, other_name: str, other: HostClass) -> bool:
    """May the two hosts stand in for each other? A host always may for itself; what was not told is never equal."""
    return name == other_name or (one.is_known and one == other)


def _device(capability: Capability) -> str | None:
    if capability.has_cuda is None:
        return None
    if not capability.has_cuda:
        return "cpu"
    return " + ".join(sorted({gpu.name for gpu in capability.gpus or ()})) or None
