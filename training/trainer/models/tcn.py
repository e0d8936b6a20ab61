"""Temporal convolutional network (Bai, Kolter and Koltun 2018, arXiv 1803.01271)."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from training.trainer.models import Context, Inputs, TrainingData, torch_artifact, torch_training
from training.trainer.models.torch_artifact import Network, NetworkKind, SeriesShape, TorchTrained
from training.trainer.options import HyperValue, Json


class _Causal(nn.Module):
    """A dilated convolution that sees the present and the past, normalised, with ReLU and dropout."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self._past = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.dropout = nn.Dropout1d(dropout)  # whole channels

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, samples) -> (n, outputs, samples)."""
        y = self.convolution(functional.pad(x, (self._past, 0)))
        return self.dropout(functional.relu(self.norm(y)))


class _Block(nn.Module):
    """Two causal convolutions around which the input is added again."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = _Causal(inputs, outputs, kernel, dilation, dropout)
        self.second = _Causal(outputs, outputs, kernel, dilation, dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, samples) -> (n, outputs, samples)."""
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class _Tcn(Network):
    def __init__(self, shape: SeriesShape, options: Mapping[str, HyperValue]) -> None:
        super().__init__()
        channels, kernel = int(cast(int, options["channels"])), int(cast(int, options["kernel"]))
        dropout = float(cast(float, options["dropout"]))
        inputs = [shape.channels] + [channels] * (int(cast(int, options["blocks"])) - 1)
        self.blocks = nn.Sequential(
            *(_Block(i, channels, kernel, 2**n, dropout) for n, i in enumerate(inputs))
        )
        self.head = nn.Linear(channels, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean(2))


def _build(shape: SeriesShape, options: Mapping[str, HyperValue]) -> Network:
    return _Tcn(shape, options)


KIND = NetworkKind("tcn", ("channels", "blocks", "kernel", "dropout"), _build)


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """The samples of the window."""
    return "series"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> TorchTrained:
    """Train, see `torch_training.fit`."""
    return torch_training.fit(KIND, data, hyper, context)


def load(folder: Path, preprocess: Mapping[str, Json]) -> TorchTrained:
    """Read back what `files` and `preprocess` gave."""
    return torch_artifact.load(KIND, folder, preprocess)
