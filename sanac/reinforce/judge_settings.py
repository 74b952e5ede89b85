"""Settings of `sanac judge train`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from sanac.core.sampling_options import Order, Temperature
from sanac.core.settings import ADVANCED, ModelRef, Naming, Option, RunSettings

TRAINING, SAMPLING = "Training options", "Image options"
STEPS, VLM_STEPS = 2000, 200
RATE, VLM_RATE = 1e-3, 1e-4
BATCH, VLM_BATCH = 64, 8
_GENERATED = ("prompts", "images", "sampler_steps", "guidance", "looks", "order", "temperature")
_BASE_ONLY = ("rank",)


@dataclass(frozen=True, kw_only=True)
class JudgeTrainSettings(RunSettings):
    """Train a judge of images and previews on images that each MODEL generates, or on your own labels.

    With MODEL, the detector of the shapes world labels the images and their previews. With --labels, you do; then
    --base adapts a vision-language model instead of training a small judge. OUT is what `--verifier judge:OUT` and
    `--previews judge:OUT` open, or, with --base, `--verifier vlm:OUT`. Ctrl-C saves the state in OUT.partial; the same
    command continues.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac judge train sanac:tiny --out judge --images 256 --steps 500",
        "sanac judge train sanac:tiny pruned --out judge --prompts prompts.txt",
        "sanac judge train --labels labels.jsonl --out judge",
        "sanac judge train --labels labels.jsonl --base Qwen/Qwen2.5-VL-3B-Instruct --out my-vlm",
    )

    out: Annotated[Path, Option("Folder of the judge.", "DIR", recipe=False)]
    labels: Annotated[
        Path | None, Option("Labelled images: JSON Lines with image, prompt and label.", "FILE", recipe=False)
    ] = None
    base: Annotated[
        ModelRef | None,
        Option("Vision-language model to adapt to --labels: a folder, or a hub id on this machine.", "MODEL"),
    ] = None
    hold_out: Annotated[
        float, Option("Share of the prompts kept from training, to measure the judge on.", "SHARE", gt=0, lt=1)
    ] = 0.2
    force: Annotated[bool, Option("Replace a judge that is already in OUT.", recipe=False)] = False
    fresh: Annotated[bool, Option("Discard what an interrupted run left instead of continuing it.", recipe=False)] = (
        False
    )
    prompts: Annotated[
        Path | None,
        Option("Prompts of the shapes world, one per line.", "FILE", "its training prompts", group=SAMPLING),
    ] = None
    images: Annotated[int, Option("Images to generate with each MODEL.", "N", ge=2, le=100_000, group=SAMPLING)] = 512
    looks: Annotated[
        int, Option("Previews of each image to train on, spread over its steps.", "N", ge=1, le=100, group=SAMPLING)
    ] = 8
    sampler_steps: Annotated[
        int | None,
        Option(
            "Sampler steps.", "N", "the schedule's, else 20; SANA-Sprint 2, tokens 18", ge=1, le=1000, group=SAMPLING
        ),
    ] = None
    guidance: Annotated[
        float,
        Option(
            "Guidance scale; of token generators Show-o's.", "SCALE", "4.5; tokens 1.75", ge=0, le=100, group=SAMPLING
        ),
    ] = 4.5
    order: Order = "confidence"
    temperature: Temperature = 1.0
    steps: Annotated[
        int | None, Option("Training steps.", "N", f"{STEPS}; {VLM_STEPS} with --base", ge=1, group=TRAINING)
    ] = None
    learning_rate: Annotated[
        float | None,
        Option("Peak learning rate.", "RATE", f"{RATE:g}; {VLM_RATE:g} with --base", gt=0, group=TRAINING),
    ] = None
    batch: Annotated[
        int | None,
        Option("Images per training step.", "N", f"{BATCH}; {VLM_BATCH} with --base", ge=1, le=4096, group=TRAINING),
    ] = None
    rank: Annotated[
        int, Option("Rank of the adapters that --base is trained with.", "RANK", ge=1, le=1024, group=TRAINING)
    ] = 16
    save_every: Annotated[int, Option("Steps between two checkpoints.", "N", ge=1, group=ADVANCED)] = 100

    @property
    def training_steps(self) -> int:
        """Training steps, typed or by default."""
        return self.steps or (VLM_STEPS if self.base else STEPS)

    @property
    def peak_rate(self) -> float:
        """Peak learning rate, typed or by default."""
        return self.learning_rate or (VLM_RATE if self.base else RATE)

    @property
    def batch_size(self) -> int:
        """Images per training step, typed or by default."""
        return self.batch or (VLM_BATCH if self.base else BATCH)

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of generated images beside labelled ones, and of a base model where there is none."""
        if self.labels:
            for option in _GENERATED:
                if option in self.typed:
                    yield option, f"{name(option)} is for images that a MODEL generates: {name('labels')} names images"
        if self.base and not self.labels:
            yield "base", f"{name('base')} requires {name('labels')}"
        for option in _BASE_ONLY:
            if option in self.typed and not self.base:
                yield option, f"{name(option)} requires {name('base')}"
        yield from super().contradictions(name)
