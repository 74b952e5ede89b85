"""Flow matching as in SANA: x_s = (1 - s) x_0 + s e, and the model predicts the velocity e - x_0."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Times:
    """Distribution of noise levels: logit-normal, shifted towards noise by `shift`."""

    mean: float = 0.0
    deviation: float = 1.0
    shift: float = 3.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels s in 0..1: u = sigmoid(N(mean, deviation)), s = shift u / (1 + (shift - 1) u)."""
        plain = torch.sigmoid(self.mean + self.deviation * torch.randn(count, generator=generator))
        return self.shift * plain / (1 + (self.shift - 1) * plain)


@dataclass(frozen=True, slots=True)
class FewStepTimes(Times):
    """The same with a share of pure noise, s = 1, where the first of SANA-Sprint's few steps starts."""

    pure_noise: float = 0.5

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels s in 0..1."""
        levels = Times.draw(self, count, generator)
        return torch.where(torch.rand(count, generator=generator) < self.pure_noise, 1.0, levels)


def noised(latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Noised latents on the straight line between data (s = 0) and noise (s = 1)."""
    levels = levels.view(-1, *[1] * (latents.dim() - 1))
    return (1 - levels) * latents + levels * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Target velocity: the derivative of the noised latents by s."""
    return noise - latents


def flow_loss(predicted: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity, in fp32."""
    return (predicted.float() - velocity(latents, noise).float()).square().mean()


def drop_captions(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Random mask of samples that train without caption, for classifier-free guidance."""
    return torch.rand(count, generator=generator) < share
