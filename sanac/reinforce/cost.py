"""Cost of `sanac reinforce` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.reinforce.settings import ReinforceSettings

PROMPTS = 256  # by default
_STEP = 4.0  # forward passes that a training step is worth: a forward, a backward of two, and the reference's


def reinforce(settings: ReinforceSettings, before: ModelShape, _others: int) -> Cost:
    """Sampling and training of every round."""
    sampled = settings.rounds - (1 if settings.samples else 0)
    images = sampled * (settings.num_prompts or PROMPTS) * settings.each
    seen = {"rft": 1, "dpo": 2}.get(settings.loss, settings.each)
    trained = settings.rounds * settings.updates * settings.prompts_per_step * seen
    steps = settings.steps or before.steps
    work = before.forward(steps * images + _STEP * trained / before.branches)
    copies = 1 if settings.lora else 4 + bool(settings.ema) + (settings.loss != "rft")  # AdamW's two, gradients
    memory = OVERHEAD + copies * 4 * before.parameters + 4 * before.tokens * settings.prompts_per_step * seen * 64_000
    return Cost(before, memory, work, before.size)
