"""Estimates of a recipe's stages: bytes, memory, time; from shapes alone, before anything is opened or computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sanac.core.artifact.model import Model
from sanac.core.cost import Cost, ModelShape
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text, duration_text
from sanac.nn.device import pick_device
from sanac.nn.device_speed import speed_of
from sanac.nn.guidance import branches_of, usual_steps
from sanac.nn.pipeline_config import latent_side
from sanac.nn.precision import choose_precision
from sanac.run.stage_graph import RecipePlan, RecipeStage
from sanac.verbs import VERBS, resolve
from sanac.verify.compare_plan import PROMPTS

_START = 8.0  # seconds until a process has imported its libraries
_DISK = 400e6  # bytes a second, read, digested and written


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """The estimate of one stage."""

    stage: RecipeStage
    blocks: int
    size: float  # bytes of the model afterwards
    memory: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The estimate in JSON's types."""
        return {"blocks": self.blocks, "bytes": int(self.size), "memory": int(self.memory), "seconds": self.seconds}


def shape_of(model: Model) -> ModelShape:
    """The shape of a model on disk."""
    weights, shape = model.weights, model.architecture
    blocks = max(1, shape.blocks)
    inside = sum(
        int(np.prod(tensor.shape)) for name, tensor in weights.tensors.items() if name.startswith("transformer_blocks.")
    )
    others = [part.weights for part in model.components if part.weights and part.name != "transformer"]
    return ModelShape(
        shape.blocks,
        inside / blocks,
        weights.count - inside,
        8 * weights.size / max(1, weights.count),
        sum(other.size for other in others),
        sum(other.count for other in others),
        (latent_side(model) // shape.patch_size) ** 2,
        usual_steps(model),
        branches_of(model),
    )


def estimate_recipe(plan: RecipePlan, model: Model) -> dict[str, StageEstimate]:
    """The estimate of every stage by its key; raises UsageError with every depth that can't be."""
    device = pick_device(None)
    rate = speed_of(model, device, choose_precision(None, device, model)).operations
    source, problems = shape_of(model), list[str]()
    found: dict[str, StageEstimate] = {}
    shapes: dict[str, ModelShape] = {}
    for stage in plan.stages():
        before = shapes[stage.source.key] if stage.source else source
        cost: Cost = resolve(VERBS[stage.verb].cost)(stage.typed_settings, before, len(stage.others))
        problems += [cost.problem] if cost.problem else []
        shapes[stage.key] = cost.after
        seconds = _START + cost.seconds + cost.operations / rate + cost.traffic / _DISK
        size, blocks = cost.after.size, cost.after.blocks
        found[stage.key] = StageEstimate(stage, blocks, size, cost.memory, round(seconds, 1))
    if problems:
        names = list(dict.fromkeys(problems))
        raise UsageError(names[0], problems=names, hint=f"{model.located.name} has {source.blocks} blocks")
    return found


def sheet_seconds(plan: RecipePlan, model: Model, estimates: Mapping[str, StageEstimate]) -> float:
    """Estimated seconds of the sheet's pictures, as if every model on it were the deepest of the recipe."""
    source, step = shape_of(model), plan.recipe.of("evaluate")
    deepest = max((source.blocks, *(one.blocks for one in estimates.values())))
    models = 1 + max((len(plan.shown(variant)) for variant in plan.variants), default=0)
    steps = int(step.settings.get("steps", source.steps)) if step else source.steps
    work = source.forward(models * PROMPTS * steps) * deepest / source.blocks
    device = pick_device(None)
    return _START + work / speed_of(model, device, choose_precision(None, device, model)).operations


def table_of(
    stages: Sequence[RecipeStage], estimates: Mapping[str, StageEstimate], done: Mapping[str, bool]
) -> Iterator[list[str]]:
    """Titles, then a row for each stage."""
    yield ["stage", "on", "blocks", "weights", "memory", "time"]
    for stage in stages:
        about = estimates[stage.key]
        on = stage.source.folder_name if stage.source else "the source"
        numbers = [str(about.blocks), bytes_text(int(about.size)), bytes_text(int(about.memory))]
        when = "done already" if done.get(stage.key) else duration_text(about.seconds)
        yield [" ".join((stage.verb, *stage.options)), on, *numbers, when]
