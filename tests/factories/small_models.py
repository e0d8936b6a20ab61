"""Short trainings of the models that need no torch, and the data they can learn from."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tests.factories.small_series import Interrupted, series_data
from training.trainer.errors import Preempted
from training.trainer.models import Context, NoSession, Session, Trained, TrainingData, module_of
from training.trainer.options import HyperValue, effective_hyper

CASES: Mapping[str, tuple[str, Mapping[str, HyperValue]]] = {
    "gbt": ("gbt", {"rounds": 20, "min_data_in_leaf": 5}),
    "mlp": ("mlp", {"epochs": 15, "hidden": [8], "learning_rate": 0.01}),
    "mlp on raw windows": (
        "mlp",
        {
            "inputs": "raw",
            "epochs": 30,
            "hidden": [16],
            "learning_rate": 0.01,
            "schedule": "cosine",
            "dropout": 0.1,
        },
    ),
    "rocket": ("rocket", {"num_features": 252}),
}
"""A short training of each kind: the model and its options."""

ITERATIVE = tuple(case for case in CASES if case != "rocket")


_NOTHING: Mapping[str, HyperValue] = MappingProxyType({})


def summary_data(
    *, n_classes: int = 2, train: int = 200, validation: int = 40, seed: int = 0
) -> TrainingData:
    """Two of six features carry the class, on very different scales."""
    rng = np.random.default_rng(seed)

    def side(n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = (np.arange(n, dtype=np.int64) + 1) % n_classes
        features = rng.normal(0, 1, (n, 6))
        features[:, 0] += 2 * labels
        features[:, 1] = 1000 * (features[:, 1] - 2 * labels)
        return features.astype(np.float32), labels

    return TrainingData(*side(train), *side(validation), n_classes)


def hyper_of(case: str, given: Mapping[str, HyperValue] = _NOTHING) -> Mapping[str, HyperValue]:
    """The complete options of a short training."""
    model, hyper = CASES[case]
    return effective_hyper(model, {**hyper, **given})


def data_of(case: str, *, n_classes: int = 2, validation: int = 40) -> TrainingData:
    """Data of the kind that the training reads."""
    if module_of(CASES[case][0]).reads(hyper_of(case)) == "summary":
        return summary_data(n_classes=n_classes, validation=validation)
    return series_data(n_classes=n_classes, train=120, validation=validation)


def train(
    case: str,
    data: TrainingData | None = None,
    *,
    session: Session | None = None,
    seed: int = 1,
    threads: int = 1,
    given: Mapping[str, HyperValue] = _NOTHING,
) -> Trained:
    """One short training."""
    context = Context(seed, session or NoSession(), threads=threads)
    return module_of(CASES[case][0]).fit(data or data_of(case), hyper_of(case, given), context)


def stopped(
    case: str,
    stop_at: int,
    data: TrainingData | None = None,
    *,
    given: Mapping[str, HyperValue] = _NOTHING,
) -> Mapping[str, bytes]:
    """The checkpoint of a training that was stopped at its tick number `stop_at`."""
    session = Interrupted(stop_at)
    try:
        train(case, data, session=session, given=given)
    except Preempted:
        assert session.files is not None
        return session.files
    raise AssertionError(f"{case}: the training ended before tick {stop_at}")
