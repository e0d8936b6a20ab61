"""The convolutions of `rocket` against convolutions written out, its ridge against fits written out."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.factories.small_models import hyper_of, train
from tests.factories.small_series import series_data
from training.trainer.errors import BadData
from training.trainer.models import Context, NoSession, TrainingData
from training.trainer.models.ridge import PENALTIES, fit_ridge, platt_scale, scaled_softmax
from training.trainer.models.rocket import fit
from training.trainer.models.rocket_kernels import (
    LENGTH,
    MAX_CHANNELS,
    TRIPLES,
    Kernels,
    Pair,
    dilations_of,
    fit_kernels,
)

Floats = NDArray[np.float64]


def nothing() -> None:
    """No tick."""


def kernels_for(x: NDArray[np.float32], num_features: int = 84 * 8, seed: int = 0) -> Kernels:
    return fit_kernels(x, num_features, np.random.default_rng(seed))


def random_series(n: int, channels: int, samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, channels, samples)).astype(np.float32)


def convolution_of(series: NDArray[np.float32], pair: Pair) -> Floats:
    """The convolution of one series (channels, samples), position by position."""
    weights = [2.0 if tap in TRIPLES[pair.kernel] else -1.0 for tap in range(LENGTH)]
    summed = series[list(pair.channels)].sum(axis=0, dtype=np.float64)
    reach = pair.dilation * (LENGTH // 2)
    centres = range(len(summed)) if pair.padded else range(reach, len(summed) - reach)

    def at(position: int) -> float:
        return float(summed[position]) if 0 <= position < len(summed) else 0.0

    return np.array(
        [
            sum(w * at(centre + (tap - LENGTH // 2) * pair.dilation) for tap, w in enumerate(weights))
            for centre in centres
        ]
    )


def test_there_are_84_kernels_that_no_constant_moves() -> None:
    assert len(TRIPLES) == 84
    for triple in TRIPLES:
        assert sum(2 if tap in triple else -1 for tap in range(LENGTH)) == 0


@pytest.mark.parametrize(("channels", "samples"), [(1, 9), (1, 40), (5, 40), (12, 17), (3, 6), (1, 300)])
def test_a_feature_is_the_share_of_the_convolution_above_its_bias(channels: int, samples: int) -> None:
    x = random_series(3, channels, samples)
    kernels = kernels_for(x)
    features = kernels.transform(x)
    assert features.shape == (len(kernels.biases), 3)
    for pair in itertools.islice(kernels.pairs(), 0, None, 11):
        for n, series in enumerate(x):
            out = convolution_of(series, pair)
            for feature in range(pair.first, pair.last):
                # One position may lie so close to the bias that the last bit decides.
                share = (out > kernels.biases[feature]).mean()
                assert abs(features[feature, n] - share) <= 1.01 / len(out)


def test_the_biases_of_a_pair_are_quantiles_of_its_convolution_of_one_training_series() -> None:
    x = random_series(1, 2, 30)
    kernels = kernels_for(x)
    golden = (np.sqrt(5) + 1) / 2
    for pair in itertools.islice(kernels.pairs(), 0, None, 13):
        quantiles = [(feature + 1) * golden % 1 for feature in range(pair.first, pair.last)]
        expected = np.quantile(convolution_of(x[0], pair), quantiles)
        assert kernels.biases[pair.first : pair.last] == pytest.approx(expected, abs=1e-5)


def test_half_of_the_pairs_pad() -> None:
    padded = [pair.padded for pair in kernels_for(random_series(2, 1, 60)).pairs()]
    assert sum(padded) == len(padded) / 2


def test_a_series_without_an_inside_is_always_padded() -> None:
    assert all(pair.padded for pair in kernels_for(random_series(2, 1, LENGTH - 1)).pairs())


@pytest.mark.parametrize("samples", [1, 2, 8, 9, 10, 24, 150, 1460])
@pytest.mark.parametrize("features", [1, 5, 32, 119])
def test_dilations_span_the_series_and_share_out_all_features(samples: int, features: int) -> None:
    dilations, shares = dilations_of(samples, features)
    assert shares.sum() == features
    assert (shares > 0).all()
    assert list(dilations) == sorted(set(dilations))
    assert dilations[0] == 1
    assert samples < LENGTH or (LENGTH - 1) * dilations[-1] < samples


def test_the_number_of_features_is_rounded_down_to_whole_kernels() -> None:
    x = random_series(2, 1, 30)
    assert len(kernels_for(x, 10_000).biases) == 9_996
    assert len(kernels_for(x, 84).biases) == 84
    assert len(kernels_for(x, 1).biases) == 84


@pytest.mark.parametrize("channels", [1, 2, 9, 78])
def test_each_pair_reads_a_few_different_channels(channels: int) -> None:
    kernels = kernels_for(random_series(2, channels, 20))
    sizes = [len(pair.channels) for pair in kernels.pairs()]
    assert min(sizes) == 1
    assert max(sizes) == min(channels, MAX_CHANNELS)
    for pair in kernels.pairs():
        assert list(pair.channels) == sorted(set(pair.channels))
        assert set(pair.channels) <= set(range(channels))
    assert {channel for pair in kernels.pairs() for channel in pair.channels} == set(range(channels))


def test_a_series_has_the_same_features_alone_as_among_others() -> None:
    x = random_series(2500, 2, 40)  # more than one block
    kernels = kernels_for(x, 84)
    together = kernels.transform(x)
    for n in (0, 1600, 2499):
        assert kernels.transform(x[n : n + 1])[:, 0].tolist() == together[:, n].tolist()


def test_a_constant_series_has_shares_of_nothing_or_everything_inside() -> None:
    x = np.full((2, 1, 40), 7, dtype=np.float32)
    kernels = kernels_for(x)
    features = kernels.transform(x)
    for pair in kernels.pairs():
        if not pair.padded:
            assert set(features[pair.first : pair.last].ravel()) <= {0.0, 1.0}


# --- ridge -----------------------------------------------------------------------------------------------------


def problem(n: int, features: int, n_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(4)
    classes = np.arange(n, dtype=np.int64) % n_classes
    raw = rng.uniform(size=(features, n)) + 0.3 * classes * (np.arange(features) % 3 == 0)[:, None]
    return raw.astype(np.float32), classes


def fitted(z: Floats, y: Floats, penalty: float) -> Callable[[Floats], Floats]:
    """Ridge with a free constant, by the normal equations."""
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    penalties = np.diag([penalty] * z.shape[1] + [0.0])
    solution = np.linalg.solve(design.T @ design + penalties, design.T @ y)
    return lambda rows: rows @ solution[:-1] + solution[-1]


@pytest.mark.parametrize(("n", "features"), [(12, 30), (40, 7), (20, 20)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_leaving_a_window_out_is_as_fitting_without_it(n: int, features: int, n_classes: int) -> None:
    raw, classes = problem(n, features, n_classes)
    ridge = fit_ridge(raw, classes, n_classes, nothing)
    z = ((raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)).T.astype(np.float64)
    wanted = [1] if n_classes == 2 else range(n_classes)
    y = np.stack([np.where(classes == one, 1.0, -1.0) for one in wanted], axis=1)

    def left_out(penalty: float) -> Floats:
        rest = [np.delete(np.arange(n), i) for i in range(n)]
        return np.array([fitted(z[rest[i]], y[rest[i]], penalty)(z[i]) for i in range(n)])

    errors = [float(((y - left_out(float(penalty))) ** 2).mean()) for penalty in PENALTIES]
    assert ridge.penalty == PENALTIES[int(np.argmin(errors))]
    decisions = left_out(ridge.penalty)
    shown = np.concatenate([-decisions, decisions], axis=1) / 2 if n_classes == 2 else decisions
    assert ridge.loo_decisions == pytest.approx(shown, abs=1e-4)
    whole = fitted(z, y, ridge.penalty)(z)
    assert raw.T.astype(np.float64) @ ridge.weights + ridge.intercepts == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("features", [3, 200])
def test_constant_features_get_no_weight(features: int) -> None:
    raw, classes = problem(30, features, 2)
    raw[1] = 0.25
    ridge = fit_ridge(raw, classes, 2, nothing)
    assert ridge.weights[1].tolist() == [0]
    assert np.isfinite(ridge.weights).all()


def test_windows_that_are_there_twice_harm_nothing() -> None:
    raw, classes = problem(20, 50, 2)
    ridge = fit_ridge(np.repeat(raw, 3, axis=1), np.repeat(classes, 3), 2, nothing)
    assert np.isfinite(ridge.loo_decisions).all()
    assert (ridge.probabilities(raw).argmax(axis=1) == classes).all()


def test_one_window_of_each_class_is_enough() -> None:
    raw, classes = problem(2, 50, 2)
    assert np.isfinite(fit_ridge(raw, classes, 2, nothing).probabilities(raw)).all()


def test_probabilities_are_as_sure_as_the_left_out_windows_were_right() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 400)
    right = rng.uniform(size=400) < 0.8
    signs = np.where(right, 1.0, -1.0) * np.where(classes == 1, 1.0, -1.0)
    decisions = np.stack([-signs, signs], axis=1)
    shares = scaled_softmax(decisions, platt_scale(decisions, classes))
    assert shares.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.01)


def test_classes_that_are_separated_give_a_finite_scale_and_wrong_decisions_the_least() -> None:
    classes = np.arange(40, dtype=np.int64) % 2
    decisions = np.eye(2)[classes] * 2 - 1
    assert 1 < platt_scale(decisions, classes) < 10
    assert platt_scale(-decisions, classes) == pytest.approx(0.01)


def test_labels_without_a_signal_leave_the_model_unsure() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2, 30)).astype(np.float32)
    y = rng.permutation(np.arange(60, dtype=np.int64) % 2)
    data = TrainingData(x, y, x[:0], y[:0])
    shares = train("rocket", data).predict(rng.normal(size=(200, 2, 30)).astype(np.float32))
    assert np.abs(shares - 0.5).mean() < 0.1


# --- the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "samples"), [(1, 6), (1, 8), (3, 9), (2, 300)])
def test_short_and_long_series_are_learnt_alike(channels: int, samples: int) -> None:
    data = series_data(channels=channels, samples=samples, train=80, validation=40)
    right = train("rocket", data).predict(data.validation_x).argmax(axis=1) == data.validation_y
    assert right.mean() >= 0.9


def test_a_constant_channel_harms_nothing() -> None:
    data = series_data()
    data.train_x[:, 1] = 3
    assert np.isfinite(train("rocket", data).predict(data.validation_x)).all()


def test_classes_that_are_not_in_the_training_side_get_a_column_all_the_same() -> None:
    data = series_data()
    three = TrainingData(data.train_x, data.train_y, data.validation_x, data.validation_y, n_classes=3)
    shares = train("rocket", three).predict(data.validation_x)
    assert shares.shape[1] == 3
    assert shares[:, 2].max() < 0.5


def test_series_without_samples_are_refused() -> None:
    data = series_data()
    empty = TrainingData(data.train_x[:, :, :0], data.train_y, data.validation_x[:, :, :0], data.validation_y)
    with pytest.raises(BadData, match=r"shape \(3, 0\); there is nothing to read"):
        fit(empty, hyper_of("rocket"), Context(1, NoSession()))


def test_windows_of_another_length_are_not_predicted() -> None:
    data = series_data()
    with pytest.raises(ValueError, match=r"shape \(3, 15\), expected \(channels, samples\) = \(3, 16\)"):
        train("rocket", data).predict(data.validation_x[:, :, 1:])
