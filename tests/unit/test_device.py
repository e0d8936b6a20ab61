"""Where a job trains: every wish is granted or refused with the reason, and torch is asked only when needed."""

import sys
from pathlib import Path

import pytest

from training.trainer.device import Asked, choose_device, library_versions, why_no_cuda
from training.trainer.errors import BadConfig, Unavailable
from training.trainer.options import MODELS

PLAIN, CAN = MODELS["mlp"], MODELS["tcn"]


def must_not_ask() -> str | None:
    raise AssertionError("torch was imported for a model that cannot use it")


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_a_model_without_cuda_code_trains_on_the_processor_and_never_asks(asked: Asked) -> None:
    for required in (False, True):
        assert choose_device(PLAIN, asked, job_requires_cuda=required, why_no_cuda=must_not_ask) == "cpu"


def test_a_model_without_cuda_code_cannot_be_asked_to_use_it() -> None:
    with pytest.raises(BadConfig, match="--device cuda: mlp has no code for CUDA"):
        choose_device(PLAIN, "cuda", job_requires_cuda=False, why_no_cuda=must_not_ask)


def test_auto_takes_cuda_where_it_is_and_the_processor_elsewhere() -> None:
    assert choose_device(CAN, "auto", job_requires_cuda=False, why_no_cuda=lambda: None) == "cuda"
    assert choose_device(CAN, "auto", job_requires_cuda=False, why_no_cuda=lambda: "no GPU") == "cpu"


def test_the_processor_can_be_chosen_on_a_host_with_cuda() -> None:
    assert choose_device(CAN, "cpu", job_requires_cuda=False, why_no_cuda=must_not_ask) == "cpu"


@pytest.mark.parametrize(
    ("asked", "required", "wish"), [("cuda", False, "--device cuda"), ("auto", True, "require_cuda")]
)
def test_cuda_that_is_asked_for_and_absent_says_what_is_missing_and_what_to_do(
    asked: Asked, required: bool, wish: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        choose_device(CAN, asked, job_requires_cuda=required, why_no_cuda=lambda: "no driver")
    assert wish in str(caught.value)
    assert "this host has none: no driver" in str(caught.value)
    assert "cis490-jobs workers" in str(caught.value)


def test_a_torch_whose_library_does_not_load_is_a_reason_and_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libc10.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert (
        why_no_cuda() == "a shared library of torch does not load (libc10.so: cannot open shared object file)"
    )


def test_a_job_that_requires_cuda_is_not_quietly_trained_on_the_processor() -> None:
    with pytest.raises(BadConfig, match="contradicts require_cuda"):
        choose_device(CAN, "cpu", job_requires_cuda=True, why_no_cuda=lambda: None)


def test_versions_are_told_by_library_and_an_unknown_one_is_not_invented() -> None:
    found = library_versions(("numpy", "no_such_library"))
    assert found["no_such_library"] is None
    assert str(found["numpy"])[0].isdigit()
