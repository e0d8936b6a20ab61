"""Each torch model on its own: it learns, repeats itself, and survives being written and read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.factories.small_series import TORCH_MODELS, Recorded, hyper_of, series_data, train
from training.trainer.errors import BadConfig, BadData
from training.trainer.models import Context, NoSession, Trained, module_of
from training.trainer.options import effective_hyper

pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = [pytest.mark.torch, pytest.mark.parametrize("model", TORCH_MODELS)]


def written(trained: Trained, folder: Path) -> Path:
    for name, content in trained.files().items():
        (folder / name).write_bytes(content)
    return folder


def read(model: str, trained: Trained, folder: Path) -> Trained:
    preprocess = json.loads(json.dumps(dict(trained.preprocess())))
    return module_of(model).load(written(trained, folder), preprocess)


def test_a_model_reads_the_samples_of_the_window(model: str) -> None:
    assert module_of(model).reads(hyper_of(model)) == "series"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_model_learns_what_can_be_learnt(model: str, n_classes: int) -> None:
    data = series_data(n_classes=n_classes, train=60, validation=60)
    probabilities = train(model, data, epochs=30, batch_size=20).predict(data.validation_x)
    assert (probabilities.argmax(1) == data.validation_y).mean() >= 0.8


def test_probabilities_are_float64_between_0_and_1_and_add_up_to_1(model: str) -> None:
    data = series_data(n_classes=3)
    probabilities = train(model, data, epochs=1).predict(data.validation_x)
    assert probabilities.dtype == np.float64
    assert probabilities.shape == (20, 3)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)


def test_no_windows_give_no_predictions(model: str) -> None:
    assert train(model, epochs=1).predict(np.empty((0, 3, 16), np.float32)).shape == (0, 2)


def test_windows_of_another_shape_are_refused_with_both_shapes(model: str) -> None:
    trained = train(model, epochs=1)
    with pytest.raises(ValueError, match=r"found windows of shape \(3, 17\), expected \(3, 16\)"):
        trained.predict(np.zeros((1, 3, 17), np.float32))


def test_a_seed_gives_the_same_bytes_and_another_seed_others(model: str) -> None:
    assert train(model).files() == train(model).files()
    assert train(model).files() != train(model, seed=2).files()


def test_the_threads_that_a_host_gives_change_no_byte(model: str) -> None:
    assert train(model, threads=1).files() == train(model, threads=7).files()


def test_a_model_read_back_gives_the_same_scores_and_the_same_bytes(model: str, tmp_path: Path) -> None:
    trained = train(model)
    again = read(model, trained, tmp_path)
    x = series_data().validation_x
    assert again.predict(x).tolist() == trained.predict(x).tolist()
    assert again.files() == trained.files()
    assert again.preprocess() == trained.preprocess()


def test_scores_do_not_depend_on_the_windows_beside(model: str) -> None:
    """Above all: batch normalisation must use what it learnt, and dropout must be off."""
    trained = train(model)
    x = series_data().validation_x
    np.testing.assert_allclose(trained.predict(x)[3:5], trained.predict(x[3:5]), atol=1e-6)


def test_no_offset_or_scale_of_a_channel_matters(model: str) -> None:
    data = series_data()
    moved = replace(data, train_x=data.train_x * 4 + 8192, validation_x=data.validation_x * 4 + 8192)
    plain, shifted = train(model, data), train(model, moved)
    np.testing.assert_allclose(
        plain.predict(data.validation_x), shifted.predict(moved.validation_x), atol=0.02
    )


def test_the_artifact_is_safetensors_and_json_and_says_what_the_network_looks_like(model: str) -> None:
    files = train(model, epochs=1).files()
    assert sorted(files) == ["arch.json", "model.safetensors"]
    arch = json.loads(files["arch.json"])
    assert (arch["model"], arch["channels"], arch["samples"], arch["classes"]) == (model, 3, 16, 2)
    assert set(arch["options"]) < set(hyper_of(model))
    assert "learning_rate" not in arch["options"]


def test_a_damaged_artifact_is_refused_with_its_folder(model: str, tmp_path: Path) -> None:
    trained = train(model, epochs=1)
    written(trained, tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadData, match=f"{tmp_path}.*not a {model}"):
        module_of(model).load(tmp_path, trained.preprocess())


def test_the_artifact_of_another_model_is_refused(model: str, tmp_path: Path) -> None:
    other = next(name for name in TORCH_MODELS if name != model)
    trained = train(other, epochs=1)
    with pytest.raises(BadData, match=f"it is a {other}"):
        module_of(model).load(written(trained, tmp_path), trained.preprocess())


@pytest.mark.parametrize(("channels", "samples"), [(1, 6), (2, 7), (80, 24)])
def test_a_model_takes_any_number_of_channels_and_few_samples(
    model: str, channels: int, samples: int
) -> None:
    """Also fewer than a patch or a kernel."""
    data = series_data(channels=channels, samples=samples)
    long: dict[str, Any] = {"cnn": {"kernels": [9, 8]}, "tcn": {"kernel": 9}}
    trained = train(model, data, epochs=1, **long.get(model, {"patch": 10}))
    assert np.isfinite(trained.predict(data.validation_x)).all()


def test_a_batch_may_hold_one_window(model: str) -> None:
    data = series_data(train=5)
    assert np.isfinite(train(model, data, epochs=1, batch_size=1).predict(data.validation_x)).all()


def test_every_epoch_is_reported_with_falling_loss(model: str) -> None:
    seen = Recorded()
    train(model, session=seen, epochs=12, schedule="constant")
    assert [step.step for step in seen.steps] == list(range(1, 13))
    assert {step.total for step in seen.steps} == {12}
    assert seen.steps[-1].loss < seen.steps[0].loss
    assert all(step.validation_loss is not None for step in seen.steps)


def test_without_a_validation_side_there_is_no_validation_loss(model: str) -> None:
    seen = Recorded()
    train(model, series_data(validation=0), session=seen, patience=1)
    assert [step.validation_loss for step in seen.steps] == [None] * 3


def test_a_training_that_diverges_says_which_option_to_change(model: str) -> None:
    with pytest.raises(BadConfig, match=r"diverged.*hyper\.learning_rate"):
        train(model, learning_rate=1.0, grad_clip=0.0, weight_decay=10.0, epochs=200, schedule="constant")


def test_a_value_that_is_no_number_is_refused(model: str) -> None:
    data = series_data()
    data.train_x[3, 1, 2] = np.nan
    with pytest.raises(BadData, match="not finite"):
        train(model, data)


def test_the_default_network_trains_on_windows_of_the_fleet(model: str) -> None:
    """The defaults fit together, and fit a window of 4 s at 10 Hz."""
    data = series_data(channels=10, samples=40, train=8, validation=0)
    hyper = effective_hyper(model, {"epochs": 1})
    trained = module_of(model).fit(data, hyper, Context(1, NoSession()))
    assert trained.predict(data.train_x).shape == (8, 2)
