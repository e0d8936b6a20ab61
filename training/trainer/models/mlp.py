"""A multi-layer perceptron on standardised summary statistics, or on the raw samples of a window.

ReLU layers, cross-entropy, Adam with decoupled weight decay. Dropout also hits the inputs: with more features
than training windows a network otherwise learns single columns by heart. All arithmetic is float32 on one BLAS
thread, so that a seed gives the same bytes each time. Every random number comes from a generator seeded with
(seed, purpose, epoch or step): a checkpoint holds no generator, and a resumed training draws the same numbers.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from training.trainer.models import Context, Inputs, Session, Step, TrainingData, UnusableState
from training.trainer.models.checks import check_data, check_loss
from training.trainer.models.mlp_network import Adam, Network, clipped, cross_entropy, probabilities
from training.trainer.models.scaling import Array, Scaler, SeriesScaler
from training.trainer.models.schedule import learning_rate_at
from training.trainer.models.tensors import save_tensors
from training.trainer.options import HyperValue, Json

MODEL_FILE = "model.safetensors"
ARCH_FILE = "arch.json"
_STATE_FILE = "state.json"
_TENSORS_FILE = "state.safetensors"

_INITIAL, _ORDER, _DROPOUT = 1, 2, 3
"""Purposes of the generators."""


class Mlp:
    """A trained network with the scaler of its training side."""

    def __init__(self, network: Network, scaler: Scaler | SeriesScaler) -> None:
        self._network = network
        self._scaler = scaler

    def predict(self, x: Array) -> NDArray[np.float64]:
        """See `Trained`."""
        shares = probabilities(self._network.logits(_flat(self._scaler.apply(x)))).astype(np.float64)
        if shares.shape[1] == 1:
            return np.concatenate([1 - shares, shares], axis=1)
        normal: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return normal

    def files(self) -> Mapping[str, bytes]:
        """Weights as safetensors, and the shape of the network as JSON."""
        tensors = {f"layer{n}.weight": w for n, w in enumerate(self._network.weights)}
        tensors |= {f"layer{n}.bias": b for n, b in enumerate(self._network.biases)}
        output = "sigmoid" if self._network.sizes[-1] == 1 else "softmax"
        arch = {"activation": "relu", "output": output, "sizes": list(self._network.sizes)}
        return {MODEL_FILE: save_tensors(tensors), ARCH_FILE: _json_bytes(arch)}

    def preprocess(self) -> Mapping[str, Json]:
        """Mean and standard deviation per feature or channel."""
        return self._scaler.preprocess()


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=2) + "\n").encode()


def _flat(x: Array) -> Array:
    return x.reshape(len(x), x.shape[1] * x.shape[2]) if x.ndim == 3 else x  # x may have no rows


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """Summary statistics, or the series for `inputs = "raw"`."""
    return "series" if hyper["inputs"] == "raw" else "summary"


@dataclass
class _State:
    """What decides the rest of a training. `done` counts steps (batches); `loss_sum` is that of the epoch under
    way; the best epoch so far is kept only with patience."""

    network: Network
    adam: Adam
    done: int = 0
    loss_sum: float = 0.0
    best: Array | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    stopped: bool = False

    def files(self) -> Mapping[str, bytes]:
        """For a checkpoint."""
        tensors = {
            "parameters": self.network.parameters,
            "first": self.adam.first,
            "second": self.adam.second,
        }
        if self.best is not None:
            tensors["best"] = self.best
        numbers = {
            "sizes": list(self.network.sizes),
            "done": self.done,
            "loss_sum": self.loss_sum,
            "best_loss": self.best_loss if self.best is not None else None,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
        }
        return {_STATE_FILE: _json_bytes(numbers), _TENSORS_FILE: save_tensors(tensors)}

    def read(self, files: Mapping[str, bytes], total: int) -> None:
        """Go on from there. Raises UnusableState for files that are not of a training like this."""
        try:
            numbers, tensors = json.loads(files[_STATE_FILE]), load_tensors(files[_TENSORS_FILE])
            sizes, self.done = list(numbers["sizes"]), int(numbers["done"])
            self.loss_sum, self.stopped = float(numbers["loss_sum"]), bool(numbers["stopped"])
            self.best, self.best_epoch = tensors.get("best"), int(numbers["best_epoch"])
            self.best_loss = math.inf if self.best is None else float(numbers["best_loss"])
            found = [tensors[name] for name in ("parameters", "first", "second")]
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UnusableState(f"the state of mlp cannot be read: {error!r}") from error
        shape, expected = self.network.parameters.shape, list(self.network.sizes)
        arrays = [*found, *([] if self.best is None else [self.best])]
        fits = all(array.shape == shape and array.dtype == np.float32 for array in arrays)
        if sizes != expected or not fits or not 0 <= self.done <= total:
            raise UnusableState(
                f"the state of mlp is of another training: step {self.done}, layers {sizes}; "
                f"expected at most step {total}, layers {expected}"
            )
        # In place: the network's weights are views into its parameters.
        for mine, read in zip(
            (self.network.parameters, self.adam.first, self.adam.second), found, strict=True
        ):
            mine[:] = read


class _Training:
    """One run over the epochs."""

    def __init__(self, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> None:
        self._hyper = hyper
        self._seed = context.seed
        self.scaler: Scaler | SeriesScaler = (
            SeriesScaler.of(data.train_x) if data.train_x.ndim == 3 else Scaler.of(data.train_x)
        )
        self._train_x = _flat(self.scaler.apply(data.train_x))
        self._train_y = _targets(data.train_y, data.n_classes, self._number("label_smoothing"))
        self._validation_x = _flat(self.scaler.apply(data.validation_x))
        self._validation_y = _targets(data.validation_y, data.n_classes, 0)
        self._epochs, self._patience = int(self._number("epochs")), int(self._number("patience"))
        self._batches = -(-len(self._train_x) // int(self._number("batch_size")))
        outputs = 1 if data.n_classes == 2 else data.n_classes
        sizes = [self._train_x.shape[1], *cast(list[int], hyper["hidden"]), outputs]
        network = Network.initial(sizes, self._rng(_INITIAL, 0))
        self._state = _State(network, Adam(len(network.parameters)))

    def run(self, session: Session) -> Network:
        """Train to the end and give the network to keep."""
        session.start(self._epochs, "epoch")
        state = self._state
        if (files := session.resume()) is not None:
            state.read(files, self._epochs * self._batches)
        order = np.empty(0, dtype=np.intp)
        while state.done < self._epochs * self._batches and not state.stopped:
            epoch, batch = state.done // self._batches + 1, state.done % self._batches
            if batch == 0 or not len(order):
                order = self._rng(_ORDER, epoch).permutation(len(self._train_x))
            self._batch(order, epoch, batch)
            if batch + 1 < self._batches:
                session.tick(state.files)
            else:
                # Before it is told of: a session that stops here saves a state in which the epoch is complete.
                session.step(self._epoch_ends(epoch), state.files)
        if state.best is not None:
            return Network(state.network.sizes, state.best)
        return state.network

    def _batch(self, order: NDArray[np.intp], epoch: int, batch: int) -> None:
        state, size = self._state, int(self._number("batch_size"))
        rows = order[batch * size : (batch + 1) * size]
        count = state.done + 1
        peak = self._number("learning_rate")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            gradient, loss = state.network.gradient(
                self._train_x[rows], self._train_y[rows], self._number("dropout"), self._rng(_DROPOUT, count)
            )
            check_loss("mlp", loss, f"epoch {epoch} of {self._epochs}", peak)
            state.adam.step(
                state.network.parameters,
                clipped(gradient, self._number("grad_clip")),
                count,
                learning_rate_at(count, self._epochs * self._batches, peak, str(self._hyper["schedule"])),
                self._number("weight_decay"),
                state.network.n_weights,
            )
        state.done = count
        state.loss_sum += loss * len(rows)

    def _epoch_ends(self, epoch: int) -> Step:
        state, validation_loss = self._state, None
        loss, state.loss_sum = state.loss_sum / len(self._train_x), 0.0
        if len(self._validation_y):
            with np.errstate(over="ignore", invalid="ignore"):
                validation_loss = cross_entropy(state.network.logits(self._validation_x), self._validation_y)
            check_loss(
                "mlp", validation_loss, f"the validation after epoch {epoch}", self._number("learning_rate")
            )
            if self._patience and validation_loss < state.best_loss:
                state.best = state.network.parameters.copy()
                state.best_loss, state.best_epoch = validation_loss, epoch
            elif self._patience and epoch - state.best_epoch >= self._patience:
                state.stopped = True
        return Step(epoch, self._epochs, loss, validation_loss)

    def _rng(self, purpose: int, counter: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, purpose, counter]))

    def _number(self, name: str) -> float:
        return float(cast(float, self._hyper[name]))


def _targets(classes: NDArray[np.int64], n_classes: int, smoothing: float) -> Array:
    """float32 (n, outputs) of a network: `smoothing` is shared out among all classes."""
    rows = np.eye(n_classes, dtype=np.float32)[classes] * np.float32(1 - smoothing)
    rows += np.float32(smoothing / n_classes)
    return rows[:, 1:] if n_classes == 2 else rows


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> Mlp:
    """Train for `epochs`; with `patience` and a validation side, stop when validation has not improved that long
    and go back to the best epoch. One thread: the matrices are too small to gain from more."""
    check_data("mlp", data, reads(hyper))
    training = _Training(data, hyper, context)
    return Mlp(training.run(context.session), training.scaler)


def load(folder: Path, preprocess: Mapping[str, Json]) -> Mlp:
    """Read back what `files` and `preprocess` gave."""
    tensors = load_tensors((folder / MODEL_FILE).read_bytes())
    layers = range(len(tensors) // 2)
    weights = [tensors[f"layer{n}.weight"] for n in layers]
    network = Network([len(weights[0]), *(weight.shape[1] for weight in weights)])
    for n in layers:
        network.weights[n][:] = weights[n]
        network.biases[n][:] = tensors[f"layer{n}.bias"]
    kind = SeriesScaler if "standardise_channels" in preprocess else Scaler
    return Mlp(network, kind.from_preprocess(preprocess))
