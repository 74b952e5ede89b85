"""Runs to train judges on, from any generator: its own previews as bytes at the judge's size, and what is in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.json_files import key_of
from sanac.core.progress import Reporter
from sanac.judge.preview_judge import as_inputs
from sanac.nn.device import pick_device
from sanac.nn.generation import GenerationSettings
from sanac.nn.save_tensors import save_tensors
from sanac.nn.stepwise import Noise, Pictures, StepwiseGenerator
from sanac.reinforce.judge_settings import JudgeTrainSettings
from sanac.reinforce.trajectories import Runs, seen_in
from sanac.search.generators import any_batch, any_sampling, any_stepwise, check_generates, open_any_generator

_SEEDS = 1_000_003  # seeds of one --seed and the next don't meet


@dataclass(frozen=True)
class _SamplingOptions:
    """The verb's settings as options of sampling, whose steps are the sampler's."""

    settings: JudgeTrainSettings
    backend: str = "torch"

    @property
    def typed(self) -> frozenset[str]:
        return self.settings.typed

    @property
    def steps(self) -> int | None:
        return self.settings.sampler_steps

    @property
    def guidance(self) -> float:
        return self.settings.guidance

    @property
    def order(self) -> str:
        return self.settings.order

    @property
    def temperature(self) -> float:
        return self.settings.temperature


@dataclass(frozen=True)
class PreviewSource:
    """A model, how it samples, and the images to generate with it; decided before anything is generated."""

    model: AnyModel
    sampling: GenerationSettings
    prompts: tuple[str, ...]  # of each image
    numbers: tuple[int, ...]  # of these prompts
    seeds: tuple[int, ...]
    looks: tuple[int, ...]  # steps after which previews are kept
    side: int  # pixels of the previews

    @property
    def about(self) -> list[Any]:
        """Everything that its runs depend on, for content keys."""
        sampling = [self.sampling.to_json(), list(self.looks), self.side]
        return [self.model.identity(), sampling, list(self.prompts), list(self.seeds)]


def plan_previews(
    model: AnyModel, number: int, prompts: Sequence[str], settings: JudgeTrainSettings, side: int, reporter: Reporter
) -> PreviewSource:
    """The images of model `number`: prompts in turn, going on where those of the model before it end."""
    check_generates(model)
    batch = any_batch(model, pick_device(settings.device))
    sampling = any_sampling(model, _SamplingOptions(settings), reporter, batch=batch)
    first = number * settings.images
    numbers = tuple(place % len(prompts) for place in range(first, first + settings.images))
    seeds = tuple(settings.seed * _SEEDS + place for place in range(first, first + settings.images))
    texts = tuple(prompts[place] for place in numbers)
    return PreviewSource(model, sampling, texts, numbers, seeds, spread(sampling.steps, settings.looks), side)


def spread(steps: int, looks: int) -> tuple[int, ...]:
    """`looks` of the steps, evenly spread and before the last one; fewer where there aren't as many."""
    found = {max(1, round(steps * (place + 1) / (looks + 1))) for place in range(looks)}
    return tuple(sorted(step for step in found if step < steps))


def previews_of(source: PreviewSource, device: str | None, folder: ConfinedPath, reporter: Reporter) -> list[Runs]:
    """The runs of a source, a batch each; those that a stopped run left in `folder` are read."""
    found: list[Runs] = []
    about = source.about
    generator: StepwiseGenerator | None = None
    reporter.begin("generating", len(source.prompts), "images")
    try:
        for start in range(0, len(source.prompts), source.sampling.batch):
            some = slice(start, start + source.sampling.batch)
            file = folder / f"previews-{key_of([about, source.sampling.batch, start])[:12]}.safetensors"
            runs = _read(file)
            if runs is None:
                generator = generator or _opened(source, device, reporter)
                runs = _gather(generator, source, some)
                save_tensors({one.name: getattr(runs, one.name) for one in fields(Runs)}, file)
            found.append(runs)
            reporter.advance(len(source.prompts[some]))
    finally:
        reporter.end()
    return found


def _opened(source: PreviewSource, device: str | None, reporter: Reporter) -> StepwiseGenerator:
    """The generator of a source, with what there is to say about it and its prompts."""
    generator = open_any_generator(source.model, device, "torch", reporter)
    for warning in generator.device_warnings():
        reporter.warn(warning)
    if unknown := generator.unknown_words(source.prompts):
        reporter.warn(f"words that {generator.name} doesn't know, and that have no effect: {', '.join(unknown)}")
    return any_stepwise(generator, source.sampling)


def _read(file: ConfinedPath) -> Runs | None:
    """The runs in a file; None if there is none, or if it is damaged."""
    if not file.is_file():
        return None
    try:
        found: Mapping[str, Tensor] = load_file(file)
    except SafetensorError:
        return None
    return Runs(**found) if found.keys() == {one.name for one in fields(Runs)} else None


def _gather(generator: StepwiseGenerator, source: PreviewSource, some: slice) -> Runs:
    """Previews at the looks, and the finished images, of one batch."""
    images = generator.start(source.prompts[some], [Noise(seed) for seed in source.seeds[some]])
    kept: list[Tensor] = []
    seen: list[Tensor] = []
    noise: list[float] = []

    def keep(pictures: Pictures, level: float) -> None:
        kept.append(as_pixels(pictures, source.side))
        seen.append(seen_in(pictures))
        noise.append(level)

    for look in source.looks:
        while images.done < look:
            images.advance()
        keep(images.preview(), images.guess_noise)
    keep(images.finish(), 0.0)
    numbers = torch.tensor(source.numbers[some])
    return Runs(torch.stack(kept, dim=1), torch.stack(seen, dim=1), torch.tensor(noise), numbers)


def as_pixels(pictures: Pictures, side: int) -> Tensor:
    """Images as bytes (images, 3, side, side), resized as a preview judge resizes them."""
    inputs = as_inputs(list(pictures), side, torch.device("cpu"))
    return ((inputs + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
