"""Draws batches: samples or steps of trajectories, caption dropout, noise levels, determined by the batch number.

The teacher's outputs for batch n can therefore be computed once, before training, and cached.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from sanac.finetune.encoded_dataset import Prepared, Samples
from sanac.finetune.trajectories import Trajectories
from sanac.nn.guidance import ClassifierFree
from sanac.train.flow_matching import Times, drop_captions, noised
from sanac.train.loop import generator_for


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of the transformer, and what it should predict where that is known beforehand."""

    samples: Samples
    noise: Tensor | None  # None: the samples' latents are inputs already
    levels: Tensor  # noise levels
    picked: tuple[int, ...]
    targets: Tensor | None = None  # the teacher's velocities

    @property
    def states(self) -> Tensor:
        """The transformer's inputs: latents noised on the straight line between data and noise, or recorded ones."""
        if self.noise is None:
            return self.samples.latents
        return noised(self.samples.latents, self.noise, self.levels)

    def part(self, some: slice) -> "Batch":
        """Some samples of the batch."""
        samples = Samples(self.samples.latents[some], self.samples.embeddings[some], self.samples.mask[some])
        noise, targets = (None if tensor is None else tensor[some] for tensor in (self.noise, self.targets))
        return replace(
            self, samples=samples, noise=noise, levels=self.levels[some], picked=self.picked[some], targets=targets
        )


class Sampler(Protocol):
    """Draws batches of one size."""

    @property
    def size(self) -> int:
        """Samples per batch."""

    @property
    def seed(self) -> int:
        """Seed of all draws."""

    @property
    def caption_dropout(self) -> float:
        """Share of samples without their captions."""

    @property
    def identity(self) -> str:
        """What else the draws depend on."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the draws depend on, for content keys."""

    def draw(self, data: Prepared, number: int) -> Batch:
        """Draw batch `number` of `data`, on the CPU."""


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Draws samples and adds noise to them."""

    size: int
    seed: int = 0
    times: Times = field(default_factory=Times)
    caption_dropout: float = 0.1

    @property
    def identity(self) -> str:
        """The distribution of noise levels."""
        return f"times={self.times}"

    @property
    def settings(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def draw(self, data: Prepared, number: int) -> Batch:
        """Draw batch `number` of `data`, on the CPU."""
        chance = generator_for(self.seed, number)
        picked = torch.randint(len(data), (self.size,), generator=chance).tolist()
        dropped = drop_captions(self.size, self.caption_dropout, chance).tolist()
        samples = data.pick(picked, dropped)
        noise = torch.randn(samples.latents.shape, generator=chance)
        return Batch(samples, noise, self.times.draw(self.size, chance), tuple(picked))


def without_captions(data: Prepared, batch: Batch) -> Batch:
    """The same inputs of the transformer with the empty caption."""
    empty = data.pick(batch.picked, [True] * len(batch.picked))
    return replace(batch, samples=replace(batch.samples, embeddings=empty.embeddings, mask=empty.mask))


@dataclass(frozen=True)
class TrajectorySampler:
    """Draws steps of trajectories: each of all pictures' steps once before any of them again."""

    size: int
    trajectories: Trajectories
    timesteps: float  # the timestep at a noise level of 1
    seed: int = 0
    caption_dropout: float = 0.1
    guide: ClassifierFree | None = None  # guides the velocities; None: those of the branch with the caption

    @property
    def identity(self) -> str:
        """That these are steps of trajectories."""
        return f"trajectories guided by {self.guide.scale}" if self.guide else "trajectories"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that aren't data."""
        dropout = {"caption_dropout": self.caption_dropout}
        guided = {"guided": self.guide.scale} if self.guide else {}
        return {"targets": "trajectories", "size": self.size, "seed": self.seed, **dropout, **guided}

    def draw(self, data: Prepared, number: int) -> Batch:
        """Draw batch `number` of `data`, on the CPU."""
        steps = len(self._levels)
        places = [self._place(number * self.size + position, len(data) * steps) for position in range(self.size)]
        dropout = self.caption_dropout if self.trajectories.branches > 1 else 0.0
        dropped = drop_captions(self.size, dropout, generator_for(self.seed, number)).tolist()
        pictures, moments = [place // steps for place in places], [place % steps for place in places]
        samples = data.pick(pictures, dropped)
        inputs, targets = self.trajectories.pick(pictures, moments, dropped)
        if self.guide:
            _, empty = self.trajectories.pick(pictures, moments, [True] * len(dropped))
            targets = self.guide.combined((empty, targets))
        levels = torch.stack([self._levels[moment] for moment in moments])
        samples = replace(samples, latents=inputs)
        return Batch(samples, None, levels, tuple(pictures), targets)

    @cached_property
    def _levels(self) -> Tensor:
        """The noise level of each step."""
        return self.trajectories.timesteps / self.timesteps

    def _place(self, position: int, count: int) -> int:
        """Which of `count` steps comes at `position`; each epoch has an order of its own."""
        epoch, position = divmod(position, count)
        orders = self.__dict__.setdefault("_orders", {})
        if (epoch, count) not in orders:
            orders.clear()
            orders[epoch, count] = torch.randperm(count, generator=generator_for(self.seed, -1 - epoch)).tolist()
        return int(orders[epoch, count][position])
