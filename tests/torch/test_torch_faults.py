"""Too little memory, no GPU, a GPU in trouble: each ends with its own exit code and a sentence."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.factories.small_series import hyper_of, series_data, train
from training.trainer.errors import OutOfMemory, Unavailable
from training.trainer.models import Context, NoSession

torch = pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = pytest.mark.torch


def test_a_network_that_does_not_fit_into_memory_says_what_to_try() -> None:
    """A real allocation that no machine grants: 2^60 numbers."""
    from training.trainer.models import torch_training
    from training.trainer.models.torch_artifact import NetworkKind, SeriesShape

    def build(shape: SeriesShape, options: Mapping[str, object]) -> Any:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2**30, 2**30))

    with pytest.raises(OutOfMemory) as caught:
        torch_training.fit(
            NetworkKind("giant", (), build), series_data(), hyper_of("cnn"), Context(1, NoSession())
        )
    text = str(caught.value)
    assert text.startswith("giant: out of memory: this process's peak is ")
    assert "GiB" in text
    assert "hyper.batch_size below 12" in text
    assert "min_ram_gib" in text
    assert "\n" not in text


def test_memory_that_numpy_does_not_get_is_the_same_class() -> None:
    from training.trainer.models.torch_faults import readable_faults

    with (
        pytest.raises(OutOfMemory, match=r"cnn: out of memory.*Unable to allocate"),
        readable_faults("cnn", "cpu", 32),
    ):
        raise MemoryError("Unable to allocate 9.31 GiB for an array")


def test_a_full_gpu_is_out_of_memory_even_when_it_no_longer_tells_its_name() -> None:
    """This machine has no GPU to fill, so the error is made by hand; tests/torch/test_cuda.py fills one."""
    from training.trainer.models.torch_faults import readable_faults

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nlong explanation")
    with pytest.raises(OutOfMemory) as caught, readable_faults("tcn", "cuda", 64):
        raise error
    assert "Tried to allocate 20.00 GiB" in str(caught.value)
    assert "hyper.batch_size below 64" in str(caught.value)
    assert "long explanation" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUBLAS_STATUS_INTERNAL_ERROR when calling cublasCreate",
    ],
)
def test_a_gpu_in_trouble_is_unavailable_with_the_drivers_words(text: str) -> None:
    from training.trainer.models.torch_faults import readable_faults

    with pytest.raises(Unavailable) as caught, readable_faults("tcn", "cuda", 64):
        raise RuntimeError(text)
    assert text.splitlines()[0] in str(caught.value)
    assert "nvidia-smi" in str(caught.value)


def test_a_library_of_the_gpu_that_gets_no_memory_is_out_of_memory() -> None:
    from training.trainer.models.torch_faults import readable_faults

    with pytest.raises(OutOfMemory), readable_faults("gru", "cuda", 64):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


def test_a_defect_stays_a_defect() -> None:
    from training.trainer.models.torch_faults import readable_faults

    with (
        pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"),
        readable_faults("cnn", "cpu", 1),
    ):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_but_absent_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="CUDA was asked for"):
        train("cnn", device="cuda")
