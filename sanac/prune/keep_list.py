"""Pruning by an explicit list of blocks: parses `--keep`."""

from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import BlockPlan, keep_blocks
from sanac.core.errors import UsageError
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.prune.settings import block_ranges, repeated_blocks


def parse_keep(text: str, blocks: int) -> BlockPlan:
    """The plan that keeps the blocks listed in `text` ('0-9,50-59') of `blocks`; UsageError lists all mistakes."""
    kept: list[int] = []
    ranges, problems = block_ranges(text)
    for first, last in ranges:
        if last >= blocks:
            shown = f"{first}-{last}" if first < last else f"{first}"
            problems.append(f"{shown!r} goes beyond the last block, {blocks - 1}")
        else:
            kept += range(first, last + 1)
    problems += repeated_blocks(ranges)
    if problems:
        raise UsageError(
            f"--keep {text} doesn't fit a model of {blocks} blocks",
            why=problems[0],
            problems=problems,
            hint=f"blocks count from 0 to {blocks - 1}, ranges include both ends: --keep 0-{blocks // 2}",
        )
    return keep_blocks(blocks, sorted(kept))


def plan_keep(model: Model, keep: str, options: WriteOptions) -> ArtifactJob:
    """The prune job that keeps exactly the blocks listed in `keep`."""
    plan = parse_keep(keep, model.architecture.blocks)
    return plan_artifact("prune", model, plan, {"select": "manual"}, options)
