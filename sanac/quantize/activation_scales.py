"""Fits activation quantization: the static scale, and the smoothing factors per channel.

Smoothing (arXiv 2211.10438) divides channel j of the activations by s_j and multiplies column j of the weight by it,
with s_j = max|X_j|^a / max|W_j|^(1 - a): outliers move to the weight, which has a scale per row. Here s_j is rounded to
a power of two, so that both are exact. The strength a is chosen for the least output error; no smoothing is tried too.
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
SHRUNK = 32  # ranges that `mse` tries, each 2^(-1/8) times the previous one


@dataclass(frozen=True, slots=True)
class ActivationSample:
    """Sampled activations of a group of layers that share their input."""

    rows: Tensor  # (sampled tokens, channels)
    largest: Tensor  # (channels,): largest magnitude over all tokens


def fit_activations(
    sample: ActivationSample, weights: list[Tensor], spec: WeightSpec, dtype: torch.dtype, ranges: str
) -> tuple[ActivationSpec, Tensor | None]:
    """Activation quantization and smoothing exponents (None without smoothing) for layers that share their input.

    `weights` are the layers' weights as matrices.
    """
    assert spec.activations is not None
    if not spec.activations.smooth:
        return _ranged(sample, weights, None, spec, dtype, ranges), None
    targets = [F.linear(sample.rows, weight) for weight in weights]
    candidates = []
    for exponents in _smoothings(sample, weights):
        activations = _ranged(sample, weights, exponents, spec, dtype, ranges)
        candidates.append(
            (
                _error(sample, weights, targets, exponents, replace(spec, activations=activations), dtype),
                activations,
                exponents,
            )
        )
    _, activations, exponents = min(candidates, key=lambda found: found[0])
    return activations, exponents


def _smoothings(sample: ActivationSample, weights: list[Tensor]) -> Iterator[Tensor]:
    """Candidate smoothing exponents: no smoothing first, then one per strength."""
    yield torch.zeros_like(sample.largest, dtype=torch.int8)
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    alive = (sample.largest > 0) & (columns > 0)
    for strength in STRENGTHS:
        exponents = strength * sample.largest.clamp_min(1e-30).log2() - (1 - strength) * columns.clamp_min(1e-30).log2()
        exponents = torch.where(alive, exponents, exponents[alive].mean()) - exponents[alive].mean()
        yield exponents.round().clamp(-STEEPEST, STEEPEST).to(torch.int8)


def _ranged(
    sample: ActivationSample,
    weights: list[Tensor],
    exponents: Tensor | None,
    spec: WeightSpec,
    dtype: torch.dtype,
    ranges: str,
) -> ActivationSpec:
    assert spec.activations is not None
    if spec.activations.kind != STATIC:
        return spec.activations
    energy = torch.stack([smoothed_weight(weight, exponents).square().sum(dim=0) for weight in weights]).sum(dim=0)
    largest = float(smoothed(sample.largest, exponents).max())
    scale = static_scale(smoothed(sample.rows, exponents), energy, largest, spec.dtype, dtype, ranges)
    return replace(spec.activations, scale=scale)


def _error(
    sample: ActivationSample,
    weights: list[Tensor],
    targets: list[Tensor],
    exponents: Tensor,
    spec: WeightSpec,
    dtype: torch.dtype,
) -> float:
    """Squared error of the layers' outputs with quantized activations and weights, rounded to nearest."""
    assert spec.activations is not None
    values, scale = quantize_activations(smoothed(sample.rows, exponents), spec.activations, spec.dtype)
    used, error = values.float() * scale, 0.0
    for weight, target in zip(weights, targets, strict=True):
        how = replace(spec, shape=tuple(weight.shape))
        rows = smoothed_weight(weight, exponents)
        scales = ROUNDINGS[how.rounding](rows, how, dtype)
        restored = dequantize_weight(quantize_weight(rows, scales, how), scales, how, torch.float32)
        error += float((F.linear(used, restored) - target).square().sum())
    return error


def smoothed_weight(weight: Tensor, exponents: Tensor | None) -> Tensor:
    """The weight as an fp32 matrix, its columns multiplied by the smoothing factors of its inputs."""
    found = matrix(weight).float()
    return found if exponents is None else found * factors(exponents, torch.float32)


def static_scale(
    rows: Tensor, energy: Tensor, largest: float, quant_dtype: str, dtype: torch.dtype, ranges: str
) -> float:
    """Static scale of a layer's activations, representable in `dtype`.

    `ranges` is minmax, percentile or mse. `mse` clips where that lowers the error, weighing channels by `energy`.
    """
    if ranges == "percentile":
        values = rows.abs().flatten().float()
        largest = float(values.kthvalue(max(1, round(PERCENTILE * len(values)))).values) or largest
    candidates = [_held(largest / QMAX[quant_dtype], dtype)]
    if ranges == "mse":
        candidates += [_held(candidates[0] * 2 ** (-step / 8), dtype) for step in range(1, SHRUNK)]
    if len(candidates) == 1:
        return candidates[0]

    def cost(scale: float) -> float:
        values, _ = quantize_activations(rows, ActivationSpec(STATIC, smooth=False, scale=scale), quant_dtype)
        return float(((values.float() * scale - rows).square() @ energy).sum())

    return min(candidates, key=cost)


def _held(scale: float, dtype: torch.dtype) -> float:
    """The scale rounded to `dtype`, never zero or infinite."""
    limits = torch.finfo(dtype)
    least = max(limits.smallest_normal * limits.eps, torch.finfo(torch.float32).smallest_normal)
    return float(torch.tensor(scale).to(dtype).clamp(least, min(limits.max / 2, 2.0**125)))
