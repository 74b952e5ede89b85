"""Weight quantization: traceable quantize and dequantize operators, whose eager kernels are the reference everywhere.

Weights are treated as matrices with one output channel per row; each group of `group_size` neighbours in a row
shares a scale (the whole row without a group size; the last group may be shorter). There are no zero points.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.checkpoint.quant_json import WeightSpec

QMAX = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}  # code of a group's largest absolute value
STORED = {"int8": torch.int8, "int4": torch.int8, "fp8": torch.float8_e4m3fn}
_LOWEST = {"int8": -127.0, "int4": -8.0, "fp8": -448.0}
SHRUNK = 24  # candidate scales of `mse_scales`, from the absmax scale down to about half of it
PIECE = 1 << 18  # values per step on a CPU: they stay in its cache


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """The tensors of a quantized weight."""

    stored: Tensor
    scale: Tensor
    smooth: Tensor | None = None  # smoothing exponents of two

    def cloned(self) -> "QuantizedWeight":
        """A copy in its own memory (not memory-mapped)."""
        return QuantizedWeight(
            self.stored.clone(), self.scale.clone(), None if self.smooth is None else self.smooth.clone()
        )


def _quantize(values: Tensor, scale: Tensor, group_size: int, quant_dtype: str) -> Tensor:
    """Codes (integer or fp8) of `values` (rows, columns) with `scale` (rows, groups of `group_size` columns)."""
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
    """Codes times scales, computed in fp32 and rounded once to `dtype`."""
    paired, spread = _paired(stored.float() if stored.is_floating_point() else stored, scale, group_size)
    return torch.mul(paired, spread).to(dtype).reshape(stored.shape)


def _paired(values: Tensor, scale: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """`values` and their scales in fp32, with shapes that broadcast."""
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
    """Pack int4 codes two per byte along the rows, the first in the lower half; an odd row is padded with 0."""
    pairs = F.pad(values & 0xF, (0, values.shape[1] % 2)).view(torch.int16)  # the first is in the lower byte
    return (pairs >> 4).bitwise_or_(pairs).to(torch.uint8)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """The inverse of `pack`, for rows of `columns` codes."""
    halves = torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1)[:, :columns].view(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


def matrix(weight: Tensor) -> Tensor:
    """`weight` as a matrix, one output channel per row."""
    return weight.flatten(1)


def grouped(values: Tensor, group_size: int) -> Tensor:
    """(rows, columns) -> (rows, groups, block), a shorter last group padded with zeros."""
    return F.pad(values, (0, -values.shape[1] % group_size)).unflatten(1, (-1, group_size))


def absmax_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """Absmax scales: each group's largest absolute value maps to the largest code; a group of zeros has scale 1."""
    return _by_largest(grouped(matrix(weight), spec.width), spec.dtype, dtype)


def per_tensor_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """One absmax scale for the whole weight, repeated for each row."""
    return _by_largest(weight.reshape(1, 1, -1), spec.dtype, dtype).repeat(len(weight), 1)


def _by_largest(groups: Tensor, quant_dtype: str, dtype: torch.dtype) -> Tensor:
    bits = (
        torch.int16 if groups.element_size() == 2 else torch.int32
    )  # with the sign bit masked, integers order like floats
    largest = (groups.view(bits) & torch.iinfo(bits).max).amax(dim=2).view(groups.dtype).float()
    return _as_scale(torch.where(largest == 0, 1.0, largest / QMAX[quant_dtype]), dtype)


def _as_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`scale` in its storage dtype, never 0 (fp16 underflows early); NaN is kept so that it shows."""
    limits = torch.finfo(dtype)
    return scale.to(dtype).clamp_min(limits.smallest_normal * limits.eps)


def mse_scales(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """Scales with the smallest squared error per group; large values may be clipped in favour of the others."""
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
    "gptq": mse_scales,  # gptq also adjusts the codes
    "tensor": per_tensor_scales,
}


def quantize_weight(weight: Tensor, scale: Tensor, spec: WeightSpec) -> Tensor:
    """The weight's codes as a matrix, with the given scales."""
    return quantize_values(matrix(weight), scale.flatten(1), spec.width, spec.dtype)


def dequantize_weight(stored: Tensor, scale: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """The dequantized weight in its original shape, from packed or unpacked codes."""
    values = unpack(stored, spec.columns) if stored.dtype == torch.uint8 else stored.flatten(1)
    return dequantize_values(values, scale.flatten(1), spec.width, dtype).view(spec.shape)


class _Through(torch.autograd.Function):  # type: ignore[misc]
    """Straight-through estimator: the forward pass fake-quantizes the weight, the backward pass is the identity."""

    @staticmethod
    def forward(_context: object, weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
        """The weight, quantized and dequantized."""
        scale = ROUNDINGS[spec.rounding](weight, spec, dtype)
        return dequantize_weight(quantize_weight(weight, scale, spec), scale, spec, weight.dtype)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient, unchanged."""
        return gradient, None, None


def fake_quantize_weight(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """The fake-quantized weight, with a straight-through gradient."""
    found: Tensor = _Through.apply(weight, spec, dtype)
    return found
