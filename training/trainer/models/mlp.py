"""A multi-layer perceptron on standardised summary statistics, in numpy alone.

ReLU layers, one sigmoid output, binary cross-entropy, Adam with decoupled weight decay (Loshchilov and Hutter
2019). Dropout also hits the inputs: with more features than training windows a network otherwise learns
single columns by heart. All arithmetic is float32 on one BLAS thread, so that a seed gives the same bytes
each time.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from training.trainer.models import OnStep, Step, TrainingData
from training.trainer.options import HyperValue, Json

UNIT = "epoch"
MODEL_FILE = "model.safetensors"
ARCH_FILE = "arch.json"

CLIP = 5.0
"""Standardised features are cut at +-CLIP: a new host's outlier must not decide alone."""

Array = NDArray[np.float32]

_BETA_1, _BETA_2, _EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of the training features, float32 (features,)."""

    mean: Array
    sd: Array

    @staticmethod
    def of(features: Array) -> "Scaler":
        """Statistics of the training side; a column without spread is only centred."""
        sd = features.std(axis=0, dtype=np.float64).astype(np.float32)
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Scaler(mean, np.where(sd > 0, sd, np.float32(1)).astype(np.float32))

    def apply(self, features: Array) -> Array:
        """float32 (n, features), standardised and cut at +-CLIP."""
        scaled: Array = np.clip((features - self.mean) / self.sd, -CLIP, CLIP).astype(np.float32)
        return scaled


@dataclass
class Network:
    """Weights float32 (inputs, outputs) and biases float32 (outputs,) per layer; ReLU between layers."""

    weights: list[Array]
    biases: list[Array]

    @staticmethod
    def initial(sizes: Sequence[int], rng: np.random.Generator) -> "Network":
        """He initialisation (He et al. 2015); the output starts at 0, so the first guess is one half."""
        weights = [
            rng.standard_normal((n_in, n_out), dtype=np.float32) * np.float32(np.sqrt(2.0 / n_in))
            for n_in, n_out in itertools.pairwise(sizes)
        ]
        weights[-1] = np.zeros_like(weights[-1])
        return Network(weights, [np.zeros(n, dtype=np.float32) for n in sizes[1:]])

    def copy(self) -> "Network":
        """An independent copy."""
        return Network([w.copy() for w in self.weights], [b.copy() for b in self.biases])

    def logits(self, inputs: Array) -> Array:
        """Log-odds float32 (n,), without dropout."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = np.maximum(inputs @ weight + bias, np.float32(0))
        out: Array = (inputs @ self.weights[-1] + self.biases[-1])[:, 0]
        return out

    def gradients(
        self, inputs: Array, targets: Array, dropout: float, rng: np.random.Generator
    ) -> tuple[list[Array], list[Array], float]:
        """Gradients of the mean cross-entropy by weight and by bias, and that loss, under dropout."""
        layers: list[Array] = []
        masks: list[Array | None] = []
        current = inputs
        for weight, bias in zip(self.weights, self.biases, strict=True):
            mask = _dropout_mask(current.shape, dropout, rng)
            current = current if mask is None else current * mask
            layers.append(current)
            masks.append(mask)
            current = current @ weight + bias
            if weight is not self.weights[-1]:
                current = np.maximum(current, np.float32(0))
        logits = current[:, 0]
        delta = ((_sigmoid(logits) - targets) / np.float32(len(targets)))[:, None]
        by_weight: list[Array] = []
        by_bias: list[Array] = []
        for n in range(len(self.weights) - 1, -1, -1):
            by_weight.append(layers[n].T @ delta)
            by_bias.append(delta.sum(axis=0))
            if n:
                # A unit that was cut by ReLU or left out by dropout is 0 in `layers` and passes nothing back.
                mask = masks[n]
                delta = (delta @ self.weights[n].T) * (layers[n] > 0)
                delta = delta if mask is None else delta * mask
        return by_weight[::-1], by_bias[::-1], _cross_entropy(logits, targets)


def _dropout_mask(shape: tuple[int, ...], dropout: float, rng: np.random.Generator) -> Array | None:
    if dropout == 0:
        return None
    kept = rng.random(shape, dtype=np.float32) >= np.float32(dropout)
    return kept.astype(np.float32) / np.float32(1 - dropout)


def _sigmoid(logits: Array) -> Array:
    # Large |x| in float32 would overflow exp; beyond 30 the sigmoid is 0 or 1 to float32 anyway.
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def _cross_entropy(logits: Array, targets: Array) -> float:
    losses = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    return float(losses.mean(dtype=np.float64))


@dataclass
class _Adam:
    """One moment pair per parameter array; `step` changes the arrays in place."""

    learning_rate: float
    weight_decay: float
    first: list[Array] = field(default_factory=list)
    second: list[Array] = field(default_factory=list)
    count: int = 0

    def step(self, parameters: Sequence[Array], gradients: Sequence[Array], n_decayed: int) -> None:
        """Decay applies to the first `n_decayed` parameters: the weights, not the biases."""
        if not self.first:
            self.first = [np.zeros_like(p) for p in parameters]
            self.second = [np.zeros_like(p) for p in parameters]
        self.count += 1
        rate = np.float32(self.learning_rate)
        correct_1 = np.float32(1 - float(_BETA_1) ** self.count)
        correct_2 = np.float32(1 - float(_BETA_2) ** self.count)
        for n, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            self.first[n] = _BETA_1 * self.first[n] + (1 - _BETA_1) * gradient
            self.second[n] = _BETA_2 * self.second[n] + (1 - _BETA_2) * gradient**2
            if n < n_decayed:
                np.multiply(parameter, np.float32(1 - self.learning_rate * self.weight_decay), out=parameter)
            root = np.sqrt(self.second[n] / correct_2) + _EPSILON
            np.subtract(parameter, rate * (self.first[n] / correct_1) / root, out=parameter)


def _clip(gradients: Sequence[Array], largest: float) -> Sequence[Array]:
    norm = float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients)))
    if largest == 0 or norm <= largest:
        return gradients
    return [g * np.float32(largest / norm) for g in gradients]


class Mlp:
    """A trained network with the scaler of its training side."""

    def __init__(self, network: Network, scaler: Scaler) -> None:
        self._network = network
        self._scaler = scaler

    def predict(self, features: Array) -> NDArray[np.float64]:
        """Probability that each row is suspicious."""
        return _sigmoid(self._network.logits(self._scaler.apply(features))).astype(np.float64)

    def files(self) -> Mapping[str, bytes]:
        """Weights as safetensors, and the shape of the network as JSON."""
        tensors = {f"layer{n}.weight": w for n, w in enumerate(self._network.weights)}
        tensors |= {f"layer{n}.bias": b for n, b in enumerate(self._network.biases)}
        sizes = [len(self._network.weights[0]), *(len(b) for b in self._network.biases)]
        arch = {"activation": "relu", "output": "sigmoid", "sizes": sizes}
        return {
            MODEL_FILE: save_tensors(tensors),
            ARCH_FILE: (json.dumps(arch, sort_keys=True, indent=2) + "\n").encode(),
        }

    def preprocess(self) -> Mapping[str, Json]:
        """Mean and standard deviation per feature: nine digits give a float32 back exactly."""
        mean: list[Json] = [float(f"{x:.9g}") for x in self._scaler.mean]
        sd: list[Json] = [float(f"{x:.9g}") for x in self._scaler.sd]
        return {"standardise": {"mean": mean, "sd": sd, "clip": CLIP}}


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], seed: int, threads: int, on_step: OnStep) -> Mlp:
    """Train for `epochs`; with `patience`, stop when validation has not improved that long and go back to the
    best epoch. `threads` is not used: the matrices are too small to gain from it."""
    rng = np.random.Generator(np.random.PCG64(seed))
    scaler = Scaler.of(data.train_x)
    train_x, validation_x = scaler.apply(data.train_x), scaler.apply(data.validation_x)
    smoothing = _number(hyper, "label_smoothing")
    train_y = (data.train_y * (1 - 2 * smoothing) + smoothing).astype(np.float32)
    validation_y = data.validation_y.astype(np.float32)
    network = Network.initial([train_x.shape[1], *cast(list[int], hyper["hidden"]), 1], rng)
    adam = _Adam(_number(hyper, "learning_rate"), _number(hyper, "weight_decay"))
    epochs, patience = int(_number(hyper, "epochs")), int(_number(hyper, "patience"))
    best, best_loss, best_epoch = network, float("inf"), 0
    for epoch in range(1, epochs + 1):
        loss = _epoch(network, adam, train_x, train_y, hyper, rng)
        validation_loss = _cross_entropy(network.logits(validation_x), validation_y)
        on_step(Step(epoch, epochs, loss, validation_loss))
        if patience and validation_loss < best_loss:
            best, best_loss, best_epoch = network.copy(), validation_loss, epoch
        elif patience and epoch - best_epoch >= patience:
            break
    return Mlp(best, scaler)


def _epoch(
    network: Network,
    adam: _Adam,
    inputs: Array,
    targets: Array,
    hyper: Mapping[str, HyperValue],
    rng: np.random.Generator,
) -> float:
    """One pass over the windows in a new order; returns the mean loss under dropout."""
    batch, dropout = int(_number(hyper, "batch_size")), _number(hyper, "dropout")
    order = rng.permutation(len(inputs))
    total = 0.0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        by_weight, by_bias, loss = network.gradients(inputs[rows], targets[rows], dropout, rng)
        gradients = _clip([*by_weight, *by_bias], _number(hyper, "grad_clip"))
        adam.step([*network.weights, *network.biases], gradients, n_decayed=len(network.weights))
        total += loss * len(rows)
    return total / len(order)


def _number(hyper: Mapping[str, HyperValue], name: str) -> float:
    return float(cast(float, hyper[name]))


def load(folder: Path, preprocess: Mapping[str, Json]) -> Mlp:
    """Read back what `files` and `preprocess` gave."""
    tensors = load_tensors((folder / MODEL_FILE).read_bytes())
    n_layers = len(tensors) // 2
    network = Network(
        [tensors[f"layer{n}.weight"] for n in range(n_layers)],
        [tensors[f"layer{n}.bias"] for n in range(n_layers)],
    )
    standardise = cast(Mapping[str, list[float]], preprocess["standardise"])
    mean, sd = (np.array(standardise[name], dtype=np.float32) for name in ("mean", "sd"))
    return Mlp(network, Scaler(mean, sd))
