"""Calibration states: where a model's own trajectories pass, and the velocity that it predicts there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sanac.nn.block import Geometry
from sanac.nn.captions import Captions
from sanac.nn.ends import Start, embed
from sanac.nn.subsets import Kept, relative_error, velocities
from sanac.nn.trajectory import Observer, Sampling, sample, starting_noise
from sanac.nn.weights import DTYPES, Blocks


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of the sampler: the latents of all prompts before it, and the guided velocity there."""

    timestep: Tensor
    latents: Tensor  # (prompts, channels, height, width)
    velocity: Tensor


@dataclass(frozen=True)
class States:
    """Moments of trajectories, ready to be asked about."""

    blocks: Blocks
    outside: Mapping[str, Tensor]
    config: Mapping[str, Any]
    captions: Captions
    guidance: float
    moments: tuple[Moment, ...]

    @property
    def geometry(self) -> Geometry:
        """The blocks' geometry."""
        return Geometry.of(self.config)

    def part(self, start: int, stop: int) -> "States":
        """Some of the prompts."""
        moments = (
            Moment(moment.timestep, moment.latents[start:stop], moment.velocity[start:stop]) for moment in self.moments
        )
        return replace(self, captions=self.captions.part(start, stop), moments=tuple(moments))

    def starts(self, moment: Moment) -> tuple[Start, Start]:
        """All prompts of a moment before the first block: without and with their captions."""
        return self.starts_from(self.outside, moment)

    def starts_from(self, outside: Mapping[str, Tensor], moment: Moment) -> tuple[Start, Start]:
        """The same through other embeddings."""
        count, given = len(moment.latents), self.captions
        scaled = (moment.timestep * self.config.get("timestep_scale", 1.0)).expand(count)
        latents = moment.latents.to(self.blocks.dtype)
        empty = embed(outside, latents, given.empty.expand(count, -1, -1), scaled, given.empty_mask.expand(count, -1))
        return empty, embed(outside, latents, given.embeddings, scaled, given.mask)

    def as_stored(self, name: str, weight: Tensor) -> Tensor:
        """A changed weight as the checkpoint's dtype will hold it."""
        stored = DTYPES[self.blocks.model.weights.tensors[name].dtype]
        return weight.to(stored).to(weight.dtype)

    def guided(self, empty: Tensor, prompted: Tensor) -> Tensor:
        """As the sampler mixes both branches."""
        return empty + self.guidance * (prompted - empty) if self.guidance > 1 else prompted

    def errors(self, choices: Sequence[Kept], batch: int | None = None) -> dict[Kept, Tensor]:
        """The relative error of the guided velocity under each choice of blocks: (moments, prompts).

        `batch` prompts of one moment go through the blocks together: every choice has its own states.
        """
        count = len(self.captions)
        found = {kept: torch.full((len(self.moments), count), torch.nan) for kept in choices}
        for first in range(0, count, batch or count):
            part = self.part(first, first + (batch or count))
            for number, moment in enumerate(part.moments):
                given = velocities(self.blocks, self.outside, self.geometry, part.starts(moment), choices)
                for kept, (empty, prompted) in given.items():
                    error = relative_error(self.guided(empty, prompted), moment.velocity).cpu()
                    found[kept][number, first : first + len(error)] = error
        return found


def collect(
    blocks: Blocks,
    scheduler: Any,
    captions: Captions,
    sampling: Sampling,
    config: Mapping[str, Any],
    *,
    every: int = 1,
    offset: int = 0,
    known: Sequence[Tensor] = (),
    observe: Observer = lambda *_: None,
) -> Iterator[Moment]:
    """Each `every`-th moment of the model's own trajectories."""
    latents = starting_noise(len(captions), config["in_channels"], sampling, offset).to(blocks.device)
    steps = sample(blocks, scheduler, captions, sampling, observe, config, offset=offset, known=known)
    for step, (guided, after) in enumerate(steps):
        if step % every == every // 2:
            yield Moment(scheduler.timesteps[step], latents, guided)
        latents = after


def states_of(
    blocks: Blocks,
    scheduler: Any,
    captions: Captions,
    sampling: Sampling,
    config: Mapping[str, Any],
    *,
    every: int,
) -> States:
    """Calibration states of some prompts."""
    captions = captions.to(blocks.device, blocks.dtype)
    moments = tuple(collect(blocks, scheduler, captions, sampling, config, every=every))
    return States(blocks, blocks.outside(), config, captions, sampling.guidance, moments)
