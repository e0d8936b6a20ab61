"""The torch models on an NVIDIA GPU: the same code path, the same promises. `pytest -m cuda` runs these."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.factories.small_series import TORCH_MODELS, Interrupted, series_data, stopped, train
from training.trainer.errors import OutOfMemory
from training.trainer.models import Context, NoSession, UnusableState, module_of
from training.trainer.options import effective_hyper

torch = pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no usable NVIDIA GPU here; see nvidia-smi"),
]


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_model_learns_on_the_gpu(model: str) -> None:
    data = series_data(train=60, validation=60)
    probabilities = train(model, data, device="cuda", epochs=40).predict(data.validation_x)
    assert (probabilities.argmax(1) == data.validation_y).mean() >= 0.9


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_the_same_training_gives_the_same_bytes_on_the_gpu(model: str) -> None:
    """With the default network, whose kernels are the ones that matter."""
    data = series_data(channels=62, samples=40, train=128)
    hyper = effective_hyper(model, {"epochs": 3})
    files = [
        module_of(model).fit(data, hyper, Context(1, NoSession(), "cuda", threads)).files()
        for threads in (1, 4)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_stop_and_a_resume_on_the_gpu_change_no_byte(model: str) -> None:
    left_alone = train(model, device="cuda", patience=2).files()
    for stop_at in (1, 4, 7, 12):
        files = stopped(model, stop_at, device="cuda", patience=2)
        resumed = train(model, session=Interrupted(0, files), device="cuda", patience=2)
        assert resumed.files() == left_alone, f"stopped at {stop_at}"


def test_a_stop_and_a_resume_of_a_stacked_gru_on_the_gpu_change_no_byte() -> None:
    """cuDNN's own dropout between layers would draw from a state that no checkpoint holds."""
    given: dict[str, Any] = {"layers": 3, "dropout": 0.4, "bidirectional": True}
    left_alone = train("gru", device="cuda", **given).files()
    resumed = train(
        "gru", session=Interrupted(0, stopped("gru", 7, device="cuda", **given)), device="cuda", **given
    )
    assert resumed.files() == left_alone


def test_a_checkpoint_of_the_cpu_is_refused_on_the_gpu() -> None:
    """The rest of the training would be rounded in another way, and the result be neither one nor the other."""
    with pytest.raises(UnusableState, match="another training"):
        train("cnn", session=Interrupted(0, stopped("cnn", 5)), device="cuda")


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_an_artifact_of_the_gpu_loads_on_the_cpu_with_the_same_scores(model: str, tmp_path: Path) -> None:
    trained = train(model, device="cuda")
    for name, content in trained.files().items():
        (tmp_path / name).write_bytes(content)
    x = series_data().validation_x
    again = module_of(model).load(tmp_path, trained.preprocess())
    assert again.predict(x).tolist() == trained.predict(x).tolist()


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_gpu_and_cpu_agree_closely_after_one_epoch(model: str) -> None:
    """The first weights are the same; dropout draws other numbers on the GPU, so it is off."""
    data = series_data()
    given: dict[str, Any] = {} if model == "cnn" else {"dropout": 0.0}
    on_cpu = train(model, data, epochs=1, **given).predict(data.validation_x)
    on_gpu = train(model, data, device="cuda", epochs=1, **given).predict(data.validation_x)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)


def test_a_full_gpu_is_out_of_memory_with_peak_card_and_what_to_try() -> None:
    """Attention between 40 000 patches of 64 windows needs far more than any card has."""
    data = series_data(channels=1, samples=40_000, train=64, validation=0)
    with pytest.raises(OutOfMemory) as caught:
        train("transformer", data, device="cuda", patch=1, batch_size=64, epochs=1)
    text = str(caught.value)
    assert torch.cuda.get_device_name() in text
    assert "peak " in text
    assert "hyper.batch_size below 64" in text
    assert "\n" not in text


def test_the_gpu_can_be_used_after_it_was_full() -> None:
    data = series_data(channels=1, samples=40_000, train=64, validation=0)
    with pytest.raises(OutOfMemory):
        train("transformer", data, device="cuda", patch=1, batch_size=64, epochs=1)
    assert train("transformer", device="cuda", epochs=1).files()
