"""Which hosts may verify each other's artifacts."""

from __future__ import annotations

import pytest

from training.fleet.host_class import HostClass, as_used, device_for, host_class, is_same_class
from training.fleet.types import AllowedDevice, Capability, Gpu, HostSpec

LINUX = {"os": "linux", "arch": "x86_64", "torch_version": "2.13.0", "has_cuda": False}


def host(*gpus: str, **fields: object) -> Capability:
    more = {"has_cuda": True, "gpus": [Gpu(name, 24.0) for name in gpus]} if gpus else {}
    return Capability(**{**LINUX, **more, **fields})  # type: ignore[arg-type]


def same(one: Capability, other: Capability, model: str) -> bool:
    return is_same_class("a", host_class(one, model), "b", host_class(other, model))


@pytest.mark.parametrize(
    ("other", "gbt", "cnn"),
    [
        (host(), True, True),
        (host(hostname="other", cores=64, ram_gib=128.0, python_version="3.14"), True, True),
        (host(os="windows"), False, False),
        (host(arch="aarch64"), False, False),
        (host(torch_version="2.12.0"), True, False),
        (host(torch_version=None), True, False),
        (host("NVIDIA H100"), True, False),
        (host(os=None), False, False),
        (host(has_cuda=None), True, False),
    ],
)
def test_a_host_is_like_another_when_what_decides_the_models_arithmetic_is_equal(
    other: Capability, gbt: bool, cnn: bool
) -> None:
    assert (same(host(), other, "gbt"), same(host(), other, "cnn")) == (gbt, cnn)


def test_hosts_with_cuda_are_alike_when_their_gpus_have_one_name() -> None:
    assert same(host("H100"), host("H100", "H100"), "gru")
    assert not same(host("H100"), host("H200"), "gru")
    assert not same(host("H100"), host("H100", "T4"), "gru")
    assert not same(host("H100"), host("H100", gpus=None), "gru"), "a GPU without a name may be any"


def test_what_was_not_told_is_like_nothing_but_itself() -> None:
    silent = host_class(Capability(), "gbt")
    assert silent == HostClass(None, None, "cpu", "")
    assert not is_same_class("a", silent, "b", silent)
    assert is_same_class("a", silent, "a", silent)


def test_a_model_that_is_not_known_here_depends_on_everything() -> None:
    assert host_class(host("H100"), "of-a-plugin") == HostClass("linux", "x86_64", "H100", "2.13.0")


def test_a_class_is_told_in_words() -> None:
    assert str(host_class(host("H100"), "cnn")) == "linux, x86_64, H100, torch 2.13.0"
    assert str(host_class(Capability(), "cnn")) == (
        "system not told, architecture not told, GPU not told, torch not told"
    )
    assert str(host_class(host(), "gbt")) == "linux, x86_64, cpu"


WITHOUT_CUDA = HostSpec("a", capability=Capability(has_cuda=False))


def test_a_gpu_that_the_manifest_keeps_from_jobs_is_no_part_of_the_class() -> None:
    assert host_class(as_used(host("H100"), WITHOUT_CUDA), "cnn") == host_class(host(), "cnn")
    assert as_used(host("H100"), None) == host("H100")
    forced = HostSpec("a", capability=Capability(has_cuda=True, os="windows"), force=True)
    assert as_used(host(), forced) == host(), (
        "a manifest that claims more does not change what computes there"
    )


@pytest.mark.parametrize(
    ("has_cuda", "require_cuda", "device"),
    [(False, False, "cpu"), (False, True, "auto"), (True, False, "auto"), (None, False, "auto")],
)
def test_a_trainer_is_kept_to_the_processor_where_a_host_is_to_be_one_without_cuda(
    has_cuda: bool | None, require_cuda: bool, device: AllowedDevice
) -> None:
    assert device_for(Capability(has_cuda=has_cuda), require_cuda=require_cuda) == device
