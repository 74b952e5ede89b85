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
from sanac.nn.streaming import Blocks

EMPTY, PROMPT = 0, 1  # the branches of classifier-free guidance


WORK = 24  # a block's intermediate activations, in states: the feed-forward is five times as wide


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """Sampler settings: steps, guidance scale, seed, latent size, batch size."""

    steps: int = 20
    guidance: float = 4.5
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
    branch: int
    first: int  # index of the batch's first prompt


class Observer(Protocol):
    """Receives the hidden state before and after every block."""

    def __call__(self, call: BlockCall, before: Tensor, after: Tensor) -> None:
        """Called with the states before and after a block, each (prompts, tokens, channels)."""


class StepRecorder(Protocol):
    """Receives the transformer's inputs and outputs at every sampler step."""

    def __call__(self, step: int, timestep: Tensor, latents: Tensor, velocities: Sequence[Tensor]) -> None:
        """Called with the latents before a step and the velocity of each guidance branch, each for all prompts."""


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
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the guided velocity and the latents of each step. Noise depends on prompt index and seed alone.

    `offset` is the index of the first prompt. `known_velocities` are those of the first steps from an earlier run: the
    sampler replays them without the model. `resume_from` is the resume state of the step after them; `on_progress` is
    called after each block. With `data` (latents of images) no trajectory is followed: each step noises them to the
    sampler's noise level, (1 - s) x + s e, and yields these latents.
    """
    run = _Run(blocks, blocks.outside(), config, captions, sampling, offset, observe, on_progress, record)
    size = (sampling.side, sampling.side) if data is None else tuple(data.shape[2:])
    noise = starting_noise(len(captions), config["in_channels"], sampling, offset, size).to(blocks.device)
    latents = noise
    scheduler.set_timesteps(sampling.steps, device=blocks.device)
    for step, timestep in enumerate(scheduler.timesteps):
        if data is not None:
            sigma = float(scheduler.sigmas[step])
            latents = (1 - sigma) * data.to(noise) + sigma * noise
        if step < len(known_velocities):
            guided = known_velocities[step].to(latents)
        else:
            when = _Moment(step, timestep, timestep * config.get("timestep_scale", 1.0))
            guided = run.velocity(when, latents.to(blocks.dtype), resume_from).to(latents)
        if data is None:
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        yield guided, latents


def starting_noise(
    count: int, channels: int, sampling: SamplerSettings, offset: int = 0, size: tuple[int, ...] = ()
) -> Tensor:
    """Standard normal latents, one generator per prompt: adding prompts doesn't change the noise of earlier ones."""
    shape = (1, channels, *(size or (sampling.side, sampling.side)))
    seeds = (sampling.seed * 1_000_003 + number for number in range(offset, offset + count))
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@dataclass(frozen=True, slots=True)
class _Moment:
    """A sampler step: its index, its timestep, and the timestep scaled for the model."""

    step: int
    timestep: Tensor
    scaled: Tensor


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

    def velocity(self, when: _Moment, latents: Tensor, resume_from: SweepProgress | None) -> Tensor:
        """The guided velocity at this step: both branches, combined by the guidance scale."""
        parts = list(self._parts(when, latents))
        self._through(parts, when, _continue(parts, when.step, resume_from))
        empty, prompted = (
            torch.cat([head(self.outside, part.state, part.start).float() for part in parts if part.branch == branch])
            for branch in (EMPTY, PROMPT)
        )
        self.record(when.step, when.scaled, latents, (empty, prompted))
        guidance = self.sampling.guidance
        return empty + guidance * (prompted - empty) if guidance > 1 else prompted

    def _parts(self, when: _Moment, latents: Tensor) -> Iterator[_Part]:
        for branch in (EMPTY, PROMPT):
            for first in range(0, len(latents), self.sampling.batch):
                some = latents[first : first + self.sampling.batch]
                encoded = self.captions.part(first, first + len(some)).to(self.blocks.device, self.blocks.dtype)
                caption, mask = (encoded.embeddings, encoded.mask) if branch else (encoded.empty, encoded.empty_mask)
                count = len(some)
                timesteps = when.scaled.expand(count)
                captions, masks = caption.expand(count, -1, -1), mask.expand(count, -1)
                start = embed_inputs(self.config, self.outside, some, captions, timesteps, masks)
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
            f"{what} produces NaN or infinity at step {when.step}, timestep {float(when.timestep):.0f}",
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
