"""What every verb that applies a plan has in common: show it or carry it out, and record the result."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sanac.cli.model_argument import open_word, starting_word
from sanac.cli.options import Common, StageOptions, gathered
from sanac.cli.output import Result
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text, parse_bytes

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.core.write.job import ArtifactJob, WriteOptions

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class SurgeryOptions:
    """What the user said about the artifact that a plan is written to."""

    transformer_only: bool
    loras: tuple[str, ...]
    link: bool
    shard_size: str
    full_hash: bool

    def writing(self, options: StageOptions, layout: str = "diffusers") -> "WriteOptions":
        """The same for the executor, together with the stage's options."""
        from sanac.core.write.job import WriteOptions

        return WriteOptions(
            shard_bytes=parse_bytes(self.shard_size),
            transformer_only=self.transformer_only,
            link=self.link,
            force=options.force,
            fresh=options.fresh,
            full_hash=self.full_hash,
            layout=layout,
        )


def surgery(function: Command) -> Command:
    """Add the options of a verb that applies a plan."""
    return gathered(SurgeryOptions, "chosen", _OPTIONS)(function)


_OPTIONS = (
    click.option("--transformer-only", is_flag=True, help="Leave text encoder, autoencoder and the rest behind."),
    click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="FILE[:SCALE]",
        help="Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.",
    ),
    click.option("--link", is_flag=True, help="Hard-link unchanged components: no space, but editing one edits both."),
    click.option(
        "--shard-size", default="5GB", show_default=True, metavar="SIZE", help="Largest weight file to write."
    ),
    click.option("--full-hash", is_flag=True, help="Identify the input by all its bytes, not by headers and times."),
)


def open_source(word: str | None, chosen: SurgeryOptions, options: StageOptions, common: Common) -> tuple[str, "Model"]:
    """MODEL's word and the model, LoRAs included; the workspace's source when none was given."""
    word = word or starting_word(options, common)
    return word, open_word(word, common).with_loras(chosen.loras)


def run_surgery(
    word: str,
    job: "ArtifactJob",
    options: StageOptions,
    common: Common,
    complete: "Callable[[ArtifactJob], ArtifactJob]" = lambda job: job,
) -> Result:
    """Show the plan, or complete it and carry it out, and record the result in the workspace."""
    from sanac.core.artifact.workspace import read_workspace, record
    from sanac.core.write.executor import preflight, write_artifact

    read_workspace(options.workspace)  # a broken one is found out before anything is done
    out = options.out or options.workspace / f"{job.stage}-{job.key[:8]}"
    _check_place(out, options.workspace)
    data: dict[str, Any] = {"plan": job.plan.to_json(), "key": job.key, "needs": asdict(job.needs)}
    data |= {"dry_run": options.dry_run, "family": job.model.architecture.title, "layout": job.writing.layout}
    if job.repacked:
        data["sizes"] = {name: {"before": old, "after": new} for name, (old, new) in _sizes(job).items()}
        counts = {name: part.quantized for name, part in job.repacked.items()}
        data["quantized"] = {n: {"weights": len(q.weights), "left": len(q.skipped)} for n, q in counts.items()}
    if job.writing.link:
        common.reporter.warn("--link shares files with the source: editing one in place changes both")
    if options.dry_run:
        status = "cached" if preflight(job, out, common.reporter) else "ok"
        needs = f"{bytes_text(job.needs.disk)} of disk and {bytes_text(job.needs.memory)} of memory"
        done = f"{out} already holds this" if status == "cached" else f"would write {out}, with {needs}"
        return Result(status, lambda: _show(job, done), data, str(out), common.as_json)
    status = "cached"
    if preflight(job, out, common.reporter) is None:
        status, _ = write_artifact(complete(job), out, common.reporter)
    record(options.workspace, word, out)
    done = f"{out} already holds this (cached)" if status == "cached" else f"wrote {out}"
    return Result(status, lambda: _show(job, done, load=str(out)), data, str(out), common.as_json)


def check_out(options: StageOptions) -> None:
    """What can be said of the place before hours go into what is to stand there."""
    from sanac.core.artifact.staging import check_replaceable
    from sanac.core.artifact.workspace import read_workspace

    read_workspace(options.workspace)
    if options.out:
        _check_place(options.out, options.workspace)
        check_replaceable(options.out)


def _check_place(out: Path, workspace: Path) -> None:
    """OUT is a folder of its own: not a file's name, and not a place that the workspace lives in."""
    if out.suffix in {".pth", ".safetensors"}:
        hint = f"--out {out.with_suffix('')}"
        raise UsageError(f"--out {out} looks like a file", why="it names the folder of the artifact", hint=hint)
    if Path(os.path.realpath(workspace)).is_relative_to(os.path.realpath(out)):
        raise UsageError(
            f"--out {out} holds the workspace {workspace}",
            why="replacing the artifact would delete what else was made",
            hint=f"--out {workspace / 'model'}",
        )


def _sizes(job: "ArtifactJob") -> dict[str, tuple[int, int]]:
    """Bytes of each component's weights, before and after."""
    before = job.model.weights.size
    found = {"transformer": (before, sum(piece.size for piece in job.pieces) or before)}  # or it goes along as it is
    for part in job.carried:
        old = part.weights.size if part.weights else 0
        found[part.name] = (old, sum(piece.size for piece in job.repacked_pieces(part)) or old)
    return found


def _show(job: "ArtifactJob", done: str, load: str = "") -> None:
    sizes = _sizes(job)
    click.echo(f"{job.model.located.name}: {job.model.architecture.title}")
    if job.stage not in {"finetune", "quantize"}:  # they move no block
        click.echo(f"plan: {job.plan}")
    if job.model.patches:
        click.echo(f"LoRA: merged into {len(job.model.patches)} tensors")
    shown = {name: size for name, size in sizes.items() if name in (job.repacked or {"transformer"})}
    if job.repacked and len(sizes) > 1:
        shown["all weights"] = (sum(old for old, _ in sizes.values()), sum(new for _, new in sizes.values()))
    for name, (old, new) in shown.items():
        click.echo(f"{name}: {bytes_text(old)} -> {bytes_text(new)} ({new / old:.0%})")
    click.echo(done)
    if not load:
        return
    if job.writing.layout != "diffusers":
        click.echo(f"the weights: {load}/model.{'pth' if job.writing.layout == 'nvlabs' else 'safetensors'}")
    elif job.needs_sanac:
        click.echo(f'load it with sanac.{"load_pipeline" if job.companions else "load_transformer"}("{load}")')
    elif job.companions:
        click.echo(f'load it with SanaPipeline.from_pretrained("{load}")')
    else:
        click.echo(f'load it with SanaTransformer2DModel.from_pretrained("{load}", subfolder="transformer")')
