"""Variants of one generator that fail more often: judges have to see images that are wrong, and how they became so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import Schedule
from sanac.core.progress import Reporter
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.reinforce.trajectories import Trajectories, gather
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.runtime.stepwise import StepwiseSana
from sanac.shapes.prompts import Prompt

STEPS, GUIDANCE, BATCH = 20, 4.5, 128


@dataclass(frozen=True, slots=True)
class Variant:
    """A generator's guidance and the blocks that it leaves out, and how many images are generated with it."""

    images: int
    guidance: float = GUIDANCE
    dropped: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """A name for its file."""
        return f"guidance-{self.guidance:g}-without-{'-'.join(map(str, self.dropped)) or 'nothing'}-{self.images}"


def random_variants(blocks: Sequence[int], sizes: Sequence[int], count: int, images: int, seed: int) -> list[Variant]:
    """Variants without some of these blocks, as many as `sizes` says in turn, all different."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        size = sizes[len(found) % len(sizes)]
        found[tuple(sorted(map(int, rng.choice(blocks, size, replace=False))))] = None
    return [Variant(images, dropped=dropped) for dropped in found]


def gather_variants(
    model: Model,
    variants: Sequence[Variant],
    prompts: Sequence[Prompt],
    taps: tuple[int, ...],
    seed: int,
    folder: Path,
    device: str | None,
    reporter: Reporter,
) -> Iterator[Trajectories]:
    """The trajectories of each variant, with the prompts in turn; those that a stopped run gathered are read.

    A block that a variant leaves out is tapped where the next one that it keeps begins: behind the last kept one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator: DiffusionGenerator | None = None
    start = 0
    for variant in variants:
        numbers = [number % len(prompts) for number in range(start, start + variant.images)]
        seeds = [seed * 1_000_003 + number for number in range(start, start + variant.images)]
        start += variant.images
        about = [model.identity(), [prompts[number].text for number in numbers], seeds, taps, STEPS]
        file = folder / f"{variant.name}-{json_files.key_of(about)[:8]}.safetensors"
        if generator is None:
            generator = open_generator(model, device, scheduled=False)
        reporter.note(f"trajectories: {variant.name}")
        generator.follow(_schedule(model, variant))
        stepwise = StepwiseSana(
            generator,
            GenerationSettings(STEPS, variant.guidance, batch=BATCH),
            tuple(tap_of(tap, variant.dropped) for tap in taps),
        )
        texts = [prompts[number].text for number in numbers]
        yield gather(stepwise, texts, numbers, seeds, file, reporter)


def tap_of(block: int, dropped: Sequence[int]) -> int:
    """The last block up to `block` that is not dropped; the first one of all if there is none."""
    return max((index for index in range(block + 1) if index not in dropped), default=0)


def _schedule(model: Model, variant: Variant) -> Schedule:
    blocks = model.architecture.blocks
    kept = tuple(index for index in range(blocks) if index not in variant.dropped)
    return Schedule((*kept, *variant.dropped), noise_levels(model, STEPS), (len(kept),) * STEPS, (True,) * STEPS)
