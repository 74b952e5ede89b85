"""The points of a budget: each variant with each number of candidates per picture, and what a picture costs there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError
from sanac.nn.step_costs import step_costs
from sanac.run.stage_graph import RecipePlan, Variant, typed_settings
from sanac.search.picture_cost import picture_cost
from sanac.verify.evaluate_settings import EvaluateSettings


@dataclass(frozen=True)
class Point:
    """A variant, the candidates of a picture, and what they cost together."""

    variant: Variant
    samples: int
    block_forwards: float  # of a picture with all its candidates, in the unit of `sanac schedule`
    candidates: float  # the same cost in whole pictures: 1 for a single one
    exact: bool = True  # whether the cost is known; else at most this

    @property
    def name(self) -> str:
        """'prune.target_blocks=6, samples=4'."""
        return ", ".join(filter(None, (self.variant.name, f"samples={self.samples}")))

    def over(self, most: float | None) -> str:
        """Why the point is over the budget, as text; '' if it isn't or if that isn't known yet."""
        if most is None or not self.exact or self.block_forwards <= most:
            return ""
        return f"{self.block_forwards:g} block-forwards per picture, over {most:g}"

    def to_json(self) -> dict[str, Any]:
        """Samples and cost as JSON."""
        return {"samples": self.samples, "block_forwards": self.block_forwards}


def points_of(plan: RecipePlan, variant: Variant, model: Model, blocks: int | None = None) -> Iterator[Point]:
    """A point for each number of samples of a variant that is `model`, or will be it with `blocks` blocks."""
    stages = {stage.verb: stage.settings for stage in variant.stages}
    distilled = bool(stages.get("finetune", {}).get("distill_guidance"))
    exact = blocks is None or (model.schedule is None and not _any_depth(variant))
    for samples in plan.recipe.samples:
        settings = evaluation_of(plan.sampled(samples))
        costs = step_costs(model, settings.steps, settings.guidance, blocks, distilled=distilled)
        single = picture_cost(replace(settings, search="single"), 1, costs)
        cost = picture_cost(settings, samples, costs)
        yield Point(variant, samples, cost, cost / single, exact)


def forecast(plan: RecipePlan, model: Model, blocks: Mapping[str, int]) -> tuple[Point, ...]:
    """All points before anything is made, from the blocks after each stage; UsageError if all are over the budget."""
    found = [
        point
        for variant in plan.variants
        for point in points_of(plan, variant, model, blocks[variant.last.key] if variant.last else None)
    ]
    _check_budget(plan, found)
    return tuple(found)


def _check_budget(plan: RecipePlan, points: Sequence[Point]) -> None:
    most = plan.recipe.target.max_block_forwards if plan.recipe.target else None
    if points and all(point.over(most) for point in points):
        least = min(points, key=lambda point: point.block_forwards)
        raise UsageError(
            f"target.max_block_forwards is {most:g}, too small for any point",
            why=f"the cheapest one, {least.name}, costs {least.block_forwards:g} block-forwards per picture",
            hint=f"max_block_forwards = {least.block_forwards:g}, fewer blocks in [matrix], or fewer evaluate.steps",
        )


def evaluation_of(plan: RecipePlan) -> EvaluateSettings:
    """The settings of the evaluation whose score stands for a model."""
    step = plan.recipe.scored
    assert step is not None
    settings = typed_settings(step.verb, step.settings)
    assert isinstance(settings, EvaluateSettings)
    return settings


def _any_depth(variant: Variant) -> bool:
    """Whether the depth follows from a number of parameters, which is only known once the variant is made."""
    return any("target_params" in stage.settings for stage in variant.stages)
