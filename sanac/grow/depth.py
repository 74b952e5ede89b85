"""Plans depth growth: which source blocks are kept, which are repeated, which are new. Writes no weights."""

import itertools
from collections.abc import Iterator

from sanac.core.artifact.manifest import Manifest
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import BlockPlan, Keep, New, Origin
from sanac.core.errors import UsageError
from sanac.core.family.architecture import QK_NORM_CONFIG
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact

INITS = ("partial", "cyclic", "replicate")
_LARGEST = 1000  # most blocks; the released models have 20 to 60
_DROPPED = 2  # last blocks of the source that are dropped by default: the paper found them too specialised


def decide_growth(
    model: Model,
    target: int,
    options: WriteOptions,
    *,
    init: str = "partial",
    preserve: int | None = None,
    qk_norm: bool = False,
    seed: int = 0,
) -> ArtifactJob:
    """The job that grows `model` to `target` blocks. Only `init="partial"` is random and uses `seed`."""
    depth = model.architecture.blocks
    problems = _problems(depth, target, init, preserve)
    if problems:
        raise UsageError(
            f"a model of {depth} blocks can't grow like this",
            why=problems[0],
            problems=problems,
            hint=f"for example --target-blocks {2 * depth} --init partial --preserve {preserved(depth)}",
        )
    config: dict[str, str | int] = {"num_layers": target}
    if qk_norm and not model.architecture.qk_norm:
        config |= [QK_NORM_CONFIG]
    if init == "partial":
        kept = preserve or preserved(depth)
        origins: tuple[Origin, ...] = (*map(Keep, range(kept)), *_new(model.manifest, seed, kept, target - kept))
    else:
        origins = tuple(map(Keep, _copies(depth, target, init)))
    plan = BlockPlan(depth, origins, tuple(sorted(config.items())))
    return plan_artifact("grow", model, plan, {"init": init}, options)


def preserved(depth: int) -> int:
    """Number of source blocks that `partial` keeps by default: all but the last two, at least one."""
    return max(1, depth - _DROPPED)


def notices(job: ArtifactJob) -> tuple[str, ...]:
    """Notes to show before a growth runs."""
    if job.settings["init"] != "partial":
        return (f"--init {job.settings['init']} changes the model's output: repeated blocks are applied twice or more",)
    depth = job.plan.source_blocks
    kept = sum(block is not None for block in job.plan.sources)
    whose = f"the first {kept} of its source's {depth} blocks do" if kept < depth else "its source does"
    notes = [] if "qk_norm" in dict(job.plan.config) else [f"the grown model computes exactly what {whose}"]
    notes += [f"the last {depth - kept} blocks are dropped; --preserve {depth} keeps them"] if kept < depth else []
    return tuple(notes)


def warnings(job: ArtifactJob, *, qk_norm: bool) -> tuple[str, ...]:
    """Warnings about `--qk-norm`: that it has no effect, or that it changes the model's output."""
    if not qk_norm:
        return ()
    if job.model.architecture.qk_norm:
        return (f"--qk-norm has no effect: {job.model.located.name} already has QK norm",)
    return ("--qk-norm changes the model's output: the model generates noise until it is trained again",)


def _problems(depth: int, target: int, init: str, preserve: int | None) -> list[str]:
    problems = []
    if target <= depth:
        problems.append(f"--target-blocks {target} is not more than the model's {depth} blocks")
    if target > _LARGEST:
        problems.append(f"--target-blocks {target} is above {_LARGEST}, the largest supported depth")
    if init not in INITS:
        problems.append(f"--init {init} is not one of {', '.join(INITS)}")
    if preserve is not None and init != "partial":
        problems.append(f"--preserve only applies to --init partial: --init {init} keeps every block")
    if preserve is not None and not 1 <= preserve <= depth:
        problems.append(f"--preserve {preserve} is not between 1 and {depth}, the model's depth")
    return problems


def _copies(depth: int, target: int, init: str) -> list[int]:
    """Index of the source block at each position of the grown model."""
    if init == "cyclic":
        return [place % depth for place in range(target)]
    return [place * depth // target for place in range(target)]  # spread as evenly as possible


def _new(manifest: Manifest | None, seed: int, first: int, count: int) -> Iterator[New]:
    """New blocks numbered by position, skipping numbers that an earlier growth with this seed already used."""
    plan = manifest.whole_plan if manifest else None
    taken = {o.number for o in plan.blocks if isinstance(o, New) and o.seed == seed} if plan else set()
    free = (number for number in itertools.count(first) if number not in taken)
    return (New("partial", seed, number) for number in itertools.islice(free, count))
