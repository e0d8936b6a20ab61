"""How each model is trained in `benchmarks.tsc`: one recipe per model for all data sets, and why.

A recipe comes from the literature or from the training parts alone; nothing here was chosen by a test part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.trainer.options import MODELS, effective_hyper


@dataclass(frozen=True)
class Recipe:
    """`hyper` over the model's defaults; with `steps`, as many epochs as give so many update steps."""

    why: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None

    def hyper_for(self, model: str, n_train: int) -> dict[str, Any]:
        """The options for a training part of `n_train` series."""
        hyper = dict(self.hyper)
        if self.steps is not None:
            batch_size = effective_hyper(model, hyper)["batch_size"]
            assert isinstance(batch_size, int)
            hyper["epochs"] = math.ceil(self.steps / math.ceil(n_train / batch_size))
        return hyper


_TORCH = {"batch_size": 16, "weight_decay": 0.01, "schedule": "cosine"}

RECIPES: Mapping[str, Recipe] = {
    "gbt": Recipe(
        "summary statistics as in the fleet; leaves of 10 series (best of 2, 3, 5 and 10 in 5-fold cross-validation "
        "inside the training parts), for the default of 20 forbids every split where only 40 series train",
        {"min_data_in_leaf": 10},
    ),
    "mlp": Recipe(
        "raw samples; 5-fold cross-validation inside the training parts",
        {
            "inputs": "raw", "hidden": [256, 256], "dropout": 0.2, "batch_size": 16, "learning_rate": 0.001,
            "weight_decay": 0.0, "schedule": "cosine",
        },
        steps=2000,
    ),
    "cnn": Recipe(
        "kernels, step size and batches of Wang, Yan and Oates 2017, half of its filters, and 1000 steps with a cosine "
        "instead of 2000 epochs",
        _TORCH | {"learning_rate": 0.001, "channels": [64, 128, 64], "kernels": [8, 5, 3]},
        steps=1000,
    ),
    "gru": Recipe(
        "patches of 8, not 4, by 3-fold cross-validation inside the training parts; the rest as first tried",
        _TORCH | {"learning_rate": 0.003, "patch": 8, "hidden": 64, "pool": "all", "dropout": 0.2},
        steps=800,
    ),
    "tcn": Recipe(
        "the first setting tried",
        _TORCH | {"learning_rate": 0.002, "channels": 48, "blocks": 4, "kernel": 3, "dropout": 0.2},
        steps=600,
    ),
    "transformer": Recipe(
        "overlapping patches of 4, not 8, by 3-fold cross-validation inside the training part of JapaneseVowels; the "
        "rest as first tried",
        _TORCH | {"learning_rate": 0.001, "patch": 4, "d_model": 64, "layers": 2, "heads": 4, "dropout": 0.2},
        steps=900,
    ),
    "rocket": Recipe("the paper's 10,000 features and penalties (Dempster et al. 2021), which are the defaults"),
}  # fmt: skip

OURS: tuple[str, ...] = tuple(model for model in MODELS if model in RECIPES)
