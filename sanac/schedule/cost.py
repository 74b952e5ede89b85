"""Cost of `sanac schedule` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.judge.halving import judged_images
from sanac.schedule.settings import PROMPTS, STEPS, ScheduleSettings

_PROPOSALS = 3  # per number of steps


def schedule(settings: ScheduleSettings, before: ModelShape, _others: int) -> Cost:
    """The velocity's errors, and the images that judge; the latter count, unless nothing confirms."""
    pairs = (settings.num_prompts or PROMPTS) * (settings.timesteps or before.steps)
    work = before.forward(pairs * 0.25 * before.blocks)
    if settings.confirm != "none":
        steps = len(settings.try_steps or STEPS)
        each = judged_images(_PROPOSALS * steps, settings.images) + settings.images
        shares = {*settings.front, *([settings.budget] if settings.budget else [])}
        work += before.forward(before.steps * (settings.images + each * sum(shares)))
    return Cost(before, OVERHEAD + before.size_fp32, work, 2 * before.size)
