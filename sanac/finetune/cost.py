"""Cost of `sanac finetune` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.finetune.settings import FinetuneSettings

_STEP = 3.0  # forward passes that a training step is worth
_BATCH = 64


def finetune(settings: FinetuneSettings, before: ModelShape, _others: int) -> Cost:
    """Training, the teacher's forward passes, and its samples where there is no data."""
    batch = settings.batch or _BATCH
    samples = settings.steps * batch * settings.accumulate
    sampled = 0 if settings.data else settings.samples * before.steps
    work = before.forward((_STEP + 1) * samples / before.branches + sampled)
    memory = OVERHEAD + 16 * before.parameters + 4 * before.tokens * batch * 64_000
    return Cost(before, memory, work, before.size)
