"""Conversion between layouts: the same tensors under other names, in other files. The plan keeps every block."""

from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.errors import UsageError
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact

LAYOUTS = ("diffusers", "nvlabs", "single")


def decide_convert(model: Model, options: WriteOptions, pipeline: Model | None) -> ArtifactJob:
    """The job that writes `model` in `writing.layout`, with the other components of `pipeline` if one is passed."""
    if pipeline is not None and options.layout != "diffusers":
        raise UsageError(
            f"--pipeline doesn't apply to --to {options.layout}", why="that layout holds the transformer alone"
        )
    if pipeline is not None and pipeline.model_index is None:
        raise UsageError(f"{pipeline.located.name} can't be the --pipeline", why="it is not a complete pipeline")
    if pipeline is not None:
        _same_interfaces(model, pipeline)
    blocks = model.architecture.blocks
    return plan_artifact("convert", model, keep_blocks(blocks, range(blocks)), {}, options, pipeline)


def _same_interfaces(model: Model, pipeline: Model) -> None:
    """UsageError unless `model` has the latent channels, caption channels and guidance embedding of `pipeline`."""
    own, other = model.architecture, pipeline.architecture
    problems = [
        f"{what}: {mine} here, {theirs} in {pipeline.located.name}"
        for what, mine, theirs in (
            ("latent channels", own.in_channels, other.in_channels),
            ("caption channels", own.caption_channels, other.caption_channels),
            ("guidance embedding", own.guidance, other.guidance),
        )
        if mine != theirs
    ]
    if problems:
        raise UsageError(
            f"{model.located.name} doesn't fit into {pipeline.located.name}", why=problems[0], problems=problems
        )


def notices(job: ArtifactJob) -> tuple[str, ...]:
    """What the user should know about this conversion before it runs."""
    said = [f"filled in with zeros: {piece.name} {list(piece.shape)}" for piece in job.zero_filled]
    if job.options.layout == "diffusers" and job.model.extras:
        said.append(f"kept in a sidecar file, for conversion back: {', '.join(sorted(job.model.extras))}")
    if job.options.layout == "diffusers" and job.companions is None:
        said.append("only the transformer is written: --pipeline MODEL adds the other components")
    if not job.model.transformer.config:
        said.append("no config.json next to the weights: derived from the tensor shapes, for images of 1024 px")
    return tuple(said)
