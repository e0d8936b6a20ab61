"""What every model refuses to train on, in one place."""

import math

import numpy as np

from training.trainer.errors import BadConfig, BadData
from training.trainer.models import TrainingData

_DIMENSIONS = {"summary": 2, "series": 3}


def check_data(model: str, data: TrainingData, inputs: str) -> None:
    """Raises BadData when no model can come out of this: nothing to read, one class, a number that is none.

    `inputs` is what the model `reads`. A training side of one class would give a model that is sure of
    everything, and a NaN one that is sure of nothing; both look like results.
    """
    for side, x, y in (
        ("training", data.train_x, data.train_y),
        ("validation", data.validation_x, data.validation_y),
    ):
        if len(x) != len(y) or x.ndim != _DIMENSIONS[inputs]:
            raise BadData(
                f"{model}: the {side} side has windows of shape {x.shape} for {len(y)} labels, "
                f"expected {_DIMENSIONS[inputs]} dimensions, the first as long as the labels"
            )
        if not np.isfinite(x).all():
            raise BadData(
                f"{model}: the {side} side holds {int((~np.isfinite(x)).sum())} values that are not finite (NaN or "
                "infinite); find them with the data set's own tools and leave those windows out"
            )
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < data.n_classes:
            raise BadData(
                f"{model}: the {side} side has classes {int(y.min())} to {int(y.max())}, "
                f"expected 0 to {data.n_classes - 1}"
            )
    if 0 in data.train_x.shape[1:]:
        raise BadData(
            f"{model}: the training windows have shape {data.train_x.shape[1:]}; there is nothing to read"
        )
    present = np.unique(data.train_y)
    if len(present) < 2:
        found = f"only class {present[0]}" if len(present) else "no window"
        raise BadData(
            f"{model}: the training side has {found}, expected windows of 2 classes or more; "
            "choose another split or more hosts to train on"
        )


def check_loss(model: str, loss: float, where: str, learning_rate: float) -> None:
    """Raises BadConfig for a training that has left the numbers: going on would only cost time."""
    if not math.isfinite(loss):
        raise BadConfig(
            f"{model}: the loss became {loss} in {where}: the training diverged with hyper.learning_rate = "
            f"{learning_rate:g}; try {learning_rate / 10:g}, and leave hyper.grad_clip above 0"
        )
