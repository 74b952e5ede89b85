"""Cost of `sanac finetune` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.finetune.settings import FinetuneSettings

_STEP = 3.0  # forward passes that a training step is worth
_TOKENS = 16_384  # of a batch
_REUSED, _SHARE, _FEWEST = 2, 3 / 8, 60  # of data that is sampled from the teacher


def finetune(settings: FinetuneSettings, before: ModelShape, _others: int) -> Cost:
    """Training, the teacher's forward passes, and its samples where there is no data."""
    batch = settings.batch or max(1, min(64, _TOKENS // max(1, before.tokens)))
    examples = settings.steps * batch * settings.accumulate
    steps = settings.teacher_steps or before.steps
    taught = 0 if settings.takes_trajectories and not settings.data else examples
    sampled = 0.0
    if not settings.data:
        each = 1 / (_REUSED * steps) if settings.takes_trajectories else _SHARE / (before.branches * steps)
        sampled = steps * (settings.samples or max(_FEWEST, each * examples))
    work = before.forward((_STEP * examples + taught) / before.branches + sampled)
    weights = 4 * before.parameters
    memory = OVERHEAD + 3.3 * weights + 4 * before.tokens * batch * 64_000
    return Cost(before, memory, work, before.size)
