"""Transformer encoder (Vaswani et al. 2017, arXiv 1706.03762) over patches of the window (Nie et al. 2023,
arXiv 2211.14730: a short run of samples makes one token, and neighbours overlap by half)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.trainer.models import Context, Inputs, TrainingData, torch_artifact, torch_training
from training.trainer.models.torch_artifact import Network, NetworkKind, SeriesShape, TorchTrained
from training.trainer.options import HyperValue, Json


class _Attention(nn.Module):
    """Self-attention with several heads, written out: the fused forms add up in an order that CUDA does not
    promise."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        n, tokens, width = x.shape
        split = self.inputs(x).view(n, tokens, 3, self._heads, width // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(width // self._heads), 3)
        return self.output((weights @ value).transpose(1, 2).reshape(n, tokens, width))


class _Layer(nn.Module):
    """Attention and a feed-forward part, each normalised first and added to its input (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.forward_part = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        x = x + self.dropout(self.attention(self.norm_1(x)))
        return x + self.dropout(self.forward_part(self.norm_2(x)))


class _Transformer(Network):
    def __init__(self, shape: SeriesShape, options: Mapping[str, HyperValue]) -> None:
        super().__init__()
        width, patch = int(cast(int, options["d_model"])), int(cast(int, options["patch"]))
        dropout = float(cast(float, options["dropout"]))
        self._patch = min(patch, shape.samples)
        self._hop = max(1, self._patch // 2)
        # Zeros, which are the mean of each channel, go behind, so that the last patch holds the last sample.
        self._missing = (self._patch - shape.samples) % self._hop
        tokens = (shape.samples + self._missing - self._patch) // self._hop + 1
        self.embedding = nn.Linear(shape.channels * self._patch, width)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.layers = nn.Sequential(
            *(
                _Layer(width, int(cast(int, options["heads"])), dropout)
                for _ in range(int(cast(int, options["layers"])))
            )
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, self._missing))
        patches = padded.unfold(2, self._patch, self._hop)  # (n, channels, tokens, patch)
        tokens = self.embedding(patches.permute(0, 2, 1, 3).flatten(2)) + self.positions
        return self.head(self.dropout(self.norm(self.layers(self.dropout(tokens))).mean(1)))


def _build(shape: SeriesShape, options: Mapping[str, HyperValue]) -> Network:
    return _Transformer(shape, options)


KIND = NetworkKind("transformer", ("patch", "d_model", "layers", "heads", "dropout"), _build)


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """The samples of the window."""
    return "series"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> TorchTrained:
    """Train, see `torch_training.fit`."""
    return torch_training.fit(KIND, data, hyper, context)


def load(folder: Path, preprocess: Mapping[str, Json]) -> TorchTrained:
    """Read back what `files` and `preprocess` gave."""
    return torch_artifact.load(KIND, folder, preprocess)
