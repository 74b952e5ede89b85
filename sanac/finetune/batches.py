"""Which samples a batch holds and how much noise they are under: a batch's number and the seed say it all.

So what a teacher says to batch n can be worked out once, before training, and read afterwards.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sanac.finetune.encoded_dataset import Prepared, Samples
from sanac.train.flow_matching import Times, drop_captions, noised
from sanac.train.loop import generator_for


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """How batches are drawn."""

    size: int
    seed: int = 0
    times: Times = field(default_factory=Times)
    caption_dropout: float = 0.1

    def draw(self, data: Prepared, number: int) -> "Batch":
        """Batch `number`, on the CPU."""
        chance = generator_for(self.seed, number)
        picked = torch.randint(len(data), (self.size,), generator=chance).tolist()
        dropped = drop_captions(self.size, self.caption_dropout, chance).tolist()
        samples = data.pick(picked, dropped)
        noise = torch.randn(samples.latents.shape, generator=chance)
        return Batch(samples, noise, self.times.draw(self.size, chance), tuple(picked))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples under noise."""

    samples: Samples
    noise: Tensor
    levels: Tensor
    picked: tuple[int, ...]

    @property
    def states(self) -> Tensor:
        """Latents on the line between data and noise."""
        return noised(self.samples.latents, self.noise, self.levels)
