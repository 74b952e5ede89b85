"""Sampled trajectories through a model that need not fit in memory: timesteps outside, blocks inside.

Per step of the sampler the states of all prompts are pushed through one block after the other. Memory is two blocks
plus the states, whatever the model's depth.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sanac.core.errors import BadInput
from sanac.nn.block import Geometry, block
from sanac.nn.captions import Captions
from sanac.nn.ends import Start, embed, head
from sanac.nn.weights import Blocks

EMPTY, PROMPT = 0, 1  # the branches of guidance


@dataclass(frozen=True, slots=True)
class Sampling:
    """How trajectories are sampled."""

    steps: int = 20
    guidance: float = 4.5
    seed: int = 0
    side: int = 32  # of the latents
    batch: int = 8  # prompts that go through a block together


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a run a state was seen."""

    step: int
    block: int
    branch: int
    first: int  # number of the first prompt in the batch


class Observer(Protocol):
    """Looks at the stream on both sides of every block."""

    def __call__(self, place: Place, before: Tensor, after: Tensor) -> None:
        """(prompts, tokens, channels) each."""


def sample(
    blocks: Blocks,
    scheduler: Any,
    captions: Captions,
    sampling: Sampling,
    observe: Observer,
    config: Mapping[str, Any],
    *,
    offset: int = 0,
    known: Sequence[Tensor] = (),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Guided velocity and latents of each step. Noise depends on the prompt's number and the seed alone.

    `offset` is the number of the first prompt; `known` are velocities of steps that were computed before, in order: the
    sampler is led through them again, the model is not asked.
    """
    outside, geometry = blocks.outside(), Geometry.of(config)
    captions = captions.to(blocks.device, blocks.dtype)
    latents = starting_noise(len(captions), config["in_channels"], sampling, offset).to(blocks.device)
    scheduler.set_timesteps(sampling.steps, device=blocks.device)
    for step, timestep in enumerate(scheduler.timesteps):
        if step < len(known):
            guided = known[step].to(latents)
        else:
            scaled = timestep * config.get("timestep_scale", 1.0)
            parts = list(_parts(outside, latents.to(blocks.dtype), captions, scaled, sampling, offset))
            empty, prompted = _through(blocks, outside, geometry, parts, step, observe)
            guided = (empty + sampling.guidance * (prompted - empty) if sampling.guidance > 1 else prompted).to(latents)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        yield guided, latents


def starting_noise(count: int, channels: int, sampling: Sampling, offset: int = 0) -> Tensor:
    """Standard normal latents, one generator per prompt: more prompts don't change the noise of the first."""
    shape = (1, channels, sampling.side, sampling.side)
    seeds = (sampling.seed * 1_000_003 + number for number in range(offset, offset + count))
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@dataclass(slots=True)
class _Part:
    """A batch of prompts on one branch, on its way through the blocks."""

    branch: int
    first: int
    start: Start
    state: Tensor


def _parts(
    outside: dict[str, Tensor], latents: Tensor, captions: Captions, timestep: Tensor, sampling: Sampling, offset: int
) -> Iterator[_Part]:
    for branch in (EMPTY, PROMPT):
        for first in range(0, len(latents), sampling.batch):
            some = latents[first : first + sampling.batch]
            given = captions.part(first, first + sampling.batch)
            caption, mask = (given.embeddings, given.mask) if branch else (given.empty, given.empty_mask)
            count = len(some)
            start = embed(
                outside,
                some,
                caption.expand(count, -1, -1),
                timestep.expand(count),
                mask.expand(count, -1),
            )
            yield _Part(branch, offset + first, start, start.state)


def _through(
    blocks: Blocks,
    outside: dict[str, Tensor],
    geometry: Geometry,
    parts: list[_Part],
    step: int,
    observe: Observer,
) -> tuple[Tensor, Tensor]:
    """Push all parts through all blocks; the velocity of each branch."""
    for index, tensors in blocks.sweep():
        for part in parts:
            after = block(tensors, part.state, part.start.condition, geometry)
            if not torch.isfinite(after).all():
                raise BadInput(
                    f"block {index} gives NaN or infinity at step {step}",
                    why=f"for prompt {part.first} or one of the {len(after)} computed with it",
                    hint=f"sanac inspect {blocks.model.located.path} --scan",
                )
            observe(Place(step, index, part.branch, part.first), part.state, after)
            part.state = after
    found = [[head(outside, part.state, part.start) for part in parts if part.branch == b] for b in (EMPTY, PROMPT)]
    return torch.cat(found[0]), torch.cat(found[1])
