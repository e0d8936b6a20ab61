"""Fully convolutional network (Wang, Yan and Oates 2017, arXiv 1611.06455): convolution, batch normalisation and
ReLU, three times or as often as `channels` says; the mean over time; one linear layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from training.trainer.models import Context, Inputs, TrainingData, torch_artifact, torch_training
from training.trainer.models.torch_artifact import Network, NetworkKind, SeriesShape, TorchTrained
from training.trainer.options import HyperValue, Json


class _Block(nn.Module):
    """Convolution that keeps the length, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        # An even kernel reaches one sample further ahead than back.
        self._padding = ((kernel - 1) // 2, kernel // 2)
        self.convolution = nn.Conv1d(inputs, outputs, kernel, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, samples) -> (n, outputs, samples)."""
        return functional.relu(self.norm(self.convolution(functional.pad(x, self._padding))))


class _Fcn(Network):
    def __init__(self, shape: SeriesShape, channels: list[int], kernels: list[int]) -> None:
        super().__init__()
        inputs = [shape.channels, *channels[:-1]]
        self.blocks = nn.Sequential(
            *(_Block(i, o, k) for i, o, k in zip(inputs, channels, kernels, strict=True))
        )
        self.head = nn.Linear(channels[-1], shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean(2))


def _build(shape: SeriesShape, options: Mapping[str, HyperValue]) -> Network:
    channels, kernels = cast(list[int], options["channels"]), cast(list[int], options["kernels"])
    return _Fcn(shape, channels, kernels)


KIND = NetworkKind("cnn", ("channels", "kernels"), _build)


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """The samples of the window."""
    return "series"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> TorchTrained:
    """Train, see `torch_training.fit`."""
    return torch_training.fit(KIND, data, hyper, context)


def load(folder: Path, preprocess: Mapping[str, Json]) -> TorchTrained:
    """Read back what `files` and `preprocess` gave."""
    return torch_artifact.load(KIND, folder, preprocess)
