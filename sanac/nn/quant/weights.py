"""Quantize and dequantize: operators that torch can trace, whose eager kernels are the simulator everywhere.

Weights are looked at as matrices, an output channel a row; a group of `block` neighbours in a row shares a scale (all
of the row without a block; the last group may be shorter). Zero is always zero: there are no zero points.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.checkpoint.quant_json import WeightSpec

QMAX = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}  # what the largest value of a group becomes
STORED = {"int8": torch.int8, "int4": torch.int8, "fp8": torch.float8_e4m3fn}
_LOWEST = {"int8": -127.0, "int4": -8.0, "fp8": -448.0}
SHRUNK = 24  # scales that are tried by `smallest_error`, from the largest value's down to a half of it
PIECE = 1 << 18  # values that a processor works with at a time: they stay in its cache


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """What of a quantized weight is computed with."""

    stored: Tensor
    scale: Tensor
    smooth: Tensor | None = None  # exponents of two

    def cloned(self) -> "QuantizedWeight":
        """The same in memory of their own."""
        return QuantizedWeight(
            self.stored.clone(), self.scale.clone(), None if self.smooth is None else self.smooth.clone()
        )


def _quantize(values: Tensor, scale: Tensor, group_size: int, quant_dtype: str) -> Tensor:
    """(rows, columns) and (rows, groups of `block` columns) -> whole numbers, or fp8."""
    stored = torch.empty_like(values, dtype=STORED[quant_dtype])
    together = max(1, PIECE // values.shape[1]) if values.device.type == "cpu" else len(values)
    room = torch.empty_like(values[:together], dtype=torch.float32)
    for part, their, found in zip(values.split(together), scale.split(together), stored.split(together), strict=True):
        scaled, spread = _paired(room[: len(part)].copy_(part), their, group_size)
        scaled.div_(spread)
        if quant_dtype != "fp8":
            scaled.round_()
        found.copy_(scaled.clamp_(_LOWEST[quant_dtype], QMAX[quant_dtype]).view(found.shape))
    return stored


def _dequantize(stored: Tensor, scale: Tensor, group_size: int, dtype: torch.dtype) -> Tensor:
    """What quantized values stand for, in `dtype`: the products are rounded once."""
    paired, spread = _paired(stored.float() if stored.is_floating_point() else stored, scale, group_size)
    return torch.mul(paired, spread).to(dtype).reshape(stored.shape)


def _paired(values: Tensor, scale: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Values and their scales in fp32, of shapes that go together."""
    scale, columns = scale.float(), values.shape[1]
    if group_size >= columns:
        return values, scale
    if columns % group_size == 0:
        return values.unflatten(1, (-1, group_size)), scale[:, :, None]
    return values, scale.repeat_interleave(group_size, dim=1)[:, :columns]


_quantizing = torch.library.custom_op("sanac::quantize", _quantize, mutates_args=())
_dequantizing = torch.library.custom_op("sanac::dequantize", _dequantize, mutates_args=())
_quantizing.register_fake(lambda values, _scale, _block, form: torch.empty_like(values, dtype=STORED[form]))
_dequantizing.register_fake(lambda stored, _scale, _block, dtype: torch.empty_like(stored, dtype=dtype))
quantize_values: Callable[[Tensor, Tensor, int, str], Tensor] = _quantizing
dequantize_values: Callable[[Tensor, Tensor, int, torch.dtype], Tensor] = _dequantizing


def pack(values: Tensor) -> Tensor:
    """Four-bit numbers, two to a byte along the rows: the first in the lower half. An odd row ends in a zero."""
    pairs = F.pad(values & 0xF, (0, values.shape[1] % 2)).view(torch.int16)  # the first is in the lower byte
    return (pairs >> 4).bitwise_or_(pairs).to(torch.uint8)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """The reverse."""
    halves = torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1)[:, :columns].view(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


def matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix: an output channel a row."""
    return weight.flatten(1)


def grouped(values: Tensor, group_size: int) -> Tensor:
    """(rows, columns) -> (rows, groups, block), with zeros behind a shorter last group."""
    return F.pad(values, (0, -values.shape[1] % group_size)).unflatten(1, (-1, group_size))


def absmax_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """Scales by which each group's largest value is the largest number; a group of zeros has the scale one."""
    return _by_largest(grouped(matrix(weight), spec.width), spec.dtype, dtype)


def per_tensor_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """The same, of all of a weight together."""
    return _by_largest(weight.reshape(1, 1, -1), spec.dtype, dtype).repeat(len(weight), 1)


def _by_largest(groups: Tensor, quant_dtype: str, dtype: torch.dtype) -> Tensor:
    bits = torch.int16 if groups.element_size() == 2 else torch.int32  # without their sign, they order floats
    largest = (groups.view(bits) & torch.iinfo(bits).max).amax(dim=2).view(groups.dtype).float()
    return _as_scale(torch.where(largest == 0, 1.0, largest / QMAX[quant_dtype]), dtype)


def _as_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """As it is stored: never zero, which fp16 soon is; NaN stays to be seen."""
    limits = torch.finfo(dtype)
    return scale.to(dtype).clamp_min(limits.smallest_normal * limits.eps)


def mse_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """Scales that leave the smallest square error of each group: large values may be cut for the others' sake."""
    rows = matrix(weight)
    pieces = rows.split(max(1, PIECE // rows.shape[1]))
    return torch.cat([_smallest_error(piece, spec, dtype) for piece in pieces])


def _smallest_error(rows: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    values, low, high = grouped(rows.float(), spec.width), _LOWEST[spec.dtype], QMAX[spec.dtype]
    largest = absmax_scales(rows, spec, torch.float32)
    best = _as_scale(largest, dtype)
    least = torch.full_like(largest, torch.inf)
    scaled, eight = torch.empty_like(values), spec.dtype == "fp8"
    for step in range(SHRUNK):
        scale = _as_scale(largest * (1 - 0.5 * step / SHRUNK), dtype)
        spread = scale.float()[:, :, None]
        torch.div(values, spread, out=scaled)
        rounded = (
            scaled.clamp_(low, high).to(torch.float8_e4m3fn).float() if eight else scaled.round_().clamp_(low, high)
        )
        error = rounded.mul_(spread).sub_(values).square_().sum(dim=2)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, scale, best)
    return best


ROUNDINGS: dict[str, Callable[[Tensor, WeightSpec, torch.dtype], Tensor]] = {
    "nearest": absmax_scales,
    "search": mse_scales,
    "gptq": mse_scales,  # its values are fitted besides
    "tensor": per_tensor_scales,
}


def quantize_weight(weight: Tensor, scale: Tensor, spec: WeightSpec) -> Tensor:
    """The weight's quantized values as a matrix."""
    return quantize_values(matrix(weight), scale.flatten(1), spec.width, spec.dtype)


def dequantize_weight(stored: Tensor, scale: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """The weight that quantized values, packed or not, stand for."""
    values = unpack(stored, spec.columns) if stored.dtype == torch.uint8 else stored.flatten(1)
    return dequantize_values(values, scale.flatten(1), spec.width, dtype).view(spec.shape)


class _Through(torch.autograd.Function):  # type: ignore[misc]
    """Straight through: forward the quantized weight, backward as if it were the weight itself."""

    @staticmethod
    def forward(_context: object, weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
        """Quantized and restored."""
        scale = ROUNDINGS[spec.rounding](weight, spec, dtype)
        return dequantize_weight(quantize_weight(weight, scale, spec), scale, spec, weight.dtype)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Unchanged."""
        return gradient, None, None


def fake_quantize_weight(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """What a weight will be once it is quantized, with a gradient."""
    found: Tensor = _Through.apply(weight, spec, dtype)
    return found
