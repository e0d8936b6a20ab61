"""The models. Each module has `fit(data, hyper, seed, threads, on_step) -> Trained` and `load(folder) ->
Trained`; `module_of` imports it only when it is needed, for LightGBM alone takes seconds to import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.trainer.errors import Unavailable
from training.trainer.options import IMPLEMENTED, HyperValue, Json


@dataclass(frozen=True)
class TrainingData:
    """Features float32 (windows, features) and labels bool (windows,). Validation is only watched."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.bool_]
    validation_x: NDArray[np.float32]
    validation_y: NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """One finished step of training: `step` counts from 1 to `total`; `loss` is the training loss."""

    step: int
    total: int
    loss: float
    validation_loss: float


OnStep = Callable[[Step], None]
"""Called after each step. It may raise to stop the training; `fit` lets that through."""


class Trained(Protocol):
    """A trained model."""

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability that each row is suspicious: float32 (n, features) -> float64 (n,)."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """The model as files, name to content; the same training gives the same bytes."""
        ...

    def preprocess(self) -> Mapping[str, Json]:
        """What it does to the features before it uses them, for `preprocess.json`."""
        ...


class ModelModule(Protocol):
    """What a module of this package offers. `UNIT` is what progress counts: `round` or `epoch`."""

    UNIT: str

    def fit(
        self, data: TrainingData, hyper: Mapping[str, HyperValue], seed: int, threads: int, on_step: OnStep
    ) -> Trained:
        """Train. The result does not depend on `threads`."""
        ...

    def load(self, folder: Path, preprocess: Mapping[str, Json]) -> Trained:
        """Read back what `files` and `preprocess` gave."""
        ...


def module_of(model: str) -> ModelModule:
    """The module of an implemented model. Raises Unavailable when there is none, or its library is
    missing."""
    try:
        if model == "gbt":
            from training.trainer.models import gbt

            return gbt
        if model == "mlp":
            from training.trainer.models import mlp

            return mlp
    except ImportError as error:
        package = (error.name or "the package").partition(".")[0]
        raise Unavailable(
            f"{model} needs {package}, which this Python lacks; pip install {package}"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{model}: a shared library does not load ({error}); on Debian: apt-get install libgomp1"
        ) from error
    raise Unavailable(f"this trainer has no model {model!r} yet; it trains {', '.join(IMPLEMENTED)}")
