"""The models on their own: they learn, repeat themselves, and survive being written and read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.trainer.errors import Preempted, Unavailable
from training.trainer.models import Step, Trained, TrainingData, module_of
from training.trainer.models.mlp import CLIP, Network, Scaler
from training.trainer.options import IMPLEMENTED, MODELS, HyperValue, effective_hyper

SHORT: dict[str, dict[str, HyperValue]] = {
    "gbt": {"rounds": 20, "min_data_in_leaf": 5},
    "mlp": {"epochs": 15, "hidden": [8], "learning_rate": 0.01},
}


def training_data(seed: int = 0) -> TrainingData:
    """Two of six features carry the label, on very different scales."""
    rng = np.random.default_rng(seed)

    def side(n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        labels = np.arange(n) % 2 == 0
        features = rng.normal(0, 1, (n, 6))
        features[:, 0] += 2 * labels
        features[:, 1] = 1000 * (features[:, 1] - 2 * labels)
        return features.astype(np.float32), labels

    return TrainingData(*side(200), *side(40))


def train(
    model: str, seed: int = 1, threads: int = 1, on_step: Callable[[Step], None] | None = None
) -> Trained:
    hyper = effective_hyper(model, SHORT[model])
    return module_of(model).fit(training_data(), hyper, seed, threads, on_step or (lambda step: None))


def save(trained: Trained, folder: Path) -> None:
    for name, content in trained.files().items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_a_model_learns_what_can_be_learnt(model: str) -> None:
    data = training_data()
    scores = train(model).predict(data.validation_x)
    assert ((scores >= 0.5) == data.validation_y).mean() >= 0.8
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_a_seed_gives_the_same_bytes_and_another_seed_others(model: str) -> None:
    assert train(model).files() == train(model).files()
    assert train(model).files() != train(model, seed=2).files()


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_the_number_of_threads_changes_no_byte(model: str) -> None:
    assert train(model, threads=1).files() == train(model, threads=2).files()


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_a_model_read_back_gives_the_same_scores(model: str, tmp_path: Path) -> None:
    trained = train(model)
    save(trained, tmp_path)
    preprocess = json.loads(json.dumps(dict(trained.preprocess())))
    features = training_data().validation_x
    again = module_of(model).load(tmp_path, preprocess)
    assert again.predict(features).tolist() == trained.predict(features).tolist()


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_every_step_is_reported_with_falling_loss(model: str) -> None:
    steps: list[Step] = []
    train(model, on_step=steps.append)
    total = SHORT[model]["rounds" if model == "gbt" else "epochs"]
    assert [step.step for step in steps] == list(range(1, int(str(total)) + 1))
    assert {step.total for step in steps} == {total}
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].validation_loss < steps[0].validation_loss


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_a_step_may_stop_the_training(model: str) -> None:
    def stop(step: Step) -> None:
        raise Preempted("enough")

    with pytest.raises(Preempted):
        train(model, on_step=stop)


@pytest.mark.parametrize("model", sorted(set(MODELS) - set(IMPLEMENTED)))
def test_a_declared_model_that_cannot_be_trained_yet_is_unavailable(model: str) -> None:
    with pytest.raises(Unavailable, match=f"no model '{model}' yet"):
        module_of(model)


def test_the_text_of_a_gbt_says_nothing_of_the_host() -> None:
    assert b"num_threads" not in train("gbt").files()["model.lgb.txt"]


def test_patience_stops_early_and_keeps_the_best_epoch() -> None:
    steps: list[Step] = []
    hyper = effective_hyper(
        "mlp", {"epochs": 200, "hidden": [32], "learning_rate": 0.05, "patience": 3, "weight_decay": 0}
    )
    data = training_data()
    trained = module_of("mlp").fit(data, hyper, 1, 1, steps.append)
    scores = np.clip(trained.predict(data.validation_x), 1e-7, 1 - 1e-7)
    loss = -np.log(np.where(data.validation_y, scores, 1 - scores)).mean()
    best = min(step.validation_loss for step in steps)
    assert len(steps) < 200
    assert loss == pytest.approx(best, rel=1e-3)


def test_the_gradients_of_the_network_are_those_of_finite_differences() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    network = Network.initial([4, 5, 3, 1], rng)
    network.weights[-1][:] = rng.standard_normal((3, 1), dtype=np.float32)
    inputs = rng.standard_normal((10, 4), dtype=np.float32)
    targets = (np.arange(10) % 2).astype(np.float32)

    def loss() -> float:
        return network.gradients(inputs, targets, 0.0, rng)[2]

    by_weight, by_bias, _ = network.gradients(inputs, targets, 0.0, rng)
    for parameters, gradients in ((network.weights, by_weight), (network.biases, by_bias)):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            at = np.unravel_index(int(np.abs(gradient).argmax()), gradient.shape)
            before = parameter[at]
            parameter[at] = before + np.float32(1e-2)
            above = loss()
            parameter[at] = before - np.float32(1e-2)
            below = loss()
            parameter[at] = before
            assert (above - below) / 2e-2 == pytest.approx(gradient[at], rel=0.05)


def test_standardised_outliers_are_cut() -> None:
    scaler = Scaler.of(np.array([[0, 7], [2, 7]], dtype=np.float32))
    scaled = scaler.apply(np.array([[1, 7], [1e9, 8], [-1e9, 7]], dtype=np.float32))
    assert scaled.tolist() == [[0, 0], [CLIP, 1], [-CLIP, 0]]
