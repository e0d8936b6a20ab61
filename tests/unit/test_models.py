"""The models that need no torch on their own: they learn, repeat themselves, and survive being written and read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.factories.small_models import CASES, ITERATIVE, data_of, hyper_of, summary_data, train
from tests.factories.small_series import Recorded
from training.trainer.errors import BadConfig, BadData, Preempted
from training.trainer.models import NoSession, State, Step, Trained, TrainingData, module_of
from training.trainer.models.mlp_network import Adam, Network, clipped, probabilities
from training.trainer.models.scaling import CLIP, Scaler, SeriesScaler
from training.trainer.models.schedule import learning_rate_at
from training.trainer.options import HyperValue

both_numbers_of_classes = pytest.mark.parametrize("n_classes", [2, 4])


def accuracy(trained: Trained, data: TrainingData) -> float:
    return float((trained.predict(data.validation_x).argmax(axis=1) == data.validation_y).mean())


@both_numbers_of_classes
@pytest.mark.parametrize("case", CASES)
def test_a_model_learns_what_can_be_learnt(case: str, n_classes: int) -> None:
    data = data_of(case, n_classes=n_classes)
    # Four classes a step of two apart, in noise of one, overlap more than two.
    assert accuracy(train(case, data), data) >= (0.8 if n_classes == 2 else 0.6)


@both_numbers_of_classes
@pytest.mark.parametrize("case", CASES)
def test_predictions_are_probabilities_of_every_class(case: str, n_classes: int) -> None:
    data = data_of(case, n_classes=n_classes)
    shares = train(case, data).predict(data.validation_x)
    assert shares.shape == (len(data.validation_y), n_classes)
    assert shares.dtype == np.float64
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-9)
    assert ((shares >= 0) & (shares <= 1)).all()


@pytest.mark.parametrize("case", CASES)
def test_nothing_to_predict_gives_no_rows(case: str) -> None:
    data = data_of(case)
    assert train(case, data).predict(data.train_x[:0]).shape == (0, 2)


@pytest.mark.parametrize("case", CASES)
def test_a_seed_gives_the_same_bytes_and_another_seed_others(case: str) -> None:
    assert train(case).files() == train(case).files()
    assert train(case).files() != train(case, seed=2).files()


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_changes_no_byte(case: str) -> None:
    assert train(case, threads=1).files() == train(case, threads=2).files()


@both_numbers_of_classes
@pytest.mark.parametrize("case", CASES)
def test_a_model_read_back_gives_the_same_scores(case: str, n_classes: int, tmp_path: Path) -> None:
    data = data_of(case, n_classes=n_classes)
    trained = train(case, data)
    for name, content in trained.files().items():
        (tmp_path / name).write_bytes(content)
    preprocess = json.loads(json.dumps(dict(trained.preprocess())))
    again = module_of(CASES[case][0]).load(tmp_path, preprocess)
    assert again.predict(data.validation_x).tolist() == trained.predict(data.validation_x).tolist()
    assert again.files() == trained.files()
    assert again.preprocess() == trained.preprocess()


@pytest.mark.parametrize("case", ITERATIVE)
def test_every_step_is_reported_with_falling_loss(case: str) -> None:
    session = Recorded()
    train(case, session=session)
    steps = session.steps
    total = hyper_of(case).get("rounds", hyper_of(case).get("epochs"))
    assert [step.step for step in steps] == list(range(1, int(str(total)) + 1))
    assert {step.total for step in steps} == {total}
    assert steps[-1].loss < steps[0].loss
    assert steps[0].validation_loss is not None
    assert steps[-1].validation_loss is not None
    assert steps[-1].validation_loss < steps[0].validation_loss


@pytest.mark.parametrize("case", CASES)
def test_a_step_may_stop_the_training(case: str) -> None:
    class Stop(NoSession):
        def step(self, step: Step, state: State) -> None:
            raise Preempted("enough")

    with pytest.raises(Preempted):
        train(case, session=Stop())


@pytest.mark.parametrize("case", CASES)
def test_the_validation_side_is_only_watched(case: str) -> None:
    data = data_of(case)
    other = replace(data, validation_x=data.validation_x[::-1] * 3, validation_y=1 - data.validation_y)
    assert train(case, data).files() == train(case, other).files()


@pytest.mark.parametrize("case", CASES)
def test_without_a_validation_side_the_same_model_comes_out(case: str) -> None:
    data, session = data_of(case), Recorded()
    without = replace(data, validation_x=data.validation_x[:0], validation_y=data.validation_y[:0])
    assert train(case, without, session=session).files() == train(case, data).files()
    assert [step.validation_loss for step in session.steps] == [None] * len(session.steps)


@pytest.mark.parametrize("case", CASES)
def test_a_training_side_of_one_class_is_refused(case: str) -> None:
    data = data_of(case)
    with pytest.raises(BadData, match="only class 1, expected windows of 2 classes or more"):
        train(case, replace(data, train_y=np.ones_like(data.train_y)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_refused(case: str, value: float) -> None:
    data = data_of(case)
    data.train_x.reshape(-1)[7] = value
    with pytest.raises(BadData, match="1 values that are not finite"):
        train(case, data)


@pytest.mark.parametrize("case", CASES)
def test_windows_of_another_kind_are_refused(case: str) -> None:
    other = "gbt" if case in ("rocket", "mlp on raw windows") else "rocket"
    with pytest.raises(BadData, match=r"expected [23] dimensions"):
        train(case, data_of(other))


def test_a_class_beyond_the_declared_ones_is_refused() -> None:
    data = data_of("gbt")
    with pytest.raises(BadData, match="classes 0 to 2, expected 0 to 1"):
        train("gbt", replace(data, train_y=np.arange(len(data.train_y), dtype=np.int64) % 3))


def test_the_text_of_a_gbt_says_nothing_of_the_host() -> None:
    assert b"num_threads" not in train("gbt").files()["model.lgb.txt"]


def test_a_gbt_that_finds_no_split_is_sure_of_nothing() -> None:
    data = summary_data(train=20)
    shares = train("gbt", data, given={"min_data_in_leaf": 20, "rounds": 120}).predict(data.validation_x)
    assert shares[:, 1] == pytest.approx(0.5)


def test_a_training_that_diverges_names_the_learning_rate() -> None:
    hyper: dict[str, HyperValue] = {
        "epochs": 400,
        "learning_rate": 1,
        "grad_clip": 0,
        "hidden": [64, 64, 64],
        "weight_decay": 10,
        "label_smoothing": 0.5,
    }
    data = summary_data()
    with pytest.raises(
        BadConfig, match=r"mlp: the loss became .* in epoch \d+ of 400: .*learning_rate = 1; try 0.1"
    ):
        train("mlp", data, given=hyper)


def test_patience_stops_early_and_keeps_the_best_epoch() -> None:
    data, session = summary_data(), Recorded()
    hyper: dict[str, HyperValue] = {
        "epochs": 200,
        "hidden": [32],
        "learning_rate": 0.05,
        "patience": 3,
        "weight_decay": 0,
    }
    trained = train("mlp", data, given=hyper, session=session)
    shares = trained.predict(data.validation_x)
    loss = -np.log(np.clip(shares[np.arange(len(shares)), data.validation_y], 1e-7, 1)).mean()
    best = min(step.validation_loss for step in session.steps if step.validation_loss is not None)
    assert len(session.steps) < 200
    assert loss == pytest.approx(best, rel=1e-3)


def test_patience_without_a_validation_side_never_stops() -> None:
    data, session = summary_data(validation=0), Recorded()
    train("mlp", data, given={"patience": 1}, session=session)
    assert len(session.steps) == 15


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_gradients_of_the_network_are_those_of_finite_differences(outputs: int) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    network = Network([4, 5, 3, outputs])
    # Biases too: at a bias of 0, a unit whose inputs are all 0 sits right on the bend of its ReLU.
    network.parameters[:] = rng.standard_normal(len(network.parameters), dtype=np.float32)
    inputs = rng.standard_normal((10, 4), dtype=np.float32)
    targets = np.eye(max(2, outputs), dtype=np.float32)[np.arange(10) % max(2, outputs)][:, -outputs:]
    gradient, _ = network.gradient(inputs, targets, 0.0, rng)

    def loss_at(place: int, value: np.float32) -> float:
        before, network.parameters[place] = network.parameters[place], value
        loss = network.gradient(inputs, targets, 0.0, rng)[1]
        network.parameters[place] = before
        return loss

    for place in np.argsort(-np.abs(gradient))[:12]:
        at, step = network.parameters[place], np.float32(1e-2)
        slope = (loss_at(place, at + step) - loss_at(place, at - step)) / 2e-2
        assert slope == pytest.approx(gradient[place], rel=0.05)


def test_adam_steps_as_its_paper_says() -> None:
    """Against the formulas written out, over more parameters than are changed at a time."""
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=20_000).astype(np.float32)
    expected = parameters.astype(np.float64)
    adam, first, second = Adam(len(parameters)), np.zeros(20_000), np.zeros(20_000)
    for count in range(1, 4):
        gradient = rng.normal(size=20_000).astype(np.float32)
        first, second = (
            0.9 * first + 0.1 * gradient,
            0.999 * second + 0.001 * gradient.astype(np.float64) ** 2,
        )
        expected[:15_000] *= 1 - 0.01 * 0.5
        expected -= 0.01 * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        adam.step(parameters, gradient, count, 0.01, 0.5, 15_000)
    assert np.abs(parameters - expected).max() < 1e-5


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone() -> None:
    long, short = np.array([3, 4], dtype=np.float32), np.array([0.3, 0.4], dtype=np.float32)
    assert clipped(long.copy(), 1).tolist() == pytest.approx([0.6, 0.8])
    assert clipped(short.copy(), 1).tolist() == short.tolist()
    assert clipped(long.copy(), 0).tolist() == [3, 4]


@pytest.mark.parametrize("logits", [[[500.0], [-500.0]], [[500.0, -500.0], [-500.0, 500.0]]])
def test_very_sure_logits_overflow_nothing(logits: list[list[float]]) -> None:
    shares = probabilities(np.array(logits, dtype=np.float32))
    assert shares[:, -1] == pytest.approx([1, 0] if len(logits[0]) == 1 else [0, 1], abs=1e-6)


def test_the_cosine_schedule_rises_and_then_falls_to_nearly_nothing() -> None:
    rates = [learning_rate_at(step, 100, 0.5, "cosine") for step in range(1, 101)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert {learning_rate_at(step, 100, 0.5, "constant") for step in range(1, 101)} == {0.5}


def test_standardised_outliers_are_cut() -> None:
    scaler = Scaler.of(np.array([[0, 7], [2, 7]], dtype=np.float32))
    scaled = scaler.apply(np.array([[1, 7], [1e9, 8], [-1e9, 7]], dtype=np.float32))
    assert scaled.tolist() == [[0, 0], [CLIP, 1], [-CLIP, 0]]


def test_a_series_is_standardised_channel_by_channel_and_keeps_its_shape() -> None:
    x = np.array([[[0, 2], [5, 5]], [[2, 0], [5, 5]]], dtype=np.float32)
    scaled: NDArray[np.float32] = SeriesScaler.of(x).apply(x)
    assert scaled.tolist() == [[[-1, 1], [0, 0]], [[1, -1], [0, 0]]]


@pytest.mark.parametrize("scaler", [Scaler, SeriesScaler])
def test_a_scaler_read_back_is_the_same_to_the_last_bit(scaler: type[Scaler] | type[SeriesScaler]) -> None:
    x = np.random.default_rng(0).normal(3, 0.1, (20, 5, 3)).astype(np.float32)
    before = scaler.of(x if scaler is SeriesScaler else x[:, :, 0])
    after = scaler.from_preprocess(json.loads(json.dumps(dict(before.preprocess()))))
    assert (after.mean.tolist(), after.sd.tolist()) == (before.mean.tolist(), before.sd.tolist())
