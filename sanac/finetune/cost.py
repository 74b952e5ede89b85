"""Cost of `sanac finetune` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.finetune.defaults import batch_size, usual_samples
from sanac.finetune.settings import FinetuneSettings

_STEP = 3.0  # forward passes that a training step is worth


def finetune(settings: FinetuneSettings, before: ModelShape, _others: int) -> Cost:
    """Training, the teacher's forward passes, and its samples where there is no data."""
    batch, trajectories = batch_size(settings, before.tokens), settings.takes_trajectories
    examples = settings.steps * batch * settings.accumulate
    steps = settings.teacher_steps or before.steps
    taught = 0 if trajectories and not settings.data else examples
    usual = usual_samples(examples, steps, before.branches, trajectories=trajectories)
    sampled = 0 if settings.data else steps * (settings.samples or usual)
    work = before.forward((_STEP * examples + taught) / before.branches + sampled)
    memory = OVERHEAD + 3.3 * 4 * before.parameters + 4 * before.tokens * batch * 64_000
    return Cost(before, memory, work, before.size)
