"""Adam with decoupled weight decay (Loshchilov and Hutter 2019), and gradient clipping.

torch has both; but its optimisers import torch's compiler when the first is made, which takes longer than a
training of the default data set.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """One pair of moments per parameter. Decay is for matrices and kernels; biases, and the gains of
    normalisations, have one dimension and are left alone."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self.first = [torch.zeros_like(p) for p in self._parameters]
        self.second = [torch.zeros_like(p) for p in self._parameters]

    def step(self, number: int, learning_rate: float) -> None:
        """Step `number`, counted from 1, with the gradients that the parameters hold; they are let go."""
        correct_1, correct_2 = 1 - BETA_1**number, math.sqrt(1 - BETA_2**number)
        with torch.no_grad():
            for parameter, first, second in zip(self._parameters, self.first, self.second, strict=True):
                gradient = parameter.grad
                if gradient is None:
                    continue
                first.lerp_(gradient, 1 - BETA_1)
                second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
                if parameter.ndim > 1:
                    parameter.mul_(1 - learning_rate * self._weight_decay)
                # first / c1 / (sqrt(second) / c2 + eps), with c2 taken out: fewer passes over the numbers
                root = second.sqrt().add_(EPSILON * correct_2)
                parameter.addcdiv_(first, root, value=-learning_rate * correct_2 / correct_1)
                parameter.grad = None


def clip_gradients(parameters: Sequence[Tensor], largest: float) -> None:
    """Scale the gradients so that their common norm is at most `largest`; 0 clips nothing. On a GPU it does not
    wait for the result."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if largest == 0 or not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
