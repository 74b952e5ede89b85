"""Conversion between layouts: the same tensors under other names, in other files. A plan that keeps every block."""

from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.errors import UsageError
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact

LAYOUTS = ("diffusers", "nvlabs", "single")


def decide_convert(model: Model, writing: WriteOptions, pipeline: Model | None) -> ArtifactJob:
    """The job that writes `model` in `writing.layout`, completed from `pipeline` if one is given."""
    if pipeline is not None and writing.layout != "diffusers":
        raise UsageError(
            f"--pipeline has no meaning with --to {writing.layout}", why="that layout holds the transformer alone"
        )
    if pipeline is not None and pipeline.model_index is None:
        raise UsageError(f"{pipeline.located.name} can't complete anything", why="it is not a whole pipeline")
    if pipeline is not None:
        _same_interfaces(model, pipeline)
    blocks = model.architecture.blocks
    return plan_artifact("convert", model, keep_blocks(blocks, range(blocks)), {}, writing, pipeline)


def _same_interfaces(model: Model, pipeline: Model) -> None:
    """A transformer fits a pipeline when it speaks to the same text encoder and autoencoder."""
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
    said = [f"filled in with zeros: {piece.name} {list(piece.shape)}" for piece in job.filled]
    if job.writing.layout == "diffusers" and job.model.extras:
        said.append(f"kept beside the model, for the way back: {', '.join(sorted(job.model.extras))}")
    if job.writing.layout == "diffusers" and job.companions is None:
        said.append("the transformer alone: --pipeline MODEL completes it")
    if not job.model.transformer.config:
        said.append("no config.json beside the weights: derived from the shapes, for images of 1024 px")
    return tuple(said)
