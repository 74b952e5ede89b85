"""Cost of `sanac schedule` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.judge.halving import judged_images
from sanac.schedule.settings import PROMPTS, STEPS, ScheduleSettings

UNSEEN = 2  # of the images of a finalist, one in so many more shows contents that training never saw
_PROPOSALS = 3  # per number of steps, about


def schedule(settings: ScheduleSettings, before: ModelShape, _others: int) -> Cost:
    """The velocity's errors, and the images that judge; the latter count, unless nothing confirms."""
    pairs = (settings.num_prompts or PROMPTS) * (settings.timesteps or before.steps)
    work = before.forward(pairs * 0.25 * before.blocks)
    if settings.confirm != "none":
        unseen = settings.confirm != "prompts"
        whole, each = images_to_judge(settings.images, len(settings.try_steps or STEPS), unseen=unseen)
        shares = {*settings.front, *([settings.budget] if settings.budget else [])}
        work += before.forward(before.steps * (whole + each * sum(shares)))
    return Cost(before, OVERHEAD + before.size_fp32, work, 2 * before.size)


def images_to_judge(images: int, steps: int, *, unseen: bool = True) -> tuple[int, int]:
    """Images of the whole model, and of each budget where so many numbers of steps are tried.

    `unseen`: whether contents that training never saw are shown, too.
    """
    more = images // UNSEEN if unseen else 0
    return images + more, judged_images(_PROPOSALS * steps, images) + images + 2 * more
