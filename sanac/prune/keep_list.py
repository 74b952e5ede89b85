"""Pruning by hand: the user says which blocks stay."""

import re

from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import BlockPlan, keep_blocks
from sanac.core.errors import UsageError
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", re.ASCII)


def parse_keep(text: str, blocks: int) -> BlockPlan:
    """'0-9,50-59' -> the plan that keeps these of `blocks`, in the model's order. All mistakes at once."""
    kept: list[int] = []
    problems: list[str] = []
    for word in text.split(","):
        match = _RANGE.fullmatch(word)
        if match is None:
            problems.append(f"{word!r} is not a block or a range")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            problems.append(f"{word.strip()!r} runs backwards")
        elif last >= blocks:
            problems.append(f"{word.strip()!r} goes beyond the last block, {blocks - 1}")
        else:
            kept += range(first, last + 1)
    if repeated := sorted({index for index in kept if kept.count(index) > 1}):
        problems.append(f"block {', '.join(map(str, repeated))} is named more than once")
    if problems:
        raise UsageError(
            f"--keep {text} doesn't fit a model of {blocks} blocks",
            why=problems[0],
            problems=problems,
            hint=f"blocks count from 0 to {blocks - 1}, ranges include both ends: --keep 0-{blocks // 2}",
        )
    return keep_blocks(blocks, sorted(kept))


def plan_keep(model: Model, keep: str, writing: WriteOptions) -> ArtifactJob:
    """The prune job that keeps exactly the named blocks."""
    plan = parse_keep(keep, model.architecture.blocks)
    return plan_artifact("prune", model, plan, {"select": "manual"}, writing)
