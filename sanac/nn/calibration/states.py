"""Calibration states: latents on the model's own trajectories, and the velocity it predicts there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sanac.nn.blocks.block import Geometry
from sanac.nn.blocks.embed_head import BlockInputs, embed_inputs
from sanac.nn.calibration.block_subsets import BlockSubset, relative_error, velocities
from sanac.nn.calibration.sampling import SamplerSettings, StepSample, sample
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.guidance import Guidance, guidance_of
from sanac.nn.streaming import DTYPES, Blocks


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """Batch size of a sweep: prompts (counted per step) times block subsets; each pair holds a hidden state."""

    prompts: int
    choices: int

    @classmethod
    def of(cls, limit: int, state_bytes: int, choices: int) -> "SweepBatch":
        """All `choices` on as many prompts as `limit` bytes allow; if not even one prompt fits, fewer choices on one.

        `state_bytes` is one prompt's hidden state, all guidance branches; each pair holds it before and after a block.
        """
        pairs = max(1, limit // (2 * state_bytes))
        choices = min(choices, pairs)
        return cls(pairs // choices, choices)

    def taken(self, state_bytes: int) -> int:
        """Bytes taken, including the common initial state of all subsets."""
        return (2 * self.choices + 1) * self.prompts * state_bytes

    def sweeps(self, prompts: int, choices: int) -> int:
        """Number of sweeps over the weights for this many prompts and subsets."""
        return -(-prompts // self.prompts) * -(-choices // self.choices)


@dataclass(frozen=True)
class CalibrationStates:
    """Recorded steps of trajectories, with the model and captions to evaluate on them."""

    blocks: Blocks
    outside: Mapping[str, Tensor]
    config: Mapping[str, Any]
    captions: EncodedPrompts
    scale: float  # of guidance
    moments: tuple[StepSample, ...]
    batch: int  # maximum batch size

    @property
    def geometry(self) -> Geometry:
        """The block geometry of the model's config."""
        return Geometry.of(self.config)

    @property
    def guidance(self) -> Guidance:
        """How the model is guided."""
        return guidance_of(self.config, self.scale)

    def part(self, start: int, stop: int) -> "CalibrationStates":
        """The states of prompts start..stop."""
        moments = (
            StepSample(moment.timestep, moment.latents[start:stop], moment.velocity[start:stop])
            for moment in self.moments
        )
        return replace(self, captions=self.captions.part(start, stop), moments=tuple(moments))

    def parts(self) -> Iterator["CalibrationStates"]:
        """The states of each batch of prompts, in order."""
        for start in range(0, len(self.captions), self.batch):
            yield self.part(start, start + self.batch)

    def starts(self, moment: StepSample) -> tuple[BlockInputs, ...]:
        """Block inputs of all prompts at one step, one per guidance branch; the prompts' own captions come last."""
        count, guidance = len(moment.latents), self.guidance
        latents, timesteps = moment.latents.to(self.blocks.dtype), moment.timestep.expand(count)
        scale = guidance.embedded(count, self.blocks.device)
        return tuple(
            embed_inputs(self.config, self.outside, latents, caption, timesteps, mask, scale)
            for caption, mask in self.captions.branches(guidance)
        )

    def changed(self, changes: Mapping[str, Tensor]) -> "CalibrationStates":
        """The same recorded steps, with `changes` added to the model's weights."""
        blocks = self.blocks.changed(changes)
        return replace(self, blocks=blocks, outside=blocks.outside())

    def as_stored(self, name: str, weight: Tensor) -> Tensor:
        """`weight` rounded to the dtype in which the checkpoint stores the tensor `name`."""
        stored = DTYPES[self.blocks.model.weights.tensors[name].dtype]
        return weight.to(stored).to(weight.dtype)

    def guided(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The guided velocities from the model's outputs, where those of the branches of a step follow each other."""
        branches = self.guidance.branches
        groups = (outputs[first : first + branches] for first in range(0, len(outputs), branches))
        return [self.guidance.combined(group) for group in groups]

    def errors(
        self, choices: Sequence[BlockSubset], sweep_batch: SweepBatch | None = None, *, guided: bool = True
    ) -> dict[BlockSubset, Tensor]:
        """The relative error of the guided velocity under each block subset: (steps, prompts).

        Without `guided`, the velocity of the prompts' branch alone takes its place.
        """
        moments, count = len(self.moments), len(self.captions)
        sweep_batch = sweep_batch or SweepBatch(moments * count, max(1, len(choices)))
        size = min(sweep_batch.prompts, count, self.batch)
        pieces = [(number, first) for first in range(0, count, size) for number in range(moments)]
        at_once = max(1, sweep_batch.prompts // size)
        found = {kept: torch.full((moments, count), torch.nan) for kept in choices}
        ordered = sorted(found)  # neighbours share prefixes
        for begin in range(0, len(ordered), sweep_batch.choices):
            some = ordered[begin : begin + sweep_batch.choices]
            for place in range(0, len(pieces), at_once):
                for kept, number, first, error in self._errors(
                    pieces[place : place + at_once], size, some, guided=guided
                ):
                    found[kept][number, first : first + len(error)] = error
        return found

    def _errors(
        self, pieces: Sequence[tuple[int, int]], size: int, choices: Sequence[BlockSubset], *, guided: bool
    ) -> Iterator[tuple[BlockSubset, int, int, Tensor]]:
        """Errors for `pieces` (step, first prompt) of `size` prompts each, in one sweep over the weights."""
        parts = [self.part(first, first + size) for _, first in pieces]
        moments = [part.moments[number] for part, (number, _) in zip(parts, pieces, strict=True)]
        starts = [start for part, moment in zip(parts, moments, strict=True) for start in part.starts(moment)]
        for kept, outputs in velocities(self.blocks, self.outside, self.geometry, starts, choices).items():
            found = self.guided(outputs) if guided else outputs[self.guidance.branches - 1 :: self.guidance.branches]
            for (number, first), moment, velocity in zip(pieces, moments, found, strict=True):
                yield kept, number, first, relative_error(velocity, moment.velocity).cpu()


def states_of(
    blocks: Blocks,
    scheduler: Any,
    captions: EncodedPrompts,
    sampling: SamplerSettings,
    config: Mapping[str, Any],
    *,
    every: int,
) -> CalibrationStates:
    """Sample trajectories and record each `every`-th step."""
    captions = captions.to(blocks.device, blocks.dtype)
    steps = enumerate(sample(blocks, scheduler, captions, sampling, lambda *_: None, config))
    moments = [moment for step, (moment, _) in steps if step % every == every // 2]
    return CalibrationStates(
        blocks, blocks.outside(), config, captions, sampling.guidance, tuple(moments), sampling.batch
    )
