"""A multi-layer perceptron and Adam, in numpy alone.

All parameters lie in one vector, and so do their gradients and moments: a step of Adam is then a few operations
on long vectors, and a checkpoint is three of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_BETA_1, _BETA_2, _EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)


class Network:
    """ReLU layers of the given `sizes`, the first of them the inputs.

    `parameters` float32 holds all weights, then all biases; `weights` (inputs, outputs) and `biases` (outputs,) are
    views into it. With one output it is the log-odds of class 1, else there is one logit per class.
    """

    def __init__(self, sizes: Sequence[int], parameters: Array | None = None) -> None:
        self.sizes = tuple(sizes)
        self.n_weights, size = _counts(sizes)
        self.parameters = np.zeros(size, dtype=np.float32) if parameters is None else parameters
        if self.parameters.shape != (size,):
            raise ValueError(f"{self.parameters.shape} parameters for a network of {self.sizes}")
        self.weights, self.biases = _views(self.parameters, self.sizes)

    @classmethod
    def initial(cls, sizes: Sequence[int], rng: np.random.Generator) -> Network:
        """He initialisation (He et al. 2015); the output starts at 0, so that all classes are as likely."""
        network = cls(sizes)
        for weight in network.weights[:-1]:
            weight[:] = rng.standard_normal(weight.shape, dtype=np.float32) * np.float32(
                np.sqrt(2.0 / len(weight))
            )
        return network

    def copy(self) -> Network:
        """An independent copy."""
        return Network(self.sizes, self.parameters.copy())

    def logits(self, inputs: Array) -> Array:
        """float32 (n, outputs), without dropout."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = np.maximum(inputs @ weight + bias, np.float32(0))
        out: Array = inputs @ self.weights[-1] + self.biases[-1]
        return out

    def gradient(
        self, inputs: Array, targets: Array, dropout: float, rng: np.random.Generator
    ) -> tuple[Array, float]:
        """Gradient of the mean cross-entropy, laid out like `parameters`, and that loss, under dropout.

        `targets` float32 (n, outputs). Dropout hits the inputs and the hidden units.
        """
        layers: list[Array] = []
        masks: list[Array | None] = []
        current = inputs
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            mask = _dropout_mask(current.shape, dropout, rng)
            current = current if mask is None else current * mask
            layers.append(current)
            masks.append(mask)
            current = current @ weight
            current += bias
            if number < len(self.weights):
                np.maximum(current, np.float32(0), out=current)
        gradient = np.empty_like(self.parameters)
        by_weight, by_bias = _views(gradient, self.sizes)
        delta = (probabilities(current) - targets) / np.float32(len(targets))
        for n in range(len(self.weights) - 1, -1, -1):
            np.matmul(layers[n].T, delta, out=by_weight[n])
            np.add.reduce(delta, axis=0, out=by_bias[n])
            if n:
                # A unit that was cut by ReLU or left out by dropout is 0 in `layers` and passes nothing back.
                mask = masks[n]
                delta = delta @ self.weights[n].T
                delta *= layers[n] > 0
                delta = delta if mask is None else delta * mask
        return gradient, cross_entropy(current, targets)


def _counts(sizes: Sequence[int]) -> tuple[int, int]:
    n_weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
    return n_weights, n_weights + sum(sizes[1:])


def _views(flat: Array, sizes: Sequence[int]) -> tuple[list[Array], list[Array]]:
    weights: list[Array] = []
    biases: list[Array] = []
    at = 0
    for n_in, n_out in itertools.pairwise(sizes):
        weights.append(flat[at : at + n_in * n_out].reshape(n_in, n_out))
        at += n_in * n_out
    for n_out in sizes[1:]:
        biases.append(flat[at : at + n_out])
        at += n_out
    return weights, biases


def _dropout_mask(shape: tuple[int, ...], dropout: float, rng: np.random.Generator) -> Array | None:
    if dropout == 0:
        return None
    kept = rng.random(shape, dtype=np.float32) >= np.float32(dropout)
    return kept.astype(np.float32) / np.float32(1 - dropout)


def probabilities(logits: Array) -> Array:
    """float32 of the shape of `logits`: a sigmoid for one column, else a softmax in each row."""
    if logits.shape[1] == 1:
        # Large |x| in float32 would overflow exp; beyond 30 the sigmoid is 0 or 1 to float32 anyway.
        return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def cross_entropy(logits: Array, targets: Array) -> float:
    """Mean over the rows, for targets of the shape of `logits`; NaN for logits that are no numbers."""
    if logits.shape[1] == 1:
        losses = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
        return float(losses.mean(dtype=np.float64))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(targets * log_shares).sum(axis=1).mean(dtype=np.float64))


_BLOCK = 16_384
"""Parameters that Adam changes at a time: with all that belongs to them they stay in the processor's cache."""


class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in place on one vector of parameters."""

    def __init__(self, size: int) -> None:
        self.first = np.zeros(size, dtype=np.float32)
        self.second = np.zeros(size, dtype=np.float32)

    def step(
        self,
        parameters: Array,
        gradient: Array,
        count: int,
        learning_rate: float,
        decay: float,
        n_decayed: int,
    ) -> None:
        """Step number `count`, from 1. Decay applies to the first `n_decayed` parameters: the weights, not the
        biases. Overwrites `gradient`."""
        if decay:
            parameters[:n_decayed] *= np.float32(1 - learning_rate * decay)
        rate = np.float32(learning_rate / (1 - float(_BETA_1) ** count))
        correct_2 = np.float32(np.sqrt(1 - float(_BETA_2) ** count))
        spare = np.empty(min(_BLOCK, len(parameters)), dtype=np.float32)
        for at in range(0, len(parameters), _BLOCK):
            block = slice(at, at + _BLOCK)
            first, second, slope = self.first[block], self.second[block], gradient[block]
            change = spare[: len(slope)]
            np.multiply(slope, 1 - _BETA_1, out=change)
            first *= _BETA_1
            first += change
            slope *= slope
            slope *= 1 - _BETA_2
            second *= _BETA_2
            second += slope
            np.sqrt(second, out=change)
            change /= correct_2
            change += _EPSILON
            np.divide(first, change, out=change)
            change *= rate
            parameters[block] -= change


def clipped(gradient: Array, largest: float) -> Array:
    """The gradient, in place, shortened to a norm of at most `largest`; 0 clips nothing."""
    if largest:
        norm = float(np.sqrt(np.dot(gradient, gradient)))
        if norm > largest:
            gradient *= np.float32(largest / norm)
    return gradient
