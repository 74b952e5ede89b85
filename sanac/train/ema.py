"""Exponential moving average of the trained weights."""

from collections.abc import Mapping

import torch
from torch import Tensor


class ExponentialAverage:
    """An exponential moving average that starts quickly: decay = min(limit, (1 + t) / (10 + t))."""

    def __init__(self, weights: Mapping[str, Tensor], limit: float, device: torch.device | None = None) -> None:
        """Start with a copy of `weights`, on `device` or on their own."""
        self.limit = limit
        self.weights = {name: _copy(tensor, device) for name, tensor in weights.items()}

    def decay(self, step: int) -> float:
        """Decay at step number `step`, counted from zero."""
        return min(self.limit, (1 + step) / (10 + step))

    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Update the average with the weights after step number `step`."""
        with torch.no_grad():
            for name, average in self.weights.items():
                average.lerp_(weights[name].to(average.device, average.dtype), 1 - self.decay(step))


def _copy(tensor: Tensor, device: torch.device | None) -> Tensor:
    return tensor.detach().to(device or tensor.device, copy=True)
