"""Calibration states: where a model's own trajectories pass, and the velocity that it predicts there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sanac.nn.blocks.block import Geometry
from sanac.nn.blocks.embed_head import BlockInputs, embed
from sanac.nn.calibration.block_subsets import BlockSubset, relative_error, velocities
from sanac.nn.calibration.sampling import SamplerSettings, sample, starting_noise
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.streaming import DTYPES, Blocks


@dataclass(frozen=True, slots=True)
class StepSample:
    """A step of the sampler: the latents of all prompts before it, and the guided velocity there."""

    timestep: Tensor
    latents: Tensor  # (prompts, channels, height, width)
    velocity: Tensor


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """How many prompts (each moment counted) and choices of blocks are looked at together: each pair has a state."""

    prompts: int
    choices: int

    @classmethod
    def of(cls, limit: int, state_bytes: int, choices: int) -> "SweepBatch":
        """All of these choices on as many prompts as the limit allows; else fewer choices on one.

        `state_bytes` are those of one prompt's stream, both branches; every pair has it on both sides of a block.
        """
        pairs = max(1, limit // (2 * state_bytes))
        choices = min(choices, pairs)
        return cls(pairs // choices, choices)

    def taken(self, state_bytes: int) -> int:
        """Bytes, with the state that all choices begin at."""
        return (2 * self.choices + 1) * self.prompts * state_bytes

    def sweeps(self, prompts: int, choices: int) -> int:
        """How often the weights are read for so many of both."""
        return -(-prompts // self.prompts) * -(-choices // self.choices)


@dataclass(frozen=True)
class CalibrationStates:
    """Moments of trajectories, ready to be asked about."""

    blocks: Blocks
    outside: Mapping[str, Tensor]
    config: Mapping[str, Any]
    captions: EncodedPrompts
    guidance: float
    moments: tuple[StepSample, ...]
    batch: int  # prompts that go through a block together, at most

    @property
    def geometry(self) -> Geometry:
        """The blocks' geometry."""
        return Geometry.of(self.config)

    def part(self, start: int, stop: int) -> "CalibrationStates":
        """Some of the prompts."""
        moments = (
            StepSample(moment.timestep, moment.latents[start:stop], moment.velocity[start:stop])
            for moment in self.moments
        )
        return replace(self, captions=self.captions.part(start, stop), moments=tuple(moments))

    def parts(self) -> Iterator["CalibrationStates"]:
        """Batch by batch."""
        for start in range(0, len(self.captions), self.batch):
            yield self.part(start, start + self.batch)

    def starts(self, moment: StepSample) -> tuple[BlockInputs, BlockInputs]:
        """All prompts of a moment before the first block: without and with their captions."""
        count, encoded = len(moment.latents), self.captions
        scaled = (moment.timestep * self.config.get("timestep_scale", 1.0)).expand(count)
        latents = moment.latents.to(self.blocks.dtype)
        captions, masks = encoded.empty.expand(count, -1, -1), encoded.empty_mask.expand(count, -1)
        empty = embed(self.outside, latents, captions, scaled, masks)
        return empty, embed(self.outside, latents, encoded.embeddings, scaled, encoded.mask)

    def changed(self, changes: Mapping[str, Tensor]) -> "CalibrationStates":
        """The same moments, asked of a model with these changes."""
        blocks = self.blocks.changed(changes)
        return replace(self, blocks=blocks, outside=blocks.outside())

    def as_stored(self, name: str, weight: Tensor) -> Tensor:
        """A changed weight as the checkpoint's dtype will hold it."""
        stored = DTYPES[self.blocks.model.weights.tensors[name].dtype]
        return weight.to(stored).to(weight.dtype)

    def guided(self, empty: Tensor, prompted: Tensor) -> Tensor:
        """As the sampler mixes both branches."""
        return empty + self.guidance * (prompted - empty) if self.guidance > 1 else prompted

    def errors(
        self, choices: Sequence[BlockSubset], sweep_batch: SweepBatch | None = None
    ) -> dict[BlockSubset, Tensor]:
        """The relative error of the guided velocity under each choice of blocks: (moments, prompts)."""
        moments, count = len(self.moments), len(self.captions)
        sweep_batch = sweep_batch or SweepBatch(moments * count, max(1, len(choices)))
        size = min(sweep_batch.prompts, count, self.batch)
        pieces = [(number, first) for first in range(0, count, size) for number in range(moments)]
        at_once = max(1, sweep_batch.prompts // size)
        found = {kept: torch.full((moments, count), torch.nan) for kept in choices}
        ordered = sorted(found)  # neighbours begin alike
        for begin in range(0, len(ordered), sweep_batch.choices):
            some = ordered[begin : begin + sweep_batch.choices]
            for place in range(0, len(pieces), at_once):
                for kept, number, first, error in self._errors(pieces[place : place + at_once], size, some):
                    found[kept][number, first : first + len(error)] = error
        return found

    def _errors(
        self, pieces: Sequence[tuple[int, int]], size: int, choices: Sequence[BlockSubset]
    ) -> Iterator[tuple[BlockSubset, int, int, Tensor]]:
        """Moments and `size` prompts from a first one each, in one sweep over the weights."""
        parts = [self.part(first, first + size) for _, first in pieces]
        moments = [part.moments[number] for part, (number, _) in zip(parts, pieces, strict=True)]
        starts = [start for part, moment in zip(parts, moments, strict=True) for start in part.starts(moment)]
        for kept, outputs in velocities(self.blocks, self.outside, self.geometry, starts, choices).items():
            pairs = zip(outputs[::2], outputs[1::2], strict=True)
            for (number, first), moment, (empty, prompted) in zip(pieces, moments, pairs, strict=True):
                yield kept, number, first, relative_error(self.guided(empty, prompted), moment.velocity).cpu()


def states_of(
    blocks: Blocks,
    scheduler: Any,
    captions: EncodedPrompts,
    sampling: SamplerSettings,
    config: Mapping[str, Any],
    *,
    every: int,
) -> CalibrationStates:
    """Each `every`-th moment of the model's own trajectories."""
    captions = captions.to(blocks.device, blocks.dtype)
    latents = starting_noise(len(captions), config["in_channels"], sampling).to(blocks.device)
    moments = []
    for step, (guided, after) in enumerate(sample(blocks, scheduler, captions, sampling, lambda *_: None, config)):
        if step % every == every // 2:
            moments.append(StepSample(scheduler.timesteps[step], latents, guided))
        latents = after
    return CalibrationStates(
        blocks, blocks.outside(), config, captions, sampling.guidance, tuple(moments), sampling.batch
    )
