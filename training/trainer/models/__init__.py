"""The models: what one is given, what it gives back, and how it may be interrupted.

Each model is one module of this package, or of another package that offers it as an entry point (see
`training.trainer.registry`), plus its row in the options table. `module_of` imports it only when it is needed,
for LightGBM and torch take seconds to import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from training.trainer.errors import BadConfig, Unavailable
from training.trainer.options import MODELS, HyperValue, Json

if TYPE_CHECKING:  # --describe reads this module too, and must not pay for numpy
    import numpy as np
    from numpy.typing import NDArray

Inputs = Literal["summary", "series"]
"""What a model reads of a window: `summary` float32 (features,), the statistics of `features.summarise`, or
`series` float32 (channels, samples), the channels on a regular grid in time."""

Device = Literal["cpu", "cuda"]

State = Callable[[], Mapping[str, bytes]]
"""Gives the files of a checkpoint: everything that decides the rest of the training. None of them where
there is nothing yet to go on from, or nothing ever, as in a model that is solved in one step."""


@dataclass(frozen=True)
class TrainingData:
    """Windows float32 (windows, features) or (windows, channels, samples), see `Inputs`, and the class of each,
    int64 (windows,), from 0 to n_classes - 1. In the fleet 0 is benign and 1 suspicious.

    Validation is only watched, never fitted to; it may have no rows.
    """

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    validation_x: NDArray[np.float32]
    validation_y: NDArray[np.int64]
    n_classes: int = 2


@dataclass(frozen=True)
class Step:
    """One finished step of training: `step` counts from 1 to `total`; `loss` is the training loss. The
    validation loss is None without a validation side."""

    step: int
    total: int
    loss: float
    validation_loss: float | None = None


class UnusableState(ValueError):
    """`fit` cannot go on from the state that `resume` gave it: it is not one of its own."""


class Session(Protocol):
    """What a training asks of the program around it. Each method may raise to end the training; `fit` lets that
    through."""

    def start(self, total: int, unit: str) -> None:
        """`total` steps are to come; a unit is `round`, `epoch` or `step`. Once, before anything else."""
        ...

    def resume(self) -> Mapping[str, bytes] | None:
        """The files of the newest checkpoint of this very training, None without one. `fit` raises UnusableState
        for one that it cannot use."""
        ...

    def refuse(self, why: str) -> None:
        """That checkpoint was not usable: `resume` gives None from now on."""
        ...

    def tick(self, state: State) -> None:
        """Between two units of work, about once a second or more often: saves `state()` when a checkpoint is
        due, and when the training is to stop, in which case it raises Preempted after that."""
        ...

    def step(self, step: Step, state: State) -> None:
        """A step is done: `tick`, and a line of progress."""
        ...


class NoSession:
    """A session that nobody watches: for tests and benchmarks."""

    def start(self, total: int, unit: str) -> None:
        """Nothing is shown."""

    def resume(self) -> Mapping[str, bytes] | None:
        """There is never a checkpoint."""
        return None

    def refuse(self, why: str) -> None:
        """There was none."""

    def tick(self, state: State) -> None:
        """Nothing is saved."""

    def step(self, step: Step, state: State) -> None:
        """Nothing is shown."""


@dataclass(frozen=True)
class Context:
    """Where and how to train. `threads` are what the host gives: no result may depend on it."""

    seed: int
    session: Session
    device: Device = "cpu"
    threads: int = 1


class Trained(Protocol):
    """A trained model."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of each class for windows of the kind that it was trained on: float64 (n, n_classes),
        each row adding up to 1."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """The model as files, name to content; the same training gives the same bytes."""
        ...

    def preprocess(self) -> Mapping[str, Json]:
        """What it does to the windows before it uses them, for `preprocess.json`."""
        ...


class ModelModule(Protocol):
    """What the module of a model offers."""

    def reads(self, hyper: Mapping[str, HyperValue]) -> Inputs:
        """Which kind of windows it is to be given."""
        ...

    def fit(self, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> Trained:
        """Train. `hyper` is complete. Raises what the session raises, BadConfig for options that cannot work on
        this data, UnusableState for a checkpoint that it cannot go on from."""
        ...

    def load(self, folder: Path, preprocess: Mapping[str, Json]) -> Trained:
        """Read back what `files` and `preprocess` gave, always on the CPU."""
        ...


def module_of(model: str) -> ModelModule:
    """The module of a model of the options table. Raises Unavailable when a library of it is missing here,
    BadConfig for a module that is no model."""
    name = MODELS[model].module
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "training", "cis490"):
            raise  # a defect of this checkout: no package helps against it
        raise Unavailable(
            f"{model} needs {package}, which this Python lacks; {_install(model, package)}"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{model}: a shared library does not load ({error}); on Debian: apt-get install libgomp1"
        ) from error
    missing = [name for name in ("reads", "fit", "load") if not callable(getattr(module, name, None))]
    if missing:
        raise BadConfig(f"model {model}: its module {name} has no {', '.join(missing)}; it is no model")
    return cast(ModelModule, module)


def _install(model: str, package: str) -> str:
    plugin = MODELS[model].plugin
    if plugin and package not in MODELS[model].needs.libraries:
        return f"install {plugin} again"
    return f"pip install {package}"
