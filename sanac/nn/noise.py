"""The Gaussian noise that an image begins with, and its neighbours."""

import torch
from torch import Tensor

from sanac.nn.stepwise import Noise


def turned(noise: Tensor, origin: Noise) -> Tensor:
    """A noise turned towards others: of the same length, and at each turn's cosine to the noise before it.

    y = |x| (t u + sqrt(1 - t^2) w),  u = x / |x|,  w: the other noise's part that is orthogonal to u, of length 1
    """
    for seed, cosine in origin.turns:
        other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        length = noise.double().norm()
        unit = noise.double() / length
        across = other - (other * unit).sum() * unit
        noise = (length * (cosine * unit + (1 - cosine**2) ** 0.5 * across / across.norm())).to(noise.dtype)
    return noise


def drawn(origin: Noise, shape: tuple[int, ...]) -> Tensor:
    """The noise of an origin, from the processor's generator on any device."""
    return turned(torch.randn(shape, generator=torch.Generator().manual_seed(origin.seed)), origin)
