"""Sampling with a model that need not fit in memory: the outer loop is over timesteps, the inner one over blocks.

At each sampler step the states of all prompts pass through one block after the other. Memory is two blocks plus the
states, for any depth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import BlockInputs, embed_inputs, head
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.guidance import SCALE, STEPS, Guidance, guidance_of
from sanac.nn.samplers import sampler_of
from sanac.nn.streaming import Blocks

WORK = 24  # a block's intermediate activations, in states: the feed-forward is five times as wide


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """Sampler settings: steps, guidance scale, seed, latent size, batch size."""

    steps: int = STEPS
    guidance: float = SCALE
    seed: int = 0
    side: int = 32  # latent side
    batch: int = 8  # prompts per batch

    def to_json(self) -> dict[str, float]:
        """The settings that determine trajectories, for content keys."""
        return {name: value for name, value in asdict(self).items() if name != "batch"}


@dataclass(frozen=True, slots=True)
class BlockCall:
    """The position of an observed state: step, block, guidance branch, batch."""

    step: int
    block: int
    branch: int  # with classifier-free guidance, 0: the empty caption, 1: the prompt's
    first: int  # index of the batch's first prompt


class Observer(Protocol):
    """Receives the hidden state before and after every block."""

    def __call__(self, call: BlockCall, before: Tensor, after: Tensor) -> None:
        """Called with the states before and after a block, each (prompts, tokens, channels)."""


class StepRecorder(Protocol):
    """Receives the transformer's inputs and outputs at every sampler step."""

    def __call__(self, timestep: Tensor, latents: Tensor, outputs: Sequence[Tensor]) -> None:
        """Called with the model's inputs and its output on each branch of guidance, for all prompts."""


@dataclass(frozen=True, slots=True)
class StepSample:
    """One sampler step of all prompts: the model's inputs, and the guided velocity."""

    timestep: Tensor  # as the model takes it, a scalar
    latents: Tensor  # (prompts, channels, height, width)
    velocity: Tensor


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Resume state within a sampler step: the states of all batches before block `block`."""

    step: int
    block: int
    states: list[Tensor]


def sample(
    blocks: Blocks,
    scheduler: Any,
    captions: EncodedPrompts,
    sampling: SamplerSettings,
    observe: Observer,
    config: Mapping[str, Any],
    *,
    offset: int = 0,
    known_velocities: Sequence[Tensor] = (),
    resume_from: SweepProgress | None = None,
    on_progress: Callable[[SweepProgress], None] = lambda _: None,
    data: Tensor | None = None,
    record: StepRecorder = lambda *_: None,
) -> Iterator[tuple[StepSample, Tensor]]:
    """Yields the model's inputs and velocity at each step, and the latents after it.

    Noise depends on prompt index and seed alone: each prompt's generator draws its starting noise, then the noise that
    some samplers add between steps.

    `offset` is the index of the first prompt. `known_velocities` are those of the first steps from an earlier run: the
    sampler replays them without the model. `resume_from` is the resume state of the step after them; `on_progress` is
    called after each block. With `data` (latents of images) no trajectory is followed: each step noises them to the
    sampler's noise level, and yields these latents.
    """
    run = _Run(blocks, blocks.outside(), config, captions, sampling, offset, observe, on_progress, record)
    size = (sampling.side, sampling.side) if data is None else tuple(data.shape[2:])
    noise = starting_noise(len(captions), config["in_channels"], sampling, offset, size).to(blocks.device)
    generators = _generators(len(captions), sampling, offset)
    _draw(generators, noise.shape[1:])  # the starting noise again: what follows is added between steps
    sampler = sampler_of(scheduler, config, sampling.steps, generators, blocks.device)
    latents = noise
    for step in range(len(sampler)):
        if data is not None:
            latents = sampler.noised(step, data.to(noise), noise)
        timestep, inputs = sampler.timestep(step), sampler.model_input(step, latents)
        if step < len(known_velocities):
            guided = known_velocities[step].to(latents)
        else:
            guided = run.velocity(_Moment(step, timestep), inputs.to(blocks.dtype), resume_from).to(latents)
        if data is None:
            latents = sampler.advance(step, guided, latents)
        yield StepSample(timestep, inputs, guided), latents


def starting_noise(
    count: int, channels: int, sampling: SamplerSettings, offset: int = 0, size: tuple[int, ...] = ()
) -> Tensor:
    """Standard normal latents, one generator per prompt: adding prompts doesn't change the noise of earlier ones."""
    return _draw(_generators(count, sampling, offset), (channels, *(size or (sampling.side, sampling.side))))


def _generators(count: int, sampling: SamplerSettings, offset: int) -> list[torch.Generator]:
    """The random generator of each prompt."""
    seeds = (sampling.seed * 1_000_003 + number for number in range(offset, offset + count))
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal values of this shape from each generator."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])


@dataclass(frozen=True, slots=True)
class _Moment:
    """A sampler step: its index, and its timestep as the model takes it."""

    step: int
    timestep: Tensor


@dataclass(slots=True)
class _Part:
    """A batch of prompts of one guidance branch, with its current hidden state."""

    branch: int
    first: int
    start: BlockInputs
    state: Tensor


@dataclass(frozen=True, slots=True)
class _Run:
    """What all steps of a sampling run share."""

    blocks: Blocks
    outside: Mapping[str, Tensor]
    config: Mapping[str, Any]  # of the transformer
    captions: EncodedPrompts
    sampling: SamplerSettings
    offset: int
    observe: Observer
    on_progress: Callable[[SweepProgress], None]
    record: StepRecorder

    @property
    def geometry(self) -> Geometry:
        """The block geometry of the config."""
        return Geometry.of(self.config)

    @property
    def guidance(self) -> Guidance:
        """How the model is guided."""
        return guidance_of(self.config, self.sampling.guidance)

    def velocity(self, when: _Moment, latents: Tensor, resume_from: SweepProgress | None) -> Tensor:
        """The guided velocity at this step, combined from all branches."""
        parts = list(self._parts(when, latents))
        self._through(parts, when, _continue(parts, when.step, resume_from))
        outputs = [
            torch.cat([head(self.outside, part.state, part.start).float() for part in parts if part.branch == branch])
            for branch in range(self.guidance.branches)
        ]
        self.record(when.timestep, latents, outputs)
        return self.guidance.combined(outputs)

    def _parts(self, when: _Moment, latents: Tensor) -> Iterator[_Part]:
        for branch in range(self.guidance.branches):
            for first in range(0, len(latents), self.sampling.batch):
                some = latents[first : first + self.sampling.batch]
                count, encoded = len(some), self.captions.part(first, first + len(some))
                caption, mask = encoded.to(self.blocks.device, self.blocks.dtype).branches(self.guidance)[branch]
                timesteps, scale = when.timestep.expand(count), self.guidance.embedded(count, self.blocks.device)
                start = embed_inputs(self.config, self.outside, some, caption, timesteps, mask, scale)
                for values in (start.state, start.timestep, start.conditioning.caption):
                    if not torch.isfinite(values).all():
                        why = f"for one of the {count} prompts of a batch"
                        self._refuse("the embedding of the inputs", when, why)
                inputs = replace(start, state=start.state.new_empty(0))  # releases the initial state
                yield _Part(branch, self.offset + first, inputs, start.state)

    def _through(self, parts: Sequence[_Part], when: _Moment, first: int) -> None:
        """Pass all parts through the blocks, starting at block `first`."""
        for index, tensors in self.blocks.sweep(range(first, len(self.blocks))):
            for part in parts:
                after = block(tensors, part.state, part.start.conditioning, self.geometry)
                if not torch.isfinite(after).all():
                    self._refuse(f"block {index}", when, self._first(tensors, part))
                self.observe(BlockCall(when.step, index, part.branch, part.first), part.state, after)
                part.state = after
            del tensors  # released before the next but one is read
            if index + 1 < len(self.blocks):
                self.on_progress(SweepProgress(when.step, index + 1, [part.state for part in parts]))

    def _refuse(self, what: str, when: _Moment, why: str) -> NoReturn:
        raise InvalidInput(
            f"{what} produces NaN or infinity at step {when.step}, timestep {float(when.timestep):.4g}",
            why=why,
            hint=f"sanac inspect {self.blocks.model.located.path} --scan",
        )

    def _first(self, tensors: Mapping[str, Tensor], part: _Part) -> str:
        """Which layer of a block first has NaN or infinity in its inputs, as text."""
        bad: list[str] = []

        def hook(name: str, activations: Tensor) -> None:
            if not torch.isfinite(activations).all():
                bad.append(name)

        block(tensors, part.state, part.start.conditioning, self.geometry, hook)
        return (
            f"{bad[0].removesuffix('.weight')} is the first layer with such inputs"
            if bad
            else "its last layer produces it"
        )


def _continue(parts: Sequence[_Part], step: int, resume_from: SweepProgress | None) -> int:
    """The block to continue with: 0, unless `resume_from` is of this step and has the same batches."""
    if resume_from is None or resume_from.step != step:
        return 0
    if [state.shape for state in resume_from.states] != [part.state.shape for part in parts]:
        return 0
    for part, state in zip(parts, resume_from.states, strict=True):
        part.state = state.to(part.state)
    resume_from.states.clear()  # the parts hold them now
    return resume_from.block
