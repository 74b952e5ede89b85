"""SANA's sampler step by step, around an opened pipeline: the images of the pipeline's own call, with previews.

The transformer, with the schedule that it follows, the text encoder and the decoder are the pipeline's. From the guided
velocity v at the noise level s, a state x has the preview x - s v: what the velocity points at.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sanac.core.errors import InvalidInput
from sanac.nn.count_forwards import counted
from sanac.nn.generation import GenerationSettings
from sanac.nn.guidance import Guidance, guidance_of
from sanac.nn.noise import turned
from sanac.nn.samplers import Sampler, sampler_of
from sanac.nn.stepwise import Noise, Pictures, Spent, StepCost
from sanac.runtime.pipeline import DiffusionGenerator
from sanac.runtime.pipeline_parts import Part, tiled_decoder
from sanac.runtime.scheduled import ScheduledForward

if TYPE_CHECKING:
    from diffusers import SanaPipeline


@dataclass
class StepwiseSana:
    """A diffusion generator that takes its steps one by one.

    `taps`: blocks whose output is kept at every step, for heads that read the generator's own states.
    """

    generator: DiffusionGenerator
    sampling: GenerationSettings
    taps: tuple[int, ...] = ()
    spent: Spent = field(default_factory=Spent)
    _last: Any = None  # the prompts that were encoded last, and their captions

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        return self.generator.device

    @cached_property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one image: both branches of a guided step, the blocks that the schedule runs."""
        transformer = self.generator.pipeline.transformer
        blocks, steps = transformer.config.num_layers, self.sampling.steps
        branches = guidance_of(transformer.config, self.sampling.guidance).branches
        branches = branches if self.sampling.guidance > 1 else 1
        forward = vars(transformer).get("forward")
        if not isinstance(forward, ScheduledForward):
            return (StepCost(branches, branches * blocks),) * steps
        sampler, found = self._sampler([]), []
        for step in range(steps):
            depth, guided = forward.at(sampler.timestep(step))
            both = branches if guided else 1
            found.append(StepCost(both, both * depth))
        return tuple(found)

    def start(self, prompts: Sequence[str], noises: Sequence[Noise]) -> "SanaInProgress":
        """Draw the noises and encode the prompts, each different one once, and not again for the next batch."""
        return self._begun(prompts, noises, 0, None)

    def restart(
        self, prompts: Sequence[str], guesses: Sequence[Any], noises: Sequence[Noise], step: int
    ) -> "SanaInProgress":
        """Begin before a later step, from guesses with new noise: (1 - s) x + s e."""
        return self._begun(prompts, noises, step, torch.stack(list(guesses)))

    def _begun(
        self, prompts: Sequence[str], noises: Sequence[Noise], step: int, guesses: Tensor | None
    ) -> "SanaInProgress":
        pipeline = self.generator.pipeline
        settings = self.generator.call_settings(prompts, self.sampling)
        guidance = guidance_of(pipeline.transformer.config, self.sampling.guidance)
        guided = guidance.branches > 1 and self.sampling.guidance > 1
        caption, mask = self._captions(prompts, settings["max_sequence_length"], guided=guided)
        height, width = (settings[edge] // pipeline.vae_scale_factor for edge in ("height", "width"))
        shape = (1, pipeline.transformer.config.in_channels, height, width)
        generators = [torch.Generator().manual_seed(noise.seed) for noise in noises]
        drawn = [torch.randn(shape, generator=one) for one in generators]
        begun = [turned(one, noise) for one, noise in zip(drawn, noises, strict=True)]
        latents = torch.cat(begun).to(self.generator.device)
        sampler = self._sampler(generators)
        if guesses is not None:
            sampler.begin(step)
            latents = sampler.noised(step, guesses.to(latents), latents)
        rows = tuple(range(len(prompts)))
        return SanaInProgress(self, sampler, guidance, caption, mask, latents, rows, step, guess=guesses)

    def _captions(self, prompts: Sequence[str], length: int, *, guided: bool) -> tuple[Tensor, Tensor]:
        """Embeddings and masks (branches, prompts, tokens, width); those of the last prompts are kept."""
        different = tuple(dict.fromkeys(prompts))
        key = (different, length, guided)
        if self._last is None or self._last[0] != key:
            self._last = key, _encoded(self.generator.pipeline, different, length, guided=guided)
        places = [different.index(prompt) for prompt in prompts]
        caption, mask = self._last[1]
        return caption[:, places], mask[:, places]

    def _sampler(self, generators: Sequence[torch.Generator]) -> Sampler:
        pipeline = self.generator.pipeline
        scheduler, config = copy.deepcopy(pipeline.scheduler), dict(pipeline.transformer.config)
        return sampler_of(scheduler, config, self.sampling.steps, generators, torch.device(self.generator.device))


@dataclass
class SanaInProgress:
    """A batch of SANA's images between two steps."""

    owner: StepwiseSana
    sampler: Sampler
    guidance: Guidance
    caption: Tensor  # (branches, rows, tokens, width): the empty caption first, then the prompt's
    mask: Tensor
    latents: Tensor
    rows: tuple[int, ...]
    done: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)  # (rows, tokens, width) behind tapped blocks, prompted
    guess: Tensor | None = None  # the finished latents that the last velocity points at

    @property
    def steps(self) -> int:
        """Number of sampler steps."""
        return len(self.sampler)

    @property
    def noise(self) -> float:
        """The noise level of the state that the next step begins with; 0 behind the last one."""
        return self._level(self.done) if self.done < self.steps else 0.0

    @property
    def guess_noise(self) -> float:
        """The noise level of the state that the last step began with."""
        return self._level(max(0, self.done - 1))

    @property
    def columns(self) -> int:
        """Tokens in a row of the image."""
        return int(self.latents.shape[-1]) // int(self.owner.generator.pipeline.transformer.config.patch_size)

    @property
    def guesses(self) -> Sequence[Tensor]:
        """The latents that the last velocity points at."""
        return [] if self.guess is None else list(self.guess)

    @property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The prompts' own embeddings (rows, tokens, width), and their mask."""
        return self.caption[-1], self.mask[-1]

    @property
    def condition(self) -> dict[str, Tensor]:
        """What the transformer reads of the prompts (rows, ...), for training on the images."""
        return {"embeddings": self.caption[-1], "mask": self.mask[-1]}

    def _level(self, step: int) -> float:
        return float(self.sampler.timestep(step)) / self.guidance.timesteps

    def advance(self) -> None:
        """Take one sampler step with all images of the batch."""
        inputs = self.sampler.model_input(self.done, self.latents)
        velocity = self._velocity(inputs)
        self.guess = inputs - self._level(self.done) * velocity
        self.latents = self.sampler.advance(self.done, velocity, self.latents)
        self.done += 1

    def _velocity(self, inputs: Tensor) -> Tensor:
        """The guided velocity; NaN is refused when it is decoded."""
        transformer, branches = self.owner.generator.pipeline.transformer, len(self.caption)
        timestep = self.sampler.timestep(self.done).expand(branches * len(inputs))
        extra = {}
        if (scale := self.guidance.embedded(len(inputs), inputs.device)) is not None:
            extra["guidance"] = scale.to(transformer.dtype)
        self.states.clear()
        cost = self.owner.costs[self.done]
        counting, both = _counted(transformer, self.owner.spent, cost, len(inputs)), _both(transformer, branches > 1)
        with torch.no_grad(), counting, both, self._tapped(transformer):
            found: Tensor = transformer(
                torch.cat([inputs] * branches).to(transformer.dtype),
                encoder_hidden_states=self.caption.flatten(0, 1).to(transformer.dtype),
                encoder_attention_mask=self.mask.flatten(0, 1),
                timestep=timestep,
                return_dict=False,
                **extra,
            )[0].float()
        if transformer.config.out_channels // 2 == transformer.config.in_channels:  # a learned variance
            found = found.chunk(2, dim=1)[0]
        if branches == 1:
            return found
        empty, prompted = found.chunk(2)
        return empty + self.owner.sampling.guidance * (prompted - empty)

    @contextmanager
    def _tapped(self, transformer: nn.Module) -> Iterator[None]:
        """Keep what comes out of the tapped blocks."""

        def keep(block: int, found: Tensor) -> None:
            self.states[block] = found[-len(self.rows) :].float()

        def hook(block: int) -> Any:
            return lambda _module, _inputs, found: keep(block, found)

        blocks = transformer.transformer_blocks if self.owner.taps else ()
        hooks = [blocks[block].register_forward_hook(hook(block)) for block in self.owner.taps]
        try:
            yield
        finally:
            for one in hooks:
                one.remove()

    def preview(self) -> Pictures:
        """Decode what the last velocity points at; before the first step there is nothing to see."""
        assert self.guess is not None, "no step was taken yet"
        return self._decoded(self.guess)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these images in the batch."""
        places = [self.rows.index(row) for row in rows]
        self.rows = tuple(rows)
        self.latents, self.caption, self.mask = self.latents[places], self.caption[:, places], self.mask[:, places]
        self.guess = None if self.guess is None else self.guess[places]
        self.states = {block: state[places] for block, state in self.states.items()}
        self.sampler.keep(places)

    def finish(self) -> Pictures:
        """Take the steps that are left, and decode; an empty batch needs none."""
        while self.rows and self.done < self.steps:
            self.advance()
        return self._decoded(self.latents)

    def _decoded(self, latents: Tensor) -> Pictures:
        pipeline, name = self.owner.generator.pipeline, self.owner.generator.name
        if not len(latents):
            return np.empty((0, 0, 0, 3), np.uint8)
        if not torch.isfinite(latents).all():
            raise InvalidInput(f"{name} generates NaN", why=f"at step {self.done}", hint=f"sanac inspect {name} --scan")
        self.owner.spent.decodes += len(latents)
        with torch.no_grad(), tiled_decoder(pipeline, self.owner.sampling.tile):
            scaled = latents.to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor
            decoded = pipeline.vae.decode(scaled, return_dict=False)[0]
        images = pipeline.image_processor.postprocess(decoded, output_type="np")
        found: Pictures = np.round(images * 255).astype(np.uint8)
        return found


def _encoded(pipeline: "SanaPipeline", prompts: Sequence[str], length: int, *, guided: bool) -> tuple[Tensor, Tensor]:
    """Embeddings and masks (branches, prompts, tokens, width), as the pipeline's call makes them."""
    call = inspect.signature(getattr(type(pipeline), "stock", type(pipeline)).__call__)
    how = {
        "max_sequence_length": length,
        "complex_human_instruction": call.parameters["complex_human_instruction"].default,
    }
    if not pipeline.transformer.config.guidance_embeds:
        how["do_classifier_free_guidance"] = guided
    with torch.no_grad():
        found = pipeline.encode_prompt(list(prompts), **how)
    pairs = [(found[2], found[3]), (found[0], found[1])] if guided else [(found[0], found[1])]
    captions, masks = zip(*pairs, strict=True)
    return torch.stack(captions), torch.stack(masks)


def _both(transformer: nn.Module, both: bool) -> Any:  # noqa: FBT001
    """Tell a transformer that follows a schedule whether its batch holds both branches of guidance."""
    forward = vars(transformer).get("forward")
    return forward.batch_of(both_branches=both) if isinstance(forward, ScheduledForward) else nullcontext()


@contextmanager
def _counted(transformer: nn.Module, spent: Spent, cost: StepCost, rows: int) -> Iterator[None]:
    """Count the samples that pass the transformer and its blocks within the context.

    A graph's inside can't be watched: what the step costs for each of the rows is counted.
    """
    if isinstance(transformer, Part):
        spent.forwards += rows * cost.forwards
        spent.block_forwards += rows * cost.block_forwards
        yield
        return
    with counted(transformer.patch_embed, transformer.transformer_blocks, spent):
        yield
