"""Draws batches: samples, caption dropout, noise and noise levels, determined by the batch number and the seed.

The teacher's outputs for batch n can therefore be computed once, before training, and cached.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sanac.finetune.encoded_dataset import Prepared, Samples
from sanac.train.flow_matching import Times, drop_captions, noised
from sanac.train.loop import generator_for


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Settings for drawing batches."""

    size: int
    seed: int = 0
    times: Times = field(default_factory=Times)
    caption_dropout: float = 0.1

    def draw(self, data: Prepared, number: int) -> "Batch":
        """Draw batch `number` of `data`, on the CPU."""
        chance = generator_for(self.seed, number)
        picked = torch.randint(len(data), (self.size,), generator=chance).tolist()
        dropped = drop_captions(self.size, self.caption_dropout, chance).tolist()
        samples = data.pick(picked, dropped)
        noise = torch.randn(samples.latents.shape, generator=chance)
        return Batch(samples, noise, self.times.draw(self.size, chance), tuple(picked))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples with their noise and noise levels."""

    samples: Samples
    noise: Tensor
    levels: Tensor
    picked: tuple[int, ...]

    @property
    def states(self) -> Tensor:
        """Noised latents, on the straight line between data and noise."""
        return noised(self.samples.latents, self.noise, self.levels)
