"""Small series with a class that can be learnt, short trainings of the torch models, and sessions that interrupt
them. Imports no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.trainer.errors import Preempted
from training.trainer.models import (
    Context,
    Device,
    NoSession,
    Session,
    State,
    Step,
    Trained,
    TrainingData,
    module_of,
)
from training.trainer.options import HyperValue, effective_hyper

TORCH_MODELS = ("cnn", "gru", "tcn", "transformer")

SMALL: Mapping[str, Mapping[str, HyperValue]] = {
    "cnn": {"channels": [8, 8], "kernels": [5, 3]},
    "gru": {"hidden": 12, "patch": 4, "dropout": 0.0},
    "tcn": {"channels": 8, "blocks": 2, "dropout": 0.1},
    "transformer": {"d_model": 16, "heads": 2, "layers": 1, "patch": 4, "dropout": 0.1},
}
"""A network of each kind that trains in a moment."""

_COMMON: Mapping[str, HyperValue] = {"epochs": 3, "batch_size": 12, "learning_rate": 0.01}


def series_data(
    *, n_classes: int = 2, channels: int = 3, samples: int = 16, train: int = 40, validation: int = 20
) -> TrainingData:
    """The class is the frequency of a sine on the first channel, which has an offset and a scale of its own; the
    others hold noise."""
    rng = np.random.default_rng(5)

    def side(n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = np.arange(n, dtype=np.int64) % n_classes
        x = rng.normal(0, 0.3, (n, channels, samples))
        phase = rng.uniform(0, 2 * np.pi, n)[:, None]
        x[:, 0] += np.sin(2 * np.pi * (1 + 2 * labels[:, None]) * np.arange(samples) / samples + phase)
        x[:, 0] = 1000 + 50 * x[:, 0]
        return x.astype(np.float32), labels

    return TrainingData(*side(train), *side(validation), n_classes)


def hyper_of(model: str, **given: Any) -> Mapping[str, HyperValue]:
    """The complete options of a small, short training."""
    return effective_hyper(model, {**_COMMON, **SMALL[model], **given})


def train(
    model: str,
    data: TrainingData | None = None,
    *,
    session: Session | None = None,
    seed: int = 1,
    threads: int = 1,
    device: Device = "cpu",
    **given: Any,
) -> Trained:
    """Train a small network of a model."""
    context = Context(seed, session or NoSession(), device, threads)
    return module_of(model).fit(data or series_data(), hyper_of(model, **given), context)


class Recorded(NoSession):
    """Remembers the steps it was told about."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, step: Step, state: State) -> None:
        """See `Session`."""
        self.steps.append(step)


class Interrupted(NoSession):
    """Begins with a checkpoint, if given one; at tick number `stop_at`, counted from 1, takes one and ends the
    training. `ticks` counts on, so 0 only counts."""

    def __init__(self, stop_at: int, files: Mapping[str, bytes] | None = None) -> None:
        self.ticks = 0
        self.files = files
        self._stop_at = stop_at

    def resume(self) -> Mapping[str, bytes] | None:
        """See `Session`."""
        return self.files

    def tick(self, state: State) -> None:
        """See `Session`."""
        self.ticks += 1
        if self.ticks == self._stop_at:
            self.files = state()
            raise Preempted("stopped by the test")

    def step(self, step: Step, state: State) -> None:
        """See `Session`."""
        self.tick(state)


def stopped(model: str, stop_at: int, *, device: Device = "cpu", **given: Any) -> Mapping[str, bytes]:
    """The checkpoint of a training that was stopped at a tick."""
    session = Interrupted(stop_at)
    try:
        train(model, session=session, device=device, **given)
    except Preempted:
        assert session.files is not None
        return session.files
    raise AssertionError(f"{model}: the training ended before tick {stop_at}")
