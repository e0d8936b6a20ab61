"""The training loop of all torch models.

Cross-entropy with label smoothing, AdamW, clipped gradients, batches in an order of their own for each epoch. Every
random number follows from (seed, purpose, epoch or step), and what a step leaves behind is in the checkpoint, so a
training that is stopped after any batch and resumed ends with the same bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from torch import Tensor

from training.trainer.errors import Unavailable
from training.trainer.models import Context, Step, TrainingData, UnusableState
from training.trainer.models.checks import check_data, check_loss
from training.trainer.models.scaling import SeriesScaler
from training.trainer.models.schedule import learning_rate_at
from training.trainer.models.tensors import save_tensors
from training.trainer.models.torch_adam import AdamW, clip_gradients
from training.trainer.models.torch_artifact import (
    PREDICT_ROWS,
    Network,
    NetworkKind,
    SeriesShape,
    TorchTrained,
    as_array,
)
from training.trainer.models.torch_faults import readable_faults
from training.trainer.models.torch_process import seed_torch, settled
from training.trainer.options import HyperValue

TENSORS_FILE = "training.safetensors"
STATE_FILE = "training.json"

_INITIAL, _ORDER, _STEP = range(3)
"""Purposes of random numbers."""


@dataclass
class _Best:
    """The network after the epoch with the lowest validation loss so far."""

    epoch: int
    loss: float
    tensors: dict[str, Tensor]


def fit(
    kind: NetworkKind, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context
) -> TorchTrained:
    """Train for `epochs`. With `patience` and a validation side, stop when the validation loss has not improved
    that long, and go back to the best epoch.

    The result depends on `hyper`, the data, the seed and the device; not on `context.threads`. Raises what the
    session raises; BadData for windows that cannot be trained on; BadConfig when the loss is no longer a number;
    OutOfMemory; Unavailable for a GPU that is absent or fails; UnusableState for a checkpoint of another training.
    """
    if context.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            f"{kind.name}: CUDA was asked for, but torch {torch.__version__} finds none here; "
            "look at nvidia-smi, install a CUDA build of torch, or train with --device cpu"
        )
    check_data(kind.name, data, "series")
    batch_size = int(cast(int, hyper["batch_size"]))
    with (
        readable_faults(kind.name, context.device, batch_size),
        settled(context.device, int(cast(int, hyper["torch_threads"]))),
    ):
        training = _Training(kind, data, hyper, context)
        training.run()
        return training.result()


class _Training:
    """One training, from its first weights or a checkpoint to its last step."""

    def __init__(
        self, kind: NetworkKind, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context
    ) -> None:
        self._kind = kind
        self._hyper = hyper
        self._context = context
        self._identity = _identity(kind, data, hyper, context)
        _, channels, samples = data.train_x.shape
        self._shape = SeriesShape(channels, samples, data.n_classes)
        self._scaler = SeriesScaler.of(data.train_x)
        self._train_x = self._on_device(self._scaler.apply(data.train_x))
        self._targets = self._on_device(
            _targets(data.train_y, data.n_classes, self._number("label_smoothing"))
        )
        self._validation_x = self._on_device(self._scaler.apply(data.validation_x))
        self._validation_y = self._on_device(_targets(data.validation_y, data.n_classes, 0.0))
        seed_torch("cpu", context.seed, _INITIAL)  # the first weights are drawn on the CPU for every device
        self._network: Network = kind.build(self._shape, hyper).to(context.device)
        self._parameters: list[Tensor] = list(self._network.parameters())
        self._adam = AdamW(self._parameters, self._number("weight_decay"))
        self._epochs = int(self._number("epochs"))
        self._batches = math.ceil(len(data.train_x) / int(self._number("batch_size")))
        self._done = 0  # steps
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=context.device)
        self._best: _Best | None = None

    def run(self) -> None:
        """Train to the end."""
        session = self._context.session
        session.start(self._epochs, "epoch")
        files = session.resume()
        if files is not None:
            self._restore(files)
        order: Sequence[NDArray[np.intp]] = ()
        while self._done < self._epochs * self._batches and not self._out_of_patience():
            epoch, batch = divmod(self._done, self._batches)
            if batch == 0 or not order:
                order = self._order(epoch)
            self._train_step(order[batch])
            if batch + 1 < self._batches:
                session.tick(self._state)
            else:
                session.step(self._end_of_epoch(epoch + 1), self._state)

    def result(self) -> TorchTrained:
        """The network of the last epoch; with patience, of the best."""
        if self._best is not None:
            self._network.load_state_dict(self._best.tensors)
        return TorchTrained(self._kind, self._shape, self._hyper, self._network, self._scaler)

    def _order(self, epoch: int) -> list[NDArray[np.intp]]:
        """The rows of each batch. Batches of one epoch differ by one row at most: a last batch of one or two
        windows would be mostly noise, above all to batch normalisation."""
        rng = np.random.Generator(np.random.PCG64([self._context.seed, _ORDER, epoch]))
        return np.array_split(rng.permutation(len(self._train_x)), self._batches)

    def _train_step(self, rows: NDArray[np.intp]) -> None:
        step = self._done + 1
        seed_torch(self._context.device, self._context.seed, _STEP, step)
        self._network.train()
        index = self._on_device(rows)
        loss = _cross_entropy(self._network(self._train_x[index]), self._targets[index])
        loss.backward()
        clip_gradients(self._parameters, self._number("grad_clip"))
        total = self._epochs * self._batches
        peak, schedule = self._number("learning_rate"), str(self._hyper["schedule"])
        self._adam.step(step, learning_rate_at(step, total, peak, schedule))
        self._loss_sum += loss.detach().double() * len(rows)
        self._done = step

    def _end_of_epoch(self, epoch: int) -> Step:
        loss = float(self._loss_sum) / len(self._train_x)
        self._loss_sum.zero_()
        check_loss(self._kind.name, loss, f"epoch {epoch}", self._number("learning_rate"))
        validation_loss = self._validation_loss()
        if validation_loss is not None:
            check_loss(
                self._kind.name,
                validation_loss,
                f"the validation after epoch {epoch}",
                self._number("learning_rate"),
            )
        if validation_loss is not None and self._number("patience") > 0:
            self._remember_the_best(epoch, validation_loss)
        return Step(epoch, self._epochs, loss, validation_loss)

    def _remember_the_best(self, epoch: int, validation_loss: float) -> None:
        if self._best is None or validation_loss < self._best.loss:
            tensors = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
            self._best = _Best(epoch, validation_loss, tensors)

    def _out_of_patience(self) -> bool:
        epoch = self._done // self._batches
        return self._best is not None and epoch - self._best.epoch >= self._number("patience")

    def _validation_loss(self) -> float | None:
        if not len(self._validation_x):
            return None
        self._network.eval()
        total = 0.0
        with torch.no_grad():
            for x, y in zip(
                self._validation_x.split(PREDICT_ROWS), self._validation_y.split(PREDICT_ROWS), strict=True
            ):
                total += float(_cross_entropy(self._network(x), y).double()) * len(x)
        return total / len(self._validation_x)

    def _state(self) -> Mapping[str, bytes]:
        """Everything that decides the rest of the training."""
        tensors = {f"network/{name}": as_array(t) for name, t in self._network.state_dict().items()}
        tensors |= {f"first/{n}": as_array(moment) for n, moment in enumerate(self._adam.first)}
        tensors |= {f"second/{n}": as_array(moment) for n, moment in enumerate(self._adam.second)}
        tensors["loss_sum"] = as_array(self._loss_sum)
        best = None
        if self._best is not None:
            best = {"epoch": self._best.epoch, "loss": self._best.loss}
            tensors |= {f"best/{name}": as_array(t) for name, t in self._best.tensors.items()}
        state = {"identity": self._identity, "steps": self._done, "best": best}
        return {
            TENSORS_FILE: save_tensors(tensors),
            STATE_FILE: (json.dumps(state, sort_keys=True, indent=2) + "\n").encode(),
        }

    def _restore(self, files: Mapping[str, bytes]) -> None:
        """Take up a checkpoint. Raises UnusableState for one that is damaged or of another training."""
        try:
            state = json.loads(files[STATE_FILE])
            if state["identity"] != self._identity:
                raise ValueError("it was written by another training")
            tensors = {n: self._on_device(array) for n, array in load_tensors(files[TENSORS_FILE]).items()}
            self._network.load_state_dict(_under("network/", tensors))
            for n, (first, second) in enumerate(zip(self._adam.first, self._adam.second, strict=True)):
                first.copy_(tensors[f"first/{n}"])
                second.copy_(tensors[f"second/{n}"])
            self._loss_sum.copy_(tensors["loss_sum"])
            if state["best"] is not None:
                self._best = _Best(state["best"]["epoch"], state["best"]["loss"], _under("best/", tensors))
            self._done = int(state["steps"])
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UnusableState(f"{self._kind.name}: the checkpoint cannot be used: {error}") from error

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self._context.device)

    def _number(self, name: str) -> float:
        return float(cast(float, self._hyper[name]))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _targets(labels: NDArray[np.int64], n_classes: int, smoothing: float) -> NDArray[np.float32]:
    """float32 (n, n_classes), each row adding up to 1: `smoothing` is shared out among all classes."""
    rows = np.eye(n_classes, dtype=np.float32)[labels]
    return (rows * np.float32(1 - smoothing) + np.float32(smoothing / n_classes)).astype(np.float32)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the rows. Written out: torch's own has forms for which CUDA knows no deterministic way."""
    return -(targets * torch.log_softmax(logits, 1)).sum(1).mean()


def _identity(
    kind: NetworkKind, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context
) -> str:
    """sha256 over all that a training is a function of: a checkpoint of another one is refused."""
    digest = hashlib.sha256()
    facts = [kind.name, dict(hyper), context.seed, context.device, data.n_classes, torch.__version__]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for array in (data.train_x, data.train_y, data.validation_x, data.validation_y):
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
