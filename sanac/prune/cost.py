"""Costs of `sanac analyze` and `sanac prune` in a recipe."""

from dataclasses import replace

from sanac.core.cost import OVERHEAD, STREAMED, Cost, ModelShape
from sanac.nn.calibration.settings import LIMIT
from sanac.prune.settings import AnalyzeSettings, PruneSettings

PROMPTS = 100  # that scores are measured on


def analyze(settings: AnalyzeSettings, before: ModelShape, _others: int) -> Cost:
    """One forward per prompt and sampler step."""
    work = before.forward((settings.num_prompts or PROMPTS) * (settings.timesteps or before.steps))
    return Cost(before, OVERHEAD + min(float(LIMIT), before.size_fp32), work, before.size)


def prune(settings: PruneSettings, before: ModelShape, others: int) -> Cost:
    """A copy, and scores where no stage before measured them."""
    after, problem = before, ""
    if settings.target_blocks is not None and settings.target_blocks > before.blocks:
        problem = f"prune.target_blocks is {settings.target_blocks}, of {before.blocks} blocks"
    elif settings.target_blocks is not None:
        after = replace(before, blocks=settings.target_blocks)
    elif settings.keep:
        after = replace(before, blocks=sum(map(_count, settings.keep.split(","))))
    scoring = 0.0 if others or settings.keep else before.forward(PROMPTS * before.steps)
    memory = STREAMED + (LIMIT if scoring and before.size > LIMIT else 0)
    return Cost(after, memory, scoring, before.size + after.size, problem=problem)


def _count(part: str) -> int:
    low, _, high = (word.strip() for word in part.partition("-"))
    return int(high) - int(low) + 1 if high else 1
