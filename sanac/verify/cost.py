"""Costs of `sanac verify`, `evaluate` and `bench` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape, comparison_memory
from sanac.verify.settings import BenchSettings, EvaluateSettings, VerifySettings


def verify(settings: VerifySettings, before: ModelShape, _others: int) -> Cost:
    """Outputs block by block; images with both models in memory, where they are asked for or there is room."""
    work = before.forward(settings.pictures * settings.steps * 2 + 20)
    asked = settings.pictures and "pictures" in settings.typed
    memory = OVERHEAD + 2 * before.size_fp32 if asked else comparison_memory(before)
    return Cost(before, memory, work, 2 * before.size)


def evaluate(settings: EvaluateSettings, before: ModelShape, _others: int) -> Cost:
    """The suite's images, a quarter of them for its held-out part."""
    work = before.forward(1.25 * settings.images * (settings.steps or before.steps))
    return Cost(before, OVERHEAD + before.size_fp32, work, before.size)


def bench(settings: BenchSettings, before: ModelShape, others: int) -> Cost:
    """Turns of every model, all of them in memory."""
    turns = settings.rounds * (settings.steps or 20) * (1 + others) * 1.5
    return Cost(before, (OVERHEAD + before.size_fp32) * (1 + others), before.forward(turns), before.size)
