"""GPTQ (arXiv 2210.17323): rounds a weight column by column and compensates each rounding error in later columns.

With H = X'X of the activations, and U the upper Cholesky factor of H^-1 (H^-1 = U'U), column j of W is rounded to q_j,
and (w_j - q_j) / U_jj * U_jk is subtracted from every later column k: the change that minimises |X W' - X Q'|^2.
Columns with the most energy come first, while many columns remain to compensate; scales are fixed before, from W alone.
"""

import torch
from torch import Tensor

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.quant.weights import dequantize_values, matrix, quantize_values

DAMPING = 0.01  # share of H's mean diagonal added to its diagonal
TOGETHER = 128  # columns per lazy update of all later columns


def order_and_factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which columns are rounded, and U in that order, from the Gram matrix H (inputs, inputs)."""
    diagonal = gram.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    damped = gram[order][:, order].double()
    damped.diagonal().add_((DAMPING * diagonal.mean()).clamp_min(torch.finfo(torch.float32).tiny))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return order, torch.linalg.cholesky(inverse, upper=True).float()


def corrected(weight: Tensor, scale: Tensor, order: Tensor, factor: Tensor, spec: WeightSpec) -> Tensor:
    """GPTQ values of a weight, in the format of `sanac.nn.quant.weights.quantize_weight`."""
    remaining = matrix(weight).float().T[order].contiguous()  # (inputs, outputs)
    scales = scale.float().T[order // spec.width]
    stored = []
    for start in range(0, len(remaining), TOGETHER):
        stop = min(start + TOGETHER, len(remaining))
        errors = torch.empty_like(remaining[start:stop])
        for index in range(start, stop):
            value, its = remaining[index][:, None], scales[index][:, None]
            codes = quantize_values(value, its, 1, spec.dtype)
            error = (value - dequantize_values(codes, its, 1, torch.float32))[:, 0] / factor[index, index]
            remaining[index + 1 : stop] -= factor[index, index + 1 : stop, None] * error
            errors[index - start] = error
            stored.append(codes)
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    return torch.cat(stored, dim=1)[:, torch.argsort(order)]
