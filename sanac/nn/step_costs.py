"""What each sampler step of a model takes for one picture: from its config and schedule, nothing is computed."""

from sanac.core.artifact.model import Model
from sanac.nn.guidance import config_of, default_steps, guidance_of
from sanac.nn.pipeline_config import noise_levels
from sanac.nn.stepwise import StepCost


def step_costs(
    model: Model, steps: int | None, guidance: float, blocks: int | None = None, *, distilled: bool = False
) -> tuple[StepCost, ...]:
    """The cost of each step of a model, or of the model that has only `blocks` of its blocks.

    With `blocks` and a schedule it is an upper bound: which of the scheduled blocks are left isn't known.
    `distilled`: whether guidance will be in the weights, as `finetune --distill-guidance` trains them.
    """
    schedule, depth = model.schedule, blocks or model.architecture.blocks
    scale = schedule.guidance(guidance, typed=False) if schedule else guidance
    branches = 1 if distilled or scale <= 1 else guidance_of(config_of(model), scale).branches
    count = steps or default_steps(model)
    if schedule is None:
        return (StepCost(branches, branches * depth),) * count
    found = []
    for level in noise_levels(model, count):
        step = schedule.step_at(level)
        both = branches if schedule.guided[step] else 1
        found.append(StepCost(both, both * min(depth, schedule.blocks[step])))
    return tuple(found)
