"""Activation quantization: one static scale per tensor (from calibration) or a dynamic scale per token.

Smoothing divides channels with outliers by powers of two and multiplies the weight's columns by them: both are exact in
any dtype, so smoothing alone doesn't change the result.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.checkpoint.quant_json import STATIC, ActivationSpec, WeightSpec
from sanac.nn.quant.weights import QMAX, STORED, QuantizedWeight, dequantize_weight

LOWEST = {"int8": -128.0, "fp8": -448.0}  # as ONNX saturates; weights don't use -128
STEEPEST = 24  # largest absolute smoothing exponent
_LARGEST_CODE = 0x7E  # of fp8 e4m3, as an integer (codes are ordered); 0x7F is NaN
_CAPABLE = {"int8": (7, 5), "fp8": (8, 9)}  # minimum compute capability for matmuls in this dtype
_MANY = 16  # a GPU's int8 matmul needs more rows than this, and sizes that are multiples of it


def channels_last(values: Tensor) -> Tensor:
    """`values` with channels last; 4-d tensors have them in dimension 1."""
    return values.movedim(1, -1) if values.ndim == 4 else values


def channels_restored(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `channels_last`, for a tensor with the layout of `like`."""
    return rows.movedim(-1, 1) if like.ndim == 4 else rows


def factors(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """The powers of two with these exponents, in `dtype`."""
    return torch.exp2(exponents.float()).to(dtype)


def smoothed(rows: Tensor, exponents: Tensor | None) -> Tensor:
    """`rows` with each channel divided by its power of two, in fp32: half precision can't represent all of them."""
    return rows if exponents is None else rows * factors(-exponents, torch.float32)


def quantize_activations(
    rows: Tensor, spec: ActivationSpec, quant_dtype: str, static: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(int8 or fp8 codes, fp32 scale: one, or one per token). `static` is the static scale as a tensor on device."""
    if spec.kind == STATIC:
        assert spec.scale is not None
        scale = torch.tensor(spec.scale, device=rows.device) if static is None else static
    else:
        largest = rows.abs().amax(dim=-1, keepdim=True).float()
        scale = torch.where(largest == 0, 1.0, largest / QMAX[quant_dtype])
    scaled = rows.float() / scale
    if quant_dtype != "fp8":
        scaled = scaled.round()
    return scaled.clamp(LOWEST[quant_dtype], QMAX[quant_dtype]).to(STORED[quant_dtype]), scale


def fake_quantize_activations(values: Tensor, spec: WeightSpec, exponents: Tensor | None) -> Tensor:
    """Activations smoothed, quantized and dequantized, in the same layout and dtype."""
    assert spec.activations is not None
    stored, scale = quantize_activations(smoothed(channels_last(values), exponents), spec.activations, spec.dtype)
    return channels_restored((stored.float() * scale).to(values.dtype), values)


class ReplayError(NamedTuple):
    """How far activations lie outside the rounding intervals of another implementation's codes."""

    farthest: float  # worst distance, relative to its token's largest value
    steps: float  # sum of all distances (most are 0) over the sum of all step sizes


@dataclass(frozen=True, slots=True)
class ActivationQuantizer:
    """The activation quantizer of one layer."""

    spec: WeightSpec
    exponents: Tensor | None  # smoothing exponents

    def __call__(self, values: Tensor) -> Tensor:
        """The fake-quantized activations."""
        return fake_quantize_activations(values, self.spec, self.exponents)

    def replay(self, values: Tensor, codes: Tensor) -> tuple[Tensor, ReplayError]:
        """Replay another implementation's rounding from its `codes`; also return how far our values are off.

        The ReplayError measures distances to those codes' rounding intervals: inf if a code isn't representable.
        """
        assert self.spec.activations is not None
        rows, quant_dtype = smoothed(channels_last(values), self.exponents).float(), self.spec.dtype
        stored, scale = quantize_activations(rows, self.spec.activations, quant_dtype)
        theirs = codes.to(rows.device).float()
        known = theirs.clamp(LOWEST[quant_dtype], QMAX[quant_dtype]).to(stored.dtype).float()
        if theirs.numel() != rows.numel() or not torch.equal(known, theirs):
            return self(values), ReplayError(math.inf, math.inf)
        theirs, scaled = theirs.view(rows.shape), rows / scale
        step, same = _step(theirs, scaled, quant_dtype), theirs == stored.float()
        outside = ((scaled - theirs).abs() - step / 2).clamp_min(0).masked_fill(same, 0)
        largest = scaled.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        off = ReplayError(float((outside / largest).max()), float(outside.sum() / step.sum()))
        return channels_restored((theirs * scale).to(values.dtype), values), off


def _step(numbers: Tensor, towards: Tensor, quant_dtype: str) -> Tensor:
    """Distance from each code's value to the next one in the direction of `towards`."""
    if quant_dtype != "fp8":
        return torch.ones_like(numbers)
    size = numbers.abs()
    outwards = (towards.abs() > size) & (towards * numbers >= 0)
    code = size.to(STORED[quant_dtype]).view(torch.uint8).int() + torch.where(outwards, 1, -1)
    following = code.clamp(0, _LARGEST_CODE).to(torch.uint8).view(STORED[quant_dtype]).float()
    return (following - size).abs()


def quantized_linear(rows: Tensor, spec: WeightSpec, weight: QuantizedWeight, static: Tensor | None = None) -> Tensor:
    """Linear layer with quantized activations and weight: (..., columns) -> (..., rows of the weight)."""
    assert spec.activations is not None
    values, their = quantize_activations(smoothed(rows, weight.smooth), spec.activations, spec.dtype, static)
    left, right, scale = values.flatten(0, -2).contiguous(), weight.stored.flatten(1), weight.scale
    if not _multiplies(left, right, spec.dtype):
        wide = torch.float32 if rows.dtype == torch.float16 else rows.dtype  # smoothed values may overflow fp16
        used = dequantize_weight(right, scale, spec, torch.float32).flatten(1)
        return F.linear((values.float() * their).to(wide), used.to(wide)).to(rows.dtype)
    if spec.dtype == "int8":
        sums = torch._int_mm(left, right.t()).unflatten(0, values.shape[:-1])  # noqa: SLF001 (torch has no public one)
        return (sums * their * scale.float().flatten()).to(rows.dtype)
    whole = spec.activations.kind == STATIC  # such a weight has a single scale, too
    scales = (their, scale[0, 0].float()) if whole else (their.flatten(0, -2), scale.float().t())
    out = rows.dtype if left.device.type == "cpu" else torch.bfloat16  # the one output dtype that every GPU supports
    found: Tensor = torch._scaled_mm(left, right.t(), *scales, out_dtype=out)  # noqa: SLF001
    return found.unflatten(0, values.shape[:-1]).to(rows.dtype)


def multiplies(quant_dtype: str, device: torch.device) -> bool:
    """Whether `device` has matmuls in this dtype; elsewhere they are simulated in floating point."""
    if device.type != "cuda":
        return quant_dtype == "int8"
    capable: bool = torch.cuda.get_device_capability(device) >= _CAPABLE[quant_dtype]
    return capable


def _multiplies(left: Tensor, right: Tensor, quant_dtype: str) -> bool:
    """Whether the device has a matmul in this dtype for these shapes."""
    if not multiplies(quant_dtype, left.device):
        return False
    fits = left.shape[1] % _MANY == 0 and right.shape[0] % _MANY == 0 and left.shape[0] > _MANY
    return bool(fits or left.device.type != "cuda")
