"""GPTQ (arXiv 2210.17323): what rounding one input's weights got wrong is made up for by the inputs still to come.

With H = X'X of what a layer is given, and U the upper Cholesky factor of H^-1 (H^-1 = U'U), input j of W is rounded
to q_j, and every later input k loses (w_j - q_j) / U_jj * U_jk: the change that keeps |X W' - X Q'|^2 smallest. Inputs
with much energy come first, while there is much left to make up with; scales are found before, from the weight alone.
"""

import torch
from torch import Tensor

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.quant.weights import dequantize_values, matrix, quantize_values

DAMPING = 0.01  # of H's mean diagonal, added to all of it
TOGETHER = 128  # inputs after which all later ones are corrected at once


def order_and_factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which inputs are rounded, and U for inputs in that order; from H (inputs, inputs)."""
    diagonal = gram.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    damped = gram[order][:, order].double()
    damped.diagonal().add_((DAMPING * diagonal.mean()).clamp_min(torch.finfo(torch.float32).tiny))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return order, torch.linalg.cholesky(inverse, upper=True).float()


def corrected(weight: Tensor, scale: Tensor, order: Tensor, factor: Tensor, spec: WeightSpec) -> Tensor:
    """The weight's quantized values, in the form of `sanac.nn.quant.weights.quantize_weight`, fitted to inputs."""
    remaining = matrix(weight).float().T[order].contiguous()  # an input a row
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
