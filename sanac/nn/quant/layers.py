"""Layers whose weights stay quantized in memory and are dequantized (or multiplied directly) in the forward pass."""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor, nn

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.quant.activations import channels_last, channels_restored, multiplies, quantized_linear
from sanac.nn.quant.weights import QuantizedWeight, dequantize_weight, fake_quantize_weight


class PackedLinear(nn.Module):  # type: ignore[misc]
    """A linear layer with a quantized weight and, optionally, quantized activations."""

    stored: Tensor
    scale: Tensor
    smooth: Tensor | None
    static: Tensor | None

    def __init__(self, spec: WeightSpec, values: QuantizedWeight, bias: nn.Parameter | None) -> None:
        """The layer with the quantized weight `values` and the original layer's bias."""
        super().__init__()
        self.spec = spec
        self.register_buffer("stored", values.stored)
        self.register_buffer("scale", values.scale)
        self.register_buffer("smooth", values.smooth)
        static = torch.tensor(spec.activations.scale) if spec.activations and spec.activations.scale else None
        self.register_buffer("static", static)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output, with quantized activations if the spec has them."""
        if self.spec.activations is None:
            return self.plain(inputs, self.weight_in(inputs.dtype))
        values = QuantizedWeight(self.stored, self.scale, self.smooth)
        rows = quantized_linear(channels_last(inputs), self.spec, values, self.static)
        return channels_restored(rows if self.bias is None else rows + self.bias, inputs)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight dequantized to `dtype`."""
        return dequantize_weight(self.stored, self.scale, self.spec, dtype)

    def plain(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """The unquantized layer's operation with `weight`."""
        return F.linear(inputs, weight, self.bias)

    def _apply(self, function, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: FBT001, FBT002
        """Move to a device but keep dtypes: `to(dtype)` concerns the compute dtype only."""
        kept = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}
        super()._apply(function, recurse)
        for name, buffer in kept.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class PackedConv2d(PackedLinear):
    """A convolution with a quantized weight."""

    def __init__(self, spec: WeightSpec, values: QuantizedWeight, like: nn.Conv2d) -> None:
        """The convolution with the quantized weight `values` and the stride, padding and bias of `like`."""
        super().__init__(spec, values, like.bias)
        self.how = {"stride": like.stride, "padding": like.padding, "dilation": like.dilation, "groups": like.groups}

    def plain(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """The unquantized layer's operation with `weight`."""
        return F.conv2d(inputs, weight, self.bias, **self.how)


def packed_like(layer: nn.Module, spec: WeightSpec, values: QuantizedWeight) -> nn.Module:
    """The quantized replacement of a linear or convolution layer; ValueError if the spec doesn't fit it."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or tuple(layer.weight.shape) != spec.shape:
        raise ValueError(f"a {type(layer).__name__} has no quantized weight of shape {list(spec.shape)}")
    if spec.activations and spec.columns != spec.shape[1]:
        raise ValueError(f"activations of a kernel of {list(spec.shape[2:])} can't be quantized")
    if isinstance(layer, nn.Conv2d):
        return PackedConv2d(spec, values, layer)
    return PackedLinear(spec, values, layer.bias)


def in_floats(module: nn.Module, device: torch.device) -> list[str]:
    """The activation dtypes used by `module` that `device` has no matmuls for."""
    layers = (layer for layer in module.modules() if isinstance(layer, PackedLinear) and layer.spec.activations)
    return sorted({quant_dtype for layer in layers if not multiplies(quant_dtype := layer.spec.dtype, device)})


def simulate(module: nn.Module, specs: Mapping[str, WeightSpec], dtype: torch.dtype) -> None:
    """Make layers compute with fake-quantized weights (QAT); the weights themselves stay trainable."""
    for name, spec in specs.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        layer.forward = functools.partial(_simulated, layer, spec, dtype)


def _simulated(layer: nn.Module, spec: WeightSpec, dtype: torch.dtype, inputs: Tensor) -> Tensor:
    weight = fake_quantize_weight(layer.weight, spec, dtype)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(inputs, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(inputs, weight, layer.bias)
