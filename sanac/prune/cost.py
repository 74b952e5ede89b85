"""Costs of `sanac analyze` and `sanac prune` in a recipe."""

from dataclasses import replace

from sanac.core.cost import OVERHEAD, STREAMED, Cost, ModelShape
from sanac.nn.calibration.settings import LIMIT
from sanac.prune.beam_search import TRIED
from sanac.prune.settings import AnalyzeSettings, PruneSettings

PROMPTS = 100  # that scores are measured on
SEARCHED = 32  # prompts of a search
EVERY = 4  # a search evaluates every 4th sampler step
BEAM, SWAPS = 4, 3  # of a search: subsets that go on, rounds of swaps
_QUICK = 3e13  # operations of a search and a repair that take minutes on a processor


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
    scoring = 0.0 if others or settings.keep else _choosing(settings, before, after.blocks)
    memory = STREAMED + (LIMIT if scoring and before.size > LIMIT else 0)
    return Cost(after, memory, scoring, before.size + after.size, problem=problem)


def _choosing(settings: PruneSettings, before: ModelShape, target: int) -> float:
    """Operations of choosing blocks, and of a repair."""
    prompts = settings.num_prompts
    searching = before.forward(search_forwards(before.blocks, target) * (prompts or SEARCHED) * before.steps / EVERY)
    repair = before.forward(4 * (prompts or PROMPTS) * before.steps)
    if settings.select == "search" or (settings.select is None and searching + repair < _QUICK):
        return searching + (repair if settings.compensate or settings.select is None else 0)
    return before.forward((prompts or PROMPTS) * before.steps) + (repair if settings.compensate else 0)


def search_forwards(blocks: int, target: int) -> float:
    """Approximate number of full forwards in a search: half a forward per evaluated subset.

    The first round starts from the whole model alone, the others from as many subsets as the beam is wide.
    """
    wide = {left: 1 if left == blocks else BEAM for left in range(target + 1, blocks + 1)}
    rounds = sum(0.5 * beam * left * left / blocks for left, beam in wide.items())
    return rounds + SWAPS * 0.5 * min(TRIED, target * (blocks - target)) * target / blocks


def _count(part: str) -> int:
    low, _, high = (word.strip() for word in part.partition("-"))
    return int(high) - int(low) + 1 if high else 1
