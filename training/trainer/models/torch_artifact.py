"""A trained torch network as files, and back: safetensors for the numbers, JSON for the shape, never a pickle.

Predictions are always made on the CPU with one thread, so that an artifact gives the same scores whichever device
trained it and whoever asks.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from torch import Tensor, nn

from training.trainer.errors import BadData
from training.trainer.models.scaling import SeriesScaler
from training.trainer.models.tensors import save_tensors
from training.trainer.models.torch_process import settled
from training.trainer.options import HyperValue, Json

MODEL_FILE = "model.safetensors"
ARCH_FILE = "arch.json"

PREDICT_ROWS = 256
"""Windows in one forward pass without gradients. Fixed: another number may round the last bit otherwise."""


class Network(nn.Module):
    """Base of the networks: float32 (n, channels, samples) -> logits float32 (n, classes)."""


@dataclass(frozen=True)
class SeriesShape:
    """What a network reads and tells apart: channels and samples of a window, and classes."""

    channels: int
    samples: int
    classes: int


@dataclass(frozen=True)
class NetworkKind:
    """One torch model: its name, the options that decide the network (the others decide the training only), and
    how the network is built of them. `build` draws the first weights from torch's global generator."""

    name: str
    options: tuple[str, ...]
    build: Callable[[SeriesShape, Mapping[str, HyperValue]], Network]


class TorchTrained:
    """A trained network, on the CPU, with the scaler of its training side."""

    def __init__(
        self,
        kind: NetworkKind,
        shape: SeriesShape,
        options: Mapping[str, HyperValue],
        network: Network,
        scaler: SeriesScaler,
    ) -> None:
        self._kind = kind
        self._shape = shape
        self._options = {name: options[name] for name in kind.options}
        self._network = network.cpu().eval()
        self._scaler = scaler

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of each class: float32 (n, channels, samples) -> float64 (n, classes). Raises ValueError for
        windows of another shape."""
        expected = (self._shape.channels, self._shape.samples)
        if x.ndim != 3 or x.shape[1:] != expected:
            raise ValueError(
                f"{self._kind.name}: found windows of shape {x.shape[1:]}, expected {expected} "
                "(channels, samples), as in training"
            )
        with settled("cpu", threads=1), torch.no_grad():
            scores = [torch.softmax(logits.double(), 1).numpy() for logits in self._logits(x)]
        return np.concatenate([np.empty((0, self._shape.classes)), *scores])

    def _logits(self, x: NDArray[np.float32]) -> list[Tensor]:
        inputs = torch.from_numpy(self._scaler.apply(x))
        return [self._network(rows) for rows in inputs.split(PREDICT_ROWS)] if len(inputs) else []

    def files(self) -> Mapping[str, bytes]:
        """Weights and running statistics as safetensors, and what the network looks like as JSON."""
        arch = {
            "model": self._kind.name,
            "channels": self._shape.channels,
            "samples": self._shape.samples,
            "classes": self._shape.classes,
            "options": self._options,
        }
        return {
            MODEL_FILE: save_tensors(tensors_of(self._network)),
            ARCH_FILE: (json.dumps(arch, sort_keys=True, indent=2) + "\n").encode(),
        }

    def preprocess(self) -> Mapping[str, Json]:
        """How the windows are standardised."""
        return self._scaler.preprocess()


def tensors_of(network: Network) -> dict[str, NDArray[np.generic]]:
    """Parameters and buffers of a network by name, as arrays of their own."""
    return {name: as_array(tensor) for name, tensor in network.state_dict().items()}


def as_array(tensor: Tensor) -> NDArray[np.generic]:
    """A copy of a tensor of any device."""
    return np.array(tensor.detach().cpu().numpy())


def load(kind: NetworkKind, folder: Path, preprocess: Mapping[str, Json]) -> TorchTrained:
    """Read back what `files` and `preprocess` gave. Raises BadData for files that are damaged or belong to another
    model."""
    try:
        arch = json.loads((folder / ARCH_FILE).read_text(encoding="utf-8"))
        if arch["model"] != kind.name:
            raise ValueError(f"it is a {arch['model']}")
        shape = SeriesShape(arch["channels"], arch["samples"], arch["classes"])
        options = cast(Mapping[str, HyperValue], arch["options"])
        with settled("cpu", threads=1):
            network = kind.build(shape, options)
        tensors = load_tensors((folder / MODEL_FILE).read_bytes())
        network.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
        scaler = SeriesScaler.from_preprocess(preprocess)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadData(
            f"{folder}: {ARCH_FILE} and {MODEL_FILE} are not a {kind.name} as this trainer writes it ({error}); "
            "fetch the artifact again"
        ) from error
    return TorchTrained(kind, shape, options, network, scaler)
