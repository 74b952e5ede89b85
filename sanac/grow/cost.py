"""Cost of `sanac grow` in a recipe."""

from dataclasses import replace

from sanac.core.cost import STREAMED, Cost, ModelShape
from sanac.grow.settings import GrowSettings


def grow(settings: GrowSettings, before: ModelShape, _others: int) -> Cost:
    """A copy with more blocks."""
    if settings.target_blocks <= before.blocks:
        problem = f"grow.target_blocks is {settings.target_blocks}, no more than the model's {before.blocks}"
        return Cost(before, STREAMED, 0.0, 2 * before.size, problem=problem)
    after = replace(before, blocks=settings.target_blocks)
    return Cost(after, STREAMED, 0.0, before.size + after.size)
