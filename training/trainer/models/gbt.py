"""Gradient-boosted trees (LightGBM) on summary statistics: the baseline to beat.

The number of rounds is fixed. Stopping early on a validation side of a dozen episodes was seen to collapse
the model to the base rate.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import lightgbm as lgb
import numpy as np
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray

from training.trainer.models import OnStep, Step, TrainingData
from training.trainer.options import HyperValue, Json

UNIT = "round"
MODEL_FILE = "model.lgb.txt"

_HOST_DEPENDENT = ("[num_threads:",)
"""Lines of the model text that say how it was trained rather than what came out."""


class Gbt:
    """A trained booster."""

    def __init__(self, booster: lgb.Booster) -> None:
        self._booster = booster

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability that each row is suspicious."""
        return np.asarray(self._booster.predict(features, num_threads=1), dtype=np.float64)

    def files(self) -> Mapping[str, bytes]:
        """The model as LightGBM's text."""
        lines = self._booster.model_to_string().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(_HOST_DEPENDENT)]
        return {MODEL_FILE: "".join(kept).encode("utf-8")}

    def preprocess(self) -> Mapping[str, Json]:
        """Trees need no scaling."""
        return {}


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], seed: int, threads: int, on_step: OnStep) -> Gbt:
    """Train `rounds` trees; bit-identical for every number of threads."""
    params = {
        "objective": "binary",
        "metric": "binary_logloss",
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "seed": seed,
        "bagging_freq": 1,
        "verbosity": -1,
        **{name: hyper[name] for name in _PASSED_ON},
    }
    train = lgb.Dataset(data.train_x, label=data.train_y.astype(np.float32), params=params)
    validation = lgb.Dataset(data.validation_x, label=data.validation_y.astype(np.float32), reference=train)
    booster = lgb.train(
        params,
        train,
        num_boost_round=int(cast(int, hyper["rounds"])),
        valid_sets=[train, validation],
        valid_names=["train", "validation"],
        callbacks=[lambda env: _report(env, on_step)],
    )
    return Gbt(booster)


_PASSED_ON = (
    "num_leaves",
    "learning_rate",
    "min_data_in_leaf",
    "feature_fraction",
    "bagging_fraction",
    "lambda_l2",
    "max_bin",
)


def _report(env: CallbackEnv, on_step: OnStep) -> None:
    losses = {row[0]: float(row[2]) for row in env.evaluation_result_list or []}
    on_step(Step(env.iteration + 1, env.end_iteration, losses["train"], losses["validation"]))


def load(folder: Path, preprocess: Mapping[str, Json]) -> Gbt:
    """Read back what `files` gave."""
    return Gbt(lgb.Booster(model_str=(folder / MODEL_FILE).read_text(encoding="utf-8")))
