"""The shapes suite: generates images for held-out prompts of the shapes world and scores them with its detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.judge.distribution import Distance, compare
from sanac.judge.geneval import GenEvalResult
from sanac.judge.intervals import Interval, clustered_share
from sanac.judge.metadata import parse_task
from sanac.judge.results import Result, Summary, prompt_scores, result_of, summarise
from sanac.judge.shapes import judge_pictures
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.nn.stepwise import Pictures
from sanac.shapes.prompts import Prompt, Split, suite
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene
from sanac.shapes.words import TAGS

SCHEMA = 1  # of the measurement: raised when the same images would be scored differently
LEAST = 12  # least number of images: two per task


@dataclass(frozen=True)
class Evaluation:
    """Result of the suite: the score, the held-out score, and the distribution distance."""

    summary: Summary
    held_out: Interval | None
    distance: Distance
    results: tuple[Result, ...]  # of the split's prompts, then of the held-out ones
    pictures: Pictures  # in the same order
    prompts: tuple[Prompt, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of the measurement file."""
        return {
            "schema": SCHEMA,
            **self.summary.to_json(),
            "held_out": self.held_out.to_json() if self.held_out else None,
            "distribution": self.distance.to_json(),
        }


def evaluate(
    generator: ImageGenerator,
    images: int,
    sampling: GenerationSettings,
    seed: int,
    split: Split,
    reporter: Reporter,
) -> Evaluation:
    """Generate and score images for `images` prompts of a split, and a quarter as many with held-out contents."""
    prompts_seen, held_out = suite_prompts(images, split)
    prompts = (*prompts_seen, *held_out)
    seeds = [*noise_seeds(seed, images), *noise_seeds(seed, len(held_out))]
    pictures, results = generate_and_judge(generator, prompts, seeds, sampling, reporter)
    return Evaluation(
        summarise(results[:images], seed=seed),
        clustered_share(prompt_scores(results[images:])),
        compare(pictures[:images], rendered(prompts_seen, pictures.shape[1], seed)),
        results,
        pictures,
        prompts,
    )


def suite_prompts(images: int, split: Split) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts of a split, and those with held-out contents."""
    if images < LEAST:
        raise UsageError(f"--images {images} is too few", why="every task needs two", hint=f"--images {LEAST} or more")
    return suite(split, images), suite("held-out", max(LEAST // 2, images // 4))


def noise_seeds(seed: int, images: int) -> list[int]:
    """The seed of each image's noise; it depends on the image's number only, so all models get the same noises."""
    return [seed * 1_000_003 + number for number in range(images)]


def generate_and_judge(
    generator: ImageGenerator,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: GenerationSettings,
    reporter: Reporter,
) -> tuple[Pictures, tuple[Result, ...]]:
    """An image per prompt, and the verdict on each."""
    reporter.begin("generating", len(prompts), "images")
    try:
        pictures = np.concatenate(
            list(generator.generate([prompt.text for prompt in prompts], seeds, sampling, reporter))
        )
    finally:
        reporter.end()
    if pictures.shape[1] != pictures.shape[2]:
        size = f"{pictures.shape[2]}x{pictures.shape[1]}"
        raise InvalidInput(f"{generator.name} generates images of {size}", why="the suite needs square images")
    verdicts = judge_pictures(prompts, list(pictures))
    return pictures, tuple(map(_result, range(len(prompts)), prompts, verdicts))


def _result(index: int, prompt: Prompt, verdict: GenEvalResult) -> Result:
    return result_of(f"{index:05}/samples/0000.png", parse_task(prompt.metadata), verdict)


def rendered(prompts: Sequence[Prompt], side: int, seed: int) -> NDArray[np.uint8]:
    """Ground-truth renderings of the prompts' scenes."""
    rngs = (np.random.default_rng((seed, index, 1)) for index in range(len(prompts)))
    scenes = [draw_scene(prompt.content, rng, tidy=True) for prompt, rng in zip(prompts, rngs, strict=True)]
    return np.stack([render(scene, side) for scene in scenes])


def examples(evaluation: Evaluation, each: int = 8) -> list[int]:
    """Indices of the first `each` images of every task, grouped by task, for a contact sheet."""
    tags = [result.task.tag for result in evaluation.results[: evaluation.summary.pictures]]
    return [index for tag in TAGS for index in [i for i, other in enumerate(tags) if other == tag][:each]]
