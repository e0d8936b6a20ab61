"""Gated recurrent units (Cho et al. 2014, arXiv 1406.1078) over short overlapping patches of the window."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.trainer.models import Context, Inputs, TrainingData, torch_artifact, torch_training
from training.trainer.models.torch_artifact import Network, NetworkKind, SeriesShape, TorchTrained
from training.trainer.options import HyperValue, Json


class _Gru(Network):
    def __init__(self, shape: SeriesShape, options: Mapping[str, HyperValue]) -> None:
        super().__init__()
        hidden, layers = int(cast(int, options["hidden"])), int(cast(int, options["layers"]))
        both = bool(options["bidirectional"])
        self._pool = str(options["pool"])
        dropout = float(cast(float, options["dropout"]))
        self._patch = min(int(cast(int, options["patch"])), shape.samples)
        self._hop = max(1, self._patch // 2)
        # Zeros, which are the mean of each channel, go in front: the last patch ends with the window.
        self._missing = (self._patch - shape.samples) % self._hop
        # One layer at a time, for the sake of the dropout between them: cuDNN's own keeps its random numbers where
        # no checkpoint can reach them.
        widths = [shape.channels * self._patch] + [hidden * (2 if both else 1)] * layers
        self.layers = nn.ModuleList(
            nn.GRU(width, hidden, batch_first=True, bidirectional=both) for width in widths[:-1]
        )
        for name, weight in self.layers.named_parameters():
            if ".weight_hh" in name:
                for gate in weight.data.split(hidden):
                    nn.init.orthogonal_(gate)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1] * (3 if self._pool == "all" else 1), shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.pad(x, (self._missing, 0)).unfold(2, self._patch, self._hop)
        states = patches.permute(0, 2, 1, 3).flatten(2)  # (n, steps, channels * patch)
        for layer in self.layers:
            states, _ = layer(states if layer is self.layers[0] else self.dropout(states))
        if self._pool == "mean":
            pooled = states.mean(1)
        elif self._pool == "last":
            pooled = self._last(states)
        else:
            pooled = torch.cat((states.mean(1), states.amax(1), self._last(states)), 1)
        return self.head(self.dropout(pooled))

    def _last(self, states: Tensor) -> Tensor:
        """The state after the whole window: for the backward direction that is the one at the first sample."""
        layer = self.layers[-1]
        if not layer.bidirectional:
            return states[:, -1]
        hidden = layer.hidden_size
        return torch.cat((states[:, -1, :hidden], states[:, 0, hidden:]), 1)


def _build(shape: SeriesShape, options: Mapping[str, HyperValue]) -> Network:
    return _Gru(shape, options)


KIND = NetworkKind("gru", ("patch", "hidden", "layers", "bidirectional", "pool", "dropout"), _build)


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """The samples of the window."""
    return "series"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> TorchTrained:
    """Train, see `torch_training.fit`."""
    return torch_training.fit(KIND, data, hyper, context)


def load(folder: Path, preprocess: Mapping[str, Json]) -> TorchTrained:
    """Read back what `files` and `preprocess` gave."""
    return torch_artifact.load(KIND, folder, preprocess)
