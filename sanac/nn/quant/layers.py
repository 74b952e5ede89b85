"""Layers whose weights stay quantized in memory, and are restored where they are used."""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor, nn

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.quant.activations import channels_last, channels_restored, multiplies, quantized_linear
from sanac.nn.quant.weights import QuantizedWeight, dequantize_weight, fake_quantize_weight


class PackedLinear(nn.Module):  # type: ignore[misc]
    """A linear layer."""

    stored: Tensor
    scale: Tensor
    smooth: Tensor | None
    static: Tensor | None

    def __init__(self, spec: WeightSpec, values: QuantizedWeight, bias: nn.Parameter | None) -> None:
        """Its bias is the plain layer's own."""
        super().__init__()
        self.spec = spec
        self.register_buffer("stored", values.stored)
        self.register_buffer("scale", values.scale)
        self.register_buffer("smooth", values.smooth)
        static = torch.tensor(spec.activations.scale) if spec.activations and spec.activations.scale else None
        self.register_buffer("static", static)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """As the plain layer, of quantized numbers."""
        if self.spec.activations is None:
            return self.plain(inputs, self.weight_in(inputs.dtype))
        values = QuantizedWeight(self.stored, self.scale, self.smooth)
        rows = quantized_linear(channels_last(inputs), self.spec, values, self.static)
        return channels_restored(rows if self.bias is None else rows + self.bias, inputs)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight, for the length of a product."""
        return dequantize_weight(self.stored, self.scale, self.spec, dtype)

    def plain(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """As the plain layer, with this weight."""
        return F.linear(inputs, weight, self.bias)

    def _apply(self, function, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: FBT001, FBT002
        """Moves, but keeps its dtypes: `to(dtype)` is about what is computed in."""
        kept = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}
        super()._apply(function, recurse)
        for name, buffer in kept.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class PackedConv2d(PackedLinear):
    """A convolution."""

    def __init__(self, spec: WeightSpec, values: QuantizedWeight, like: nn.Conv2d) -> None:
        """Of the shape of a plain one."""
        super().__init__(spec, values, like.bias)
        self.how = {"stride": like.stride, "padding": like.padding, "dilation": like.dilation, "groups": like.groups}

    def plain(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """As the plain layer, with this weight."""
        return F.conv2d(inputs, weight, self.bias, **self.how)


def packed_like(layer: nn.Module, spec: WeightSpec, values: QuantizedWeight) -> nn.Module:
    """The layer that takes the place of a plain one."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or tuple(layer.weight.shape) != spec.shape:
        raise ValueError(f"a {type(layer).__name__} has no quantized weight of shape {list(spec.shape)}")
    if spec.activations and spec.columns != spec.shape[1]:
        raise ValueError(f"nothing that a kernel of {list(spec.shape[2:])} is given can be quantized")
    if isinstance(layer, nn.Conv2d):
        return PackedConv2d(spec, values, layer)
    return PackedLinear(spec, values, layer.bias)


def in_floats(module: nn.Module, device: torch.device) -> list[str]:
    """Of the numbers that layers multiply, those that this device has no products of."""
    layers = (layer for layer in module.modules() if isinstance(layer, PackedLinear) and layer.spec.activations)
    return sorted({quant_dtype for layer in layers if not multiplies(quant_dtype := layer.spec.dtype, device)})


def simulate(module: nn.Module, specs: Mapping[str, WeightSpec], dtype: torch.dtype) -> None:
    """Have layers compute with what their weights will be once quantized; the weights themselves stay, and learn."""
    for name, spec in specs.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        layer.forward = functools.partial(_simulated, layer, spec, dtype)


def _simulated(layer: nn.Module, spec: WeightSpec, dtype: torch.dtype, inputs: Tensor) -> Tensor:
    weight = fake_quantize_weight(layer.weight, spec, dtype)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(inputs, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(inputs, weight, layer.bias)
