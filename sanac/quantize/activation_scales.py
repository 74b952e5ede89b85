"""How what layers are given is quantized: a static scale, and which channels are smoothed how strongly.

Smoothing (arXiv 2211.10438) divides channel j of what a layer is given by s_j and multiplies column j of its weight by
it, with s_j = max|X_j|^a / max|W_j|^(1 - a): outliers go where rows have scales of their own. Here s_j is rounded to a
power of two, so that both are exact, and the strength a is the one whose outputs err least, none at all among them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.checkpoint.quant_json import STATIC, ActivationSpec, WeightSpec
from sanac.nn.quant.activations import STEEPEST, factors, quantize_activations, smoothed
from sanac.nn.quant.weights import QMAX, ROUNDINGS, dequantize_weight, matrix, quantize_weight

STRENGTHS = tuple(step / 10 for step in range(2, 11))
PERCENTILE = 0.9999
RANGES = ("minmax", "percentile", "mse")
SHRUNK = 32  # ranges that `mse` tries, each an eighth of an octave below the one before


@dataclass(frozen=True, slots=True)
class ActivationSample:
    """What layers that share their inputs were given."""

    rows: Tensor  # (some tokens, channels)
    largest: Tensor  # (channels,), of all tokens


def fit_activations(
    seen: ActivationSample, weights: list[Tensor], packing: WeightSpec, dtype: torch.dtype, ranges: str
) -> tuple[ActivationSpec, Tensor | None]:
    """What suits layers that share their inputs best, their weights as matrices; with exponents of smoothing."""
    assert packing.given is not None
    if not packing.given.smooth:
        return _ranged(seen, weights, None, packing, dtype, ranges), None
    wanted = [F.linear(seen.rows, weight) for weight in weights]
    tried = []
    for exponents in _smoothings(seen, weights):
        given = _ranged(seen, weights, exponents, packing, dtype, ranges)
        tried.append((_error(seen, weights, wanted, exponents, replace(packing, given=given), dtype), given, exponents))
    _, given, exponents = min(tried, key=lambda found: found[0])
    return given, exponents


def _smoothings(seen: ActivationSample, weights: list[Tensor]) -> Iterator[Tensor]:
    """None at all, then by strength; rows of weights have scales of their own, columns share theirs."""
    yield torch.zeros_like(seen.largest, dtype=torch.int8)
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    alive = (seen.largest > 0) & (columns > 0)
    for strength in STRENGTHS:
        apart = strength * seen.largest.clamp_min(1e-30).log2() - (1 - strength) * columns.clamp_min(1e-30).log2()
        apart = torch.where(alive, apart, apart[alive].mean()) - apart[alive].mean()
        yield apart.round().clamp(-STEEPEST, STEEPEST).to(torch.int8)


def _ranged(
    seen: ActivationSample,
    weights: list[Tensor],
    exponents: Tensor | None,
    packing: WeightSpec,
    dtype: torch.dtype,
    ranges: str,
) -> ActivationSpec:
    assert packing.given is not None
    if packing.given.kind != STATIC:
        return packing.given
    energy = torch.stack([smoothed_weight(weight, exponents).square().sum(dim=0) for weight in weights]).sum(dim=0)
    largest = float(smoothed(seen.largest, exponents).max())
    scale = static_scale(smoothed(seen.rows, exponents), energy, largest, packing.form, dtype, ranges)
    return replace(packing.given, scale=scale)


def _error(
    seen: ActivationSample,
    weights: list[Tensor],
    wanted: list[Tensor],
    exponents: Tensor,
    packing: WeightSpec,
    dtype: torch.dtype,
) -> float:
    """Of what the layers give, squared, with all that is quantized; rounded to nearest for now."""
    assert packing.given is not None
    values, scale = quantize_activations(smoothed(seen.rows, exponents), packing.given, packing.form)
    used, error = values.float() * scale, 0.0
    for weight, target in zip(weights, wanted, strict=True):
        how = replace(packing, shape=tuple(weight.shape))
        rows = smoothed_weight(weight, exponents)
        scales = ROUNDINGS[how.rounding](rows, how, dtype)
        rough = dequantize_weight(quantize_weight(rows, scales, how), scales, how, torch.float32)
        error += float((F.linear(used, rough) - target).square().sum())
    return error


def smoothed_weight(weight: Tensor, exponents: Tensor | None) -> Tensor:
    """A weight as a matrix in fp32, its columns multiplied by what its inputs are divided by."""
    found = matrix(weight).float()
    return found if exponents is None else found * factors(exponents, torch.float32)


def static_scale(rows: Tensor, energy: Tensor, largest: float, form: str, dtype: torch.dtype, ranges: str) -> float:
    """One scale for all that a layer is given, as its dtype holds it.

    `mse` cuts off what costs less than finer steps save, each channel weighed by the energy of its column.
    """
    if ranges == "percentile":
        values = rows.abs().flatten().float()
        largest = float(values.kthvalue(max(1, round(PERCENTILE * len(values)))).values) or largest
    candidates = [_held(largest / QMAX[form], dtype)]
    if ranges == "mse":
        candidates += [_held(candidates[0] * 2 ** (-step / 8), dtype) for step in range(1, SHRUNK)]
    if len(candidates) == 1:
        return candidates[0]

    def cost(scale: float) -> float:
        values, _ = quantize_activations(rows, ActivationSpec(STATIC, smooth=False, scale=scale), form)
        return float(((values.float() * scale - rows).square() @ energy).sum())

    return min(candidates, key=cost)


def _held(scale: float, dtype: torch.dtype) -> float:
    """As a tensor of this dtype holds it, never zero or infinite."""
    limits = torch.finfo(dtype)
    least = max(limits.smallest_normal * limits.eps, torch.finfo(torch.float32).smallest_normal)
    return float(torch.tensor(scale).to(dtype).clamp(least, min(limits.max / 2, 2.0**125)))
