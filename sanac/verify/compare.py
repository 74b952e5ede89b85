"""Compares models: generates the planned pictures with each, scores them, and says what differs from the first."""

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.artifact.differences import difference
from sanac.core.artifact.model import Model
from sanac.core.artifact.summary import summarise
from sanac.core.progress import Reporter
from sanac.core.units import duration_text
from sanac.judge.image_metrics import psnr, ssim
from sanac.judge.intervals import PromptScore, overall, paired_difference
from sanac.judge.results import prompt_scores
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.runtime.generate import PlannedPicture, write_picture
from sanac.runtime.pipeline import open_generator
from sanac.shapes.prompts import suite
from sanac.verify.compare_plan import ComparisonPlan
from sanac.verify.shapes_suite import generate_and_judge, noise_seeds
from sanac.verify.timing_noise import Contention, load_warnings, watch_contention

Picture = NDArray[np.uint8]
_LONG = 60.0  # seconds from which on an estimate is given first


@dataclass
class Measured:
    """What was measured of one model."""

    pictures: list[Picture] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    contention: Contention = field(default_factory=Contention)
    scores: list[PromptScore] = field(default_factory=list)  # empty: not scored

    @property
    def time(self) -> dict[str, Any]:
        """The median seconds per picture without the first one, and why it can't be trusted."""
        counted = self.seconds[1:] or self.seconds
        doubts = load_warnings(self.contention)
        if len(self.seconds) == 1:
            doubts.append("a single picture, which includes the warm-up")
        return {"median": statistics.median(counted), "each": self.seconds, "doubts": doubts}


def measure(plan: ComparisonPlan, planned: Sequence[Sequence[PlannedPicture]], reporter: Reporter) -> list[Measured]:
    """Generate every model's pictures and score it, one model after the other: only one is in memory."""
    found: list[Measured] = []
    for name, model, pictures in zip(plan.names, plan.models, planned, strict=True):
        generator = open_generator(model, plan.device, reporter=reporter)
        for warning in generator.device_warnings():
            reporter.warn(f"{name}: {warning}")
        if unknown := generator.unknown_words(plan.prompts):
            reporter.warn(f"{name}: words that are not in its vocabulary, and have no effect: {', '.join(unknown)}")
        reporter.note(f"{name}: {len(pictures)} pictures" + (f", {plan.images} more to score" if plan.images else ""))
        found.append(_measure(plan, model, generator, pictures, reporter, first=not found))
        del generator
        gc.collect()  # its memory is needed for the next one, and hooks of its modules form cycles
    return found


def _measure(
    plan: ComparisonPlan,
    model: Model,
    generator: ImageGenerator,
    planned: Sequence[PlannedPicture],
    reporter: Reporter,
    *,
    first: bool,
) -> Measured:
    found, sampling = Measured(), plan.sampling(model)
    reporter.begin("generating", len(planned), "images")
    try:
        with watch_contention(found.contention, ()):
            for one in planned:
                start = time.perf_counter()
                (batch,) = generator.generate([one.prompt], [one.seed], sampling)
                found.seconds.append(time.perf_counter() - start)
                found.pictures.append(batch[0])
                write_picture(one, batch[0])
                reporter.advance(1)
                if first and len(found.seconds) == 2:  # the first one includes the warm-up
                    _note_estimate(plan, found.seconds[1], reporter)
    finally:
        reporter.end()
    if plan.images:
        found.scores = _scores(plan, generator, plan.sampling(model, plan.settings.batch), reporter)
    return found


def _note_estimate(plan: ComparisonPlan, seconds: float, reporter: Reporter) -> None:
    whole = seconds * len(plan.models) * (len(plan.prompts) + plan.images)
    if whole > _LONG:
        reporter.note(f"takes up to {duration_text(whole)} in all, if every model is as slow as the first")


def _scores(
    plan: ComparisonPlan, generator: ImageGenerator, sampling: GenerationSettings, reporter: Reporter
) -> list[PromptScore]:
    """The suite's scores, as `evaluate` computes them for the same number of images and the same seed."""
    settings = plan.settings
    prompts = suite(settings.prompts_split, plan.images)
    seeds = noise_seeds(settings.seed, plan.images)
    return prompt_scores(generate_and_judge(generator, prompts, seeds, sampling, reporter)[1])


def figures(plan: ComparisonPlan, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The figures of each model, with the differences to the first one; as stored in compare.json."""
    found = []
    for place, (name, model, one) in enumerate(zip(plan.names, plan.models, measured, strict=True)):
        summary = summarise(model)
        height, width = one.pictures[0].shape[:2]
        entry: dict[str, Any] = {
            "model": name,
            "blocks": summary.blocks,
            "bytes": {"transformer": summary.components[0].amount.bytes, "pipeline": summary.total.bytes},
            "steps": plan.sampling(model).steps,
            "image_size": [width, height],
            "seconds": one.time,
            "score": overall(one.scores, seed=plan.settings.seed).to_json() if one.scores else None,
        }
        if place:
            entry["against_first"] = _against(plan, measured[0], one, model)
        found.append(entry)
    return found


def _against(plan: ComparisonPlan, first: Measured, one: Measured, model: Model) -> dict[str, Any]:
    lost = None
    if one.scores:
        lost = paired_difference(one.scores, first.scores, seed=plan.settings.seed).to_json()
    return {
        "score": lost,
        "similarity": [*_similarities(first.pictures, one.pictures)],
        "difference": difference(plan.models[0], model).to_json(),
    }


def _similarities(first: Sequence[Picture], other: Sequence[Picture]) -> Iterator[dict[str, float] | None]:
    """PSNR and SSIM of each picture; None for pictures of another size."""
    for one, two in zip(first, other, strict=True):
        same = one.shape == two.shape
        yield {"psnr": psnr(two, one), "ssim": ssim(two, one)} if same else None
