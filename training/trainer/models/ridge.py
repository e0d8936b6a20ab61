"""Ridge regression onto class targets in closed form, its penalty chosen by leaving each window out once.

With features Z (standardised) and targets y of +1 and -1, one column per class (one column for two classes),
all leave-one-out errors come out of one eigendecomposition (Golub, Heath and Wahba, "Generalized
Cross-Validation", Technometrics 21, 1979; the constant is fitted and not penalised). The penalty with the least
mean squared error wins. The decisions made for left-out windows then scale decisions into probabilities, after
Platt (1999): decisions on windows that were fitted would look far too sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES: Floats = np.logspace(-3, 3, 10)
"""The grid of the MiniRocket paper's classifier."""

_BLOCK = 1024
"""Features that are standardised at a time: all of them in float64 would double the memory."""


@dataclass(frozen=True)
class Ridge:
    """Decisions = features @ `weights` + `intercepts`, with raw features float (n, features); `weights` float32
    (features, columns), `intercepts` float64 (columns,). Probabilities are softmax(`scale` * decisions).

    `loo_decisions` float64 (n, classes) are those of the training windows, each made without it.
    """

    weights: NDArray[np.float32]
    intercepts: Floats
    scale: float
    penalty: float
    loo_decisions: Floats

    def probabilities(self, features: NDArray[np.float32]) -> Floats:
        """float64 (n, classes) for features float32 (features, n)."""
        decisions = self.weights.astype(np.float64).T @ features.astype(np.float64)
        return scaled_softmax(per_class(decisions.T + self.intercepts), self.scale)


def fit_ridge(
    features: NDArray[np.float32], classes: NDArray[np.int64], n_classes: int, tick: Callable[[], None]
) -> Ridge:
    """Fit to features float32 (features, n) and their classes. Constant features get no weight.

    Costs min(features, n) cubed, and features * n * min(features, n).
    """
    targets = _targets(classes, n_classes)
    mean = features.mean(axis=1, dtype=np.float64)
    sd = features.std(axis=1, dtype=np.float64)
    sd[sd < 1e-9] = np.inf  # standardises a constant feature to 0
    centre = targets.mean(axis=0)
    problem = _decomposed(features, mean, sd, tick)
    rotated = problem.vectors.T @ (targets - centre)
    left_over = None if problem.is_complete else targets - centre - problem.vectors @ rotated
    errors = [_loo_errors(problem, rotated, left_over, float(penalty)) for penalty in PENALTIES]
    best = int(np.argmin([float((error**2).mean()) for error in errors]))
    penalty = float(PENALTIES[best])
    tick()
    dual = problem.vectors @ (rotated / (problem.values + penalty)[:, None])
    weights = np.concatenate([block @ dual for _, block in _standardised(features, mean, sd)])
    weights = (weights / sd[:, None]).astype(np.float32)
    intercepts = centre - mean @ weights.astype(np.float64)
    loo = per_class(targets - errors[best])
    return Ridge(weights, intercepts, platt_scale(loo, classes), penalty, loo)


def _targets(classes: NDArray[np.int64], n_classes: int) -> Floats:
    """+1 and -1: one column for two classes, else one per class."""
    wanted = np.array([1]) if n_classes == 2 else np.arange(n_classes)
    return np.where(classes[:, None] == wanted, 1.0, -1.0)


def per_class(decisions: Floats) -> Floats:
    """float64 (n, classes): the one column of two classes becomes two that differ by it."""
    return np.concatenate([-decisions, decisions], axis=1) / 2 if decisions.shape[1] == 1 else decisions


def _standardised(features: NDArray[np.float32], mean: Floats, sd: Floats) -> Iterator[tuple[int, Floats]]:
    for at in range(0, len(features), _BLOCK):
        rows = slice(at, at + _BLOCK)
        yield at, (features[rows].astype(np.float64) - mean[rows, None]) / sd[rows, None]


@dataclass(frozen=True)
class _Decomposed:
    """Z Z' = vectors * values * vectors' for n windows, without the constant vector, which the intercept takes.
    `is_complete`: with the constant, the vectors span everything."""

    values: Floats
    vectors: Floats
    is_complete: bool


def _decomposed(
    features: NDArray[np.float32], mean: Floats, sd: Floats, tick: Callable[[], None]
) -> _Decomposed:
    n_features, n = features.shape
    if n <= n_features:
        gram = np.zeros((n, n))
        for _, block in _standardised(features, mean, sd):
            tick()
            gram += block.T @ block
        # The features are centred, so the constant vector has eigenvalue 0 and could mix with others that have. A
        # value above all others sets it apart.
        gram += (2 * np.trace(gram) + 1) / n
        tick()
        values, vectors = np.linalg.eigh(gram)
        return _Decomposed(np.maximum(values[:-1], 0), vectors[:, :-1], is_complete=True)
    whole = np.concatenate([block for _, block in _standardised(features, mean, sd)])
    tick()
    values, axes = np.linalg.eigh(whole @ whole.T)
    kept = values > n * np.finfo(np.float64).eps * max(float(values[-1]), 1e-300)
    vectors = (whole.T @ axes[:, kept]) / np.sqrt(values[kept])
    return _Decomposed(values[kept], vectors, is_complete=False)


def _loo_errors(problem: _Decomposed, rotated: Floats, left_over: Floats | None, penalty: float) -> Floats:
    """Target less the prediction without that window, float64 (n, columns).

    It is the residual over 1 - h, with h the window's leverage. Both are sums of what the penalty takes away along
    each axis, which loses no digits where the penalty is small and the residuals are nearly 0.
    """
    taken = penalty / (problem.values + penalty)
    residuals = problem.vectors @ (rotated * taken[:, None])
    slack = (problem.vectors**2) @ taken
    if left_over is not None:
        residuals = residuals + left_over
        slack = slack + 1 - 1 / len(slack) - (problem.vectors**2).sum(axis=1)
    return residuals / np.maximum(slack, 1e-12)[:, None]


def scaled_softmax(decisions: Floats, scale: float) -> Floats:
    """Rows that add up to 1."""
    logits = scale * decisions
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def platt_scale(decisions: Floats, classes: NDArray[np.int64]) -> float:
    """The factor that makes softmax(factor * decisions) most likely, from 0.01 to 1000.

    A class counts as (n + 1) / (n + 2) sure instead of 1, as with Platt, so that separated classes do not ask for
    an infinite factor. There is no offset: the largest decision stays the most likely class.
    """
    n_classes = decisions.shape[1]
    counts = np.bincount(classes, minlength=n_classes)
    sure = ((counts + 1) / (counts + 2))[classes]
    wanted = np.repeat(((1 - sure) / (n_classes - 1))[:, None], n_classes, axis=1)
    wanted[np.arange(len(classes)), classes] = sure
    low, high = np.log(0.01), np.log(1000.0)
    # The loss is convex in the factor; its slope is the sum of (softmax - wanted) * decisions.
    for _ in range(50):
        middle = (low + high) / 2
        slope = float(((scaled_softmax(decisions, float(np.exp(middle))) - wanted) * decisions).sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def cross_entropy(probabilities: Floats, classes: NDArray[np.int64]) -> float:
    """Mean of -log of the probability of the right class."""
    right = probabilities[np.arange(len(classes)), classes]
    return float(-np.log(np.maximum(right, 1e-300)).mean())
