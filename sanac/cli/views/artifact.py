"""The plan, the sizes and the next step of a job that writes an artifact."""

import click

from sanac.core.context import Outcome
from sanac.core.units import bytes_text
from sanac.core.write.run import ArtifactView

_MOVES_NO_BLOCK = ("finetune", "quantize")


def show(outcome: Outcome, *, color: bool) -> None:
    """Print an artifact job's outcome."""
    del color
    show_artifact(outcome.view, str(outcome.out))


def show_artifact(view: ArtifactView, out: str) -> None:
    """Print the plan, the sizes, what was done, and how to load the result."""
    job, sizes = view.job, view.sizes
    click.echo(f"{job.model.located.name}: {job.model.architecture.title}")
    if job.stage not in _MOVES_NO_BLOCK:
        click.echo(f"plan: {job.plan}")
    if job.model.patches:
        click.echo(f"LoRA: merged into {len(job.model.patches)} tensors")
    shown = {name: size for name, size in sizes.items() if name in (job.rewrites or {"transformer"})}
    if job.rewrites and len(sizes) > 1:
        shown["all weights"] = (sum(old for old, _ in sizes.values()), sum(new for _, new in sizes.values()))
    for name, (old, new) in shown.items():
        click.echo(f"{name}: {bytes_text(old)} -> {bytes_text(new)} ({new / old:.0%})")
    click.echo(view.done)
    if view.written:
        click.echo(_how_to_load(view, out))


def _how_to_load(view: ArtifactView, out: str) -> str:
    job = view.job
    if job.options.layout != "diffusers":
        return f"the weights: {out}/model.{'pth' if job.options.layout == 'nvlabs' else 'safetensors'}"
    if job.needs_sanac:
        return f'load it with sanac.{"load_pipeline" if job.companions else "load_transformer"}("{out}")'
    if job.companions:
        return f'load it with SanaPipeline.from_pretrained("{out}")'
    return f'load it with SanaTransformer2DModel.from_pretrained("{out}", subfolder="transformer")'
