"""Costs of `sanac verify`, `evaluate` and `bench` in a recipe."""

from pathlib import Path

from sanac.core.cost import OVERHEAD, Cost, ModelShape, comparison_memory
from sanac.core.errors import InvalidInput
from sanac.nn.calibration.prompts import read_prompts
from sanac.verify.settings import BenchSettings, EvaluateSettings, VerifySettings

UNKNOWN = 100  # prompts of a file that can't be read yet


def verify(settings: VerifySettings, before: ModelShape, _others: int) -> Cost:
    """Outputs block by block; images with both models in memory, where they are asked for or there is room."""
    work = before.forward(settings.pictures * settings.steps * 2 + 20)
    asked = settings.pictures and "pictures" in settings.typed
    memory = OVERHEAD + 2 * before.size_fp32 if asked else comparison_memory(before)
    return Cost(before, memory, work, 2 * before.size)


def evaluate(settings: EvaluateSettings, before: ModelShape, _others: int) -> Cost:
    """The suite's images: of shapes, a quarter more for its held-out part; of prompts, the reference's, too."""
    images = 1.25 * settings.images
    if settings.suite == "prompts":
        sides = 1 if settings.against is None else 2  # the reference may be deeper: that is not known here
        images = sides * (settings.each or 1) * _count_prompts(settings.prompts)
    work = before.forward(images * (settings.steps or before.steps))
    return Cost(before, OVERHEAD + before.size_fp32, work, before.size)


def _count_prompts(file: Path | None) -> int:
    """The number of prompts in a file; a guess where it can't be read here: the stage says why."""
    try:
        return len(read_prompts(file)) if file else UNKNOWN
    except InvalidInput:
        return UNKNOWN


def bench(settings: BenchSettings, before: ModelShape, others: int) -> Cost:
    """Turns of every model, all of them in memory."""
    turns = settings.rounds * (settings.steps or 20) * (1 + others) * 1.5
    return Cost(before, (OVERHEAD + before.size_fp32) * (1 + others), before.forward(turns), before.size)
