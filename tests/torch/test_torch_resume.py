"""A training that is stopped after any batch and resumed ends with the bytes of one that was left alone."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.factories.small_series import TORCH_MODELS, Interrupted, Recorded, stopped, train
from training.trainer.errors import Preempted
from training.trainer.models import UnusableState

pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = pytest.mark.torch

TICKS = 12
"""3 epochs of 4 batches."""


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_training_ticks_after_every_batch(model: str) -> None:
    session = Interrupted(0)
    train(model, session=session)
    assert session.ticks == TICKS


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_stop_after_any_batch_changes_no_byte(model: str) -> None:
    left_alone = train(model).files()
    for stop_at in range(1, TICKS + 1):
        files = stopped(model, stop_at)
        assert train(model, session=Interrupted(0, files)).files() == left_alone, f"stopped at {stop_at}"


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_training_may_be_stopped_again_and_again(model: str) -> None:
    left_alone = train(model).files()
    files: Mapping[str, bytes] | None = None
    for _ in range(TICKS):
        session = Interrupted(1, files)
        with pytest.raises(Preempted):
            train(model, session=session)
        files = session.files
    assert train(model, session=Interrupted(0, files)).files() == left_alone


@pytest.mark.parametrize("model", TORCH_MODELS)
def test_a_stop_with_patience_goes_back_to_the_same_best_epoch(model: str) -> None:
    """The rate is so large that the validation loss rises soon and the first epochs remain the best."""
    wild: dict[str, Any] = {"patience": 2, "learning_rate": 0.2, "epochs": 12, "schedule": "constant"}
    seen = Recorded()
    left_alone = train(model, session=seen, **wild).files()
    assert len(seen.steps) < 12
    for stop_at in range(1, 4 * len(seen.steps) + 1, 3):
        files = stopped(model, stop_at, **wild)
        resumed = train(model, session=Interrupted(0, files), **wild)
        assert resumed.files() == left_alone, f"stopped at {stop_at}"


def test_a_stop_of_a_stacked_gru_with_dropout_between_its_layers_changes_no_byte() -> None:
    given: dict[str, Any] = {"layers": 3, "dropout": 0.4, "bidirectional": True}
    resumed = train("gru", session=Interrupted(0, stopped("gru", 7, **given)), **given)
    assert resumed.files() == train("gru", **given).files()


def test_a_resumed_training_reports_the_losses_of_one_that_was_left_alone() -> None:
    alone, resumed = Recorded(), Recorded()
    train("cnn", session=alone)
    resumed.resume = lambda: stopped("cnn", 6)  # type: ignore[method-assign]
    train("cnn", session=resumed)
    assert resumed.steps == alone.steps[1:]


def test_a_resumed_training_does_only_what_is_left() -> None:
    session = Interrupted(0, stopped("cnn", 7))
    train("cnn", session=session)
    assert session.ticks == TICKS - 7


def test_a_checkpoint_is_safetensors_and_json() -> None:
    files = stopped("tcn", 5)
    assert sorted(files) == ["training.json", "training.safetensors"]
    assert json.loads(files["training.json"])["steps"] == 5
    assert stopped("tcn", 5) == files


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"learning_rate": 0.02}, {"epochs": 4}, {"batch_size": 20}, {"torch_threads": 2}]
)
def test_the_checkpoint_of_another_training_is_refused(other: dict[str, Any]) -> None:
    files = stopped("cnn", 5)
    with pytest.raises(UnusableState, match="another training"):
        train("cnn", session=Interrupted(0, files), **other)


def test_the_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(UnusableState, match="another training"):
        train("gru", session=Interrupted(0, stopped("cnn", 5)))


@pytest.mark.parametrize("name", ["training.json", "training.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other"])
def test_a_damaged_checkpoint_is_refused(name: str, damage: str) -> None:
    files = dict(stopped("cnn", 5))
    content = files.pop(name)
    if damage != "missing":
        files[name] = {"empty": b"", "half": content[: len(content) // 2], "other": b"\xff" * 50}[damage]
    with pytest.raises(UnusableState, match="cnn: the checkpoint cannot be used"):
        train("cnn", session=Interrupted(0, files))


def test_a_checkpoint_that_lacks_one_tensor_is_refused() -> None:
    from safetensors.numpy import load, save

    files = dict(stopped("cnn", 5))
    tensors = load(files["training.safetensors"])
    del tensors["second/0"]
    files["training.safetensors"] = save(tensors)
    with pytest.raises(UnusableState, match="second/0"):
        train("cnn", session=Interrupted(0, files))
