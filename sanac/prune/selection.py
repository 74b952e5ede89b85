"""Selects the blocks to keep from scores and a target depth or parameter count."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import BlockPlan, keep_blocks
from sanac.core.errors import UsageError
from sanac.core.family.architecture import Architecture
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.prune.scores import Scores

_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmb]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True, slots=True)
class BlockSelection:
    """Settings of block selection: the metric, the target depth and the protected blocks."""

    select: str
    target: int
    protect_first: int = 0
    protect_last: int = 0

    def check(self, blocks: int) -> None:
        """Raise one UsageError that lists every problem for a model of `blocks` blocks."""
        problems = []
        if not 1 <= self.target <= blocks:
            problems.append(f"--target-blocks {self.target} is not between 1 and {blocks}, the model's depth")
        if self.protect_first + self.protect_last > max(self.target, 0):
            kept = f"--protect-first {self.protect_first} and --protect-last {self.protect_last}"
            problems.append(f"{kept} protect more than the {self.target} blocks that are kept")
        if problems:
            hint = f"--target-blocks {max(1, blocks // 2)}"
            message = f"a model of {blocks} blocks can't be pruned like this"
            raise UsageError(message, why=problems[0], hint=hint, problems=problems)

    def protected(self, blocks: int) -> set[int]:
        """Indices of the blocks that are always kept."""
        return {*range(self.protect_first), *range(blocks - self.protect_last, blocks)}


def best(values: Sequence[float], selection: BlockSelection) -> BlockPlan:
    """The plan that keeps the blocks with the highest scores, in the model's order; ties keep the earlier block."""
    blocks = len(values)
    selection.check(blocks)
    protected = selection.protected(blocks)
    order = sorted(range(blocks), key=lambda index: (index not in protected, -values[index], index))
    return keep_blocks(blocks, sorted(order[: selection.target]))


def plan_target(model: Model, selection: BlockSelection, scores: Scores, options: WriteOptions) -> ArtifactJob:
    """The prune job that keeps the most important blocks by these scores."""
    plan = best(scores.of(selection.select), selection)
    settings = {name: value for name, value in asdict(selection).items() if name != "target"}
    return plan_artifact("prune", model, plan, settings | {"scores": dict(scores.settings)}, options)


def depth_of(model: Model, blocks: int | None, parameters: str | None) -> int:
    """The target depth: `blocks`, or the depth whose parameter count is nearest to `parameters` ('1.6B')."""
    if blocks is not None:
        return blocks
    match = _COUNT.fullmatch((parameters or "").strip())
    if match is None:
        raise UsageError(f"--target-params {parameters} is not a number of parameters", hint="--target-params 1.6B")
    target, architecture = float(match[1]) * _UNITS[match[2].lower()], model.architecture
    depth = nearest_depth(architecture, target)
    if not 1 <= depth <= architecture.blocks:
        least, most = (parameters_at(architecture, blocks) for blocks in (1, architecture.blocks))
        why = f"its transformer has {most:,} parameters, {least:,} with one block"
        raise UsageError(f"--target-params {parameters} is out of range for {model.located.name}", why=why)
    return depth


def parameters_at(architecture: Architecture, blocks: int) -> int:
    """Parameters of the transformer if it had `blocks` blocks."""
    per_block = sum(map(math.prod, architecture.block_tensors().values()))
    whole = sum(map(math.prod, architecture.tensors().values()))
    return whole - (architecture.blocks - blocks) * per_block


def nearest_depth(architecture: Architecture, parameters: float) -> int:
    """The depth whose parameter count is nearest to `parameters`; not limited to depths that exist."""
    outside = parameters_at(architecture, 0)
    return round((parameters - outside) / (parameters_at(architecture, 1) - outside))
