"""Layers whose weights stay quantized in memory, and are restored where they are used."""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor, nn

from sanac.core.quantized import Packing
from sanac.nn.quantize import restored, simulated


class PackedLinear(nn.Module):  # type: ignore[misc]
    """A linear layer."""

    stored: Tensor
    scale: Tensor

    def __init__(self, packing: Packing, stored: Tensor, scale: Tensor, bias: nn.Parameter | None) -> None:
        """Its bias is the plain layer's own."""
        super().__init__()
        self.packing = packing
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale)
        self.bias = bias

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight, for the length of a product."""
        return restored(self.stored, self.scale, self.packing, dtype)

    def forward(self, given: Tensor) -> Tensor:
        """As the plain layer."""
        return F.linear(given, self.weight_in(given.dtype), self.bias)

    def _apply(self, function, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: FBT001, FBT002
        """Moves, but keeps its dtypes: `to(dtype)` is about what is computed in."""
        stored, scale = self.stored, self.scale
        super()._apply(function, recurse)
        self.stored, self.scale = stored.to(self.stored.device), scale.to(self.scale.device)
        return self


class PackedConv2d(PackedLinear):
    """A convolution."""

    def __init__(self, packing: Packing, stored: Tensor, scale: Tensor, like: nn.Conv2d) -> None:
        """Of the shape of a plain one."""
        super().__init__(packing, stored, scale, like.bias)
        self.how = {"stride": like.stride, "padding": like.padding, "dilation": like.dilation, "groups": like.groups}

    def forward(self, given: Tensor) -> Tensor:
        """As the plain layer."""
        return F.conv2d(given, self.weight_in(given.dtype), self.bias, **self.how)


def packed_like(layer: nn.Module, packing: Packing, stored: Tensor, scale: Tensor) -> nn.Module:
    """The layer that takes the place of a plain one."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or tuple(layer.weight.shape) != packing.shape:
        raise ValueError(f"a {type(layer).__name__} has no quantized weight of shape {list(packing.shape)}")
    if isinstance(layer, nn.Conv2d):
        return PackedConv2d(packing, stored, scale, layer)
    return PackedLinear(packing, stored, scale, layer.bias)


def simulate(module: nn.Module, packings: Mapping[str, Packing], dtype: torch.dtype) -> None:
    """Have layers compute with what their weights will be once quantized; the weights themselves stay, and learn."""
    for name, packing in packings.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        layer.forward = functools.partial(_simulated, layer, packing, dtype)


def _simulated(layer: nn.Module, packing: Packing, dtype: torch.dtype, given: Tensor) -> Tensor:
    weight = simulated(layer.weight, packing, dtype)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(given, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(given, weight, layer.bias)
