"""What weights are multiplied by, quantized: all of it by one scale that calibration found, or token by token.

Channels with outliers are divided by powers of two before, by which the weight's columns are multiplied: both exact in
any dtype, so that smoothing by itself changes nothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.checkpoint.quant_json import STATIC, ActivationSpec, WeightSpec
from sanac.nn.quant.weights import QMAX, STORED, QuantizedWeight, dequantize_weight

LOWEST = {"int8": -128.0, "fp8": -448.0}  # as graphs saturate; weights don't use the last number
STEEPEST = 24  # exponents of smoothing, either way
_LARGEST_CODE = 0x7E  # of fp8, which orders its numbers; what follows is none
_CAPABLE = {"int8": (7, 5), "fp8": (8, 9)}  # GPUs
_MANY = 16  # rows, more than which a GPU's product of int8 wants, and what counts of it have to be multiples of


def channels_last(values: Tensor) -> Tensor:
    """Channels last: those of a picture are its second dimension."""
    return values.movedim(1, -1) if values.ndim == 4 else values


def channels_restored(rows: Tensor, like: Tensor) -> Tensor:
    """The reverse."""
    return rows.movedim(-1, 1) if like.ndim == 4 else rows


def factors(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Powers of two."""
    return torch.exp2(exponents.float()).to(dtype)


def smoothed(rows: Tensor, exponents: Tensor | None) -> Tensor:
    """Channels divided by their powers of two, in fp32: half precision has not all of them."""
    return rows if exponents is None else rows * factors(-exponents, torch.float32)


def quantize_activations(
    rows: Tensor, spec: ActivationSpec, quant_dtype: str, static: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(int8 or fp8 values, their scale in fp32: one number, or one for each token); `static` is that number there."""
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
    """What a layer computes with instead of what it is given, in the same layout; smoothed."""
    assert spec.activations is not None
    stored, scale = quantize_activations(smoothed(channels_last(values), exponents), spec.activations, spec.dtype)
    return channels_restored((stored.float() * scale).to(values.dtype), values)


class ReplayError(NamedTuple):
    """How far values lie outside of what is rounded to the numbers that another gave them."""

    farthest: float  # of its token's largest
    steps: float  # of all together, most of which lie inside, in steps of all together


@dataclass(frozen=True, slots=True)
class ActivationQuantizer:
    """What a layer makes of what it is given."""

    spec: WeightSpec
    exponents: Tensor | None  # of its smoothing

    def __call__(self, values: Tensor) -> Tensor:
        """As it does."""
        return fake_quantize_activations(values, self.spec, self.exponents)

    def replay(self, values: Tensor, codes: Tensor) -> tuple[Tensor, ReplayError]:
        """As another rounded the same, to these numbers of steps; infinitely off where they are none of this form."""
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
    """From each number to the next, towards a value."""
    if quant_dtype != "fp8":
        return torch.ones_like(numbers)
    size = numbers.abs()
    outwards = (towards.abs() > size) & (towards * numbers >= 0)
    code = size.to(STORED[quant_dtype]).view(torch.uint8).int() + torch.where(outwards, 1, -1)
    following = code.clamp(0, _LARGEST_CODE).to(torch.uint8).view(STORED[quant_dtype]).float()
    return (following - size).abs()


def quantized_linear(rows: Tensor, spec: WeightSpec, weight: QuantizedWeight, static: Tensor | None = None) -> Tensor:
    """What is given, quantized, times a quantized weight: (..., columns) -> (..., rows of the weight)."""
    assert spec.activations is not None
    values, their = quantize_activations(smoothed(rows, weight.smooth), spec.activations, spec.dtype, static)
    left, right, scale = values.flatten(0, -2).contiguous(), weight.stored.flatten(1), weight.scale
    if not _multiplies(left, right, spec.dtype):
        wide = torch.float32 if rows.dtype == torch.float16 else rows.dtype  # smoothed numbers may be beyond fp16
        used = dequantize_weight(right, scale, spec, torch.float32).flatten(1)
        return F.linear((values.float() * their).to(wide), used.to(wide)).to(rows.dtype)
    if spec.dtype == "int8":
        sums = torch._int_mm(left, right.t()).unflatten(0, values.shape[:-1])  # noqa: SLF001 (there is no other)
        return (sums * their * scale.float().flatten()).to(rows.dtype)
    whole = spec.activations.kind == STATIC  # such a weight has one scale, too
    scales = (their, scale[0, 0].float()) if whole else (their.flatten(0, -2), scale.float().t())
    out = rows.dtype if left.device.type == "cpu" else torch.bfloat16  # all that every GPU has
    found: Tensor = torch._scaled_mm(left, right.t(), *scales, out_dtype=out)  # noqa: SLF001
    return found.unflatten(0, values.shape[:-1]).to(rows.dtype)


def multiplies(quant_dtype: str, device: torch.device) -> bool:
    """Whether a device has products of these numbers themselves; elsewhere they are computed in floats."""
    if device.type != "cuda":
        return quant_dtype == "int8"
    capable: bool = torch.cuda.get_device_capability(device) >= _CAPABLE[quant_dtype]
    return capable


def _multiplies(left: Tensor, right: Tensor, quant_dtype: str) -> bool:
    """The same, in these shapes."""
    if not multiplies(quant_dtype, left.device):
        return False
    fits = left.shape[1] % _MANY == 0 and right.shape[0] % _MANY == 0 and left.shape[0] > _MANY
    return bool(fits or left.device.type != "cuda")
