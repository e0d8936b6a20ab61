"""Fixed convolutions with a closed-form ridge classifier: no steps, no learning rate, seconds to train.

The transform is that of `rocket_kernels`, the classifier that of `ridge`. Channels are standardised first, for a
pair of kernel and dilation adds channels up.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from training.trainer.models import Context, Inputs, Step, TrainingData
from training.trainer.models.checks import check_data
from training.trainer.models.ridge import Ridge, cross_entropy, fit_ridge, scaled_softmax
from training.trainer.models.rocket_kernels import LENGTH, Kernels, fit_kernels, kernels_of, tensors_of
from training.trainer.models.scaling import SeriesScaler
from training.trainer.models.tensors import save_tensors
from training.trainer.options import HyperValue, Json

MODEL_FILE = "model.safetensors"
ARCH_FILE = "arch.json"

_DRAW = 1
"""Purpose of the generator; each is seeded with [seed, purpose, step]."""


class Rocket:
    """A fitted classifier with its kernels and the scaler of its training side."""

    def __init__(self, scaler: SeriesScaler, kernels: Kernels, ridge: Ridge) -> None:
        self._scaler = scaler
        self._kernels = kernels
        self._ridge = ridge

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """See `Trained`. Raises ValueError for windows of another shape than it was trained on."""
        expected = (self._kernels.n_channels, self._kernels.samples)
        if x.shape[1:] != expected:
            raise ValueError(f"windows of shape {x.shape[1:]}, expected (channels, samples) = {expected}")
        return self._ridge.probabilities(self._kernels.transform(self._scaler.apply(x)))

    def files(self) -> Mapping[str, bytes]:
        """Kernels and weights as safetensors; what they are as JSON."""
        ridge = self._ridge
        tensors = {
            **tensors_of(self._kernels),
            "ridge.weights": ridge.weights,
            "ridge.intercepts": ridge.intercepts,
            "ridge.scale": np.array([ridge.scale]),
        }
        arch = {
            "channels": self._kernels.n_channels,
            "features": len(self._kernels.biases),
            "kernel_length": LENGTH,
            "output": "softmax of scale * decisions; two classes share one column of weights",
            "penalty": float(f"{ridge.penalty:.9g}"),
            "samples": self._kernels.samples,
        }
        return {
            MODEL_FILE: save_tensors(tensors),
            ARCH_FILE: (json.dumps(arch, sort_keys=True, indent=2) + "\n").encode(),
        }

    def preprocess(self) -> Mapping[str, Json]:
        """Mean and standard deviation per channel."""
        return self._scaler.preprocess()


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """Always the series."""
    return "series"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> Rocket:
    """Transform, then solve. There is nothing to resume: a stopped training starts anew."""
    check_data("rocket", data, "series")
    session = context.session
    session.start(1, "step")

    def tick() -> None:
        session.tick(dict)

    scaler = SeriesScaler.of(data.train_x)
    train_x = scaler.apply(data.train_x)
    rng = np.random.Generator(np.random.PCG64([context.seed, _DRAW, 0]))
    kernels = fit_kernels(train_x, int(cast(int, hyper["num_features"])), rng)
    ridge = fit_ridge(kernels.transform(train_x, tick), data.train_y, data.n_classes, tick)
    trained = Rocket(scaler, kernels, ridge)
    loss = cross_entropy(scaled_softmax(ridge.loo_decisions, ridge.scale), data.train_y)
    validation_loss = (
        cross_entropy(trained.predict(data.validation_x), data.validation_y)
        if len(data.validation_y)
        else None
    )
    session.step(Step(1, 1, loss, validation_loss), dict)
    return trained


def load(folder: Path, preprocess: Mapping[str, Json]) -> Rocket:
    """Read back what `files` and `preprocess` gave."""
    tensors = load_tensors((folder / MODEL_FILE).read_bytes())
    arch = json.loads((folder / ARCH_FILE).read_text(encoding="utf-8"))
    ridge = Ridge(
        weights=tensors["ridge.weights"],
        intercepts=tensors["ridge.intercepts"],
        scale=float(tensors["ridge.scale"][0]),
        penalty=float(arch["penalty"]),
        loo_decisions=np.empty((0, max(2, len(tensors["ridge.intercepts"])))),
    )
    kernels = kernels_of(tensors, int(arch["channels"]), int(arch["samples"]))
    return Rocket(SeriesScaler.from_preprocess(preprocess), kernels, ridge)
