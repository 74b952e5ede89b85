"""`sanac finetune`: quality back, after blocks are gone."""

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.model_argument import newest_word, open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import run_surgery
from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.finetune.job import FinetuneJob, FinetuneSettings
    from sanac.train.loop import Callbacks
    from sanac.train.trackers import Logged

_FOLDER = click.Path(path_type=Path)
_LOSS = re.compile(r"([a-z]+)(?:=([0-9.]+))?")


@click.command(
    "finetune",
    short_help="Quality back, by a short training.",
    epilog="""\b
Examples:
  sanac finetune
  sanac finetune MODEL --data ./pictures --steps 300 --loss distill,flow=0.5
  sanac finetune MODEL --data-free --teacher ./SANA1.5_4.8B_1024px_diffusers
  sanac finetune MODEL --data ./tars --lora 16 --lora-file recovered-lora.safetensors
  sanac finetune MODEL --data shapes --dry-run""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--steps", type=int, default=100, show_default=True, metavar="N", help="Steps of the optimizer.")
@click.option("--data", metavar="DIR", help="Images with captions, tars of them, prepared latents, or `shapes`.")
@click.option("--data-free", is_flag=True, help="Learn from what the teacher paints.  [default without --data]")
@click.option("--samples", type=click.IntRange(1), default=2048, show_default=True, help="Pictures to paint or draw.")
@click.option("--prompts", type=_FOLDER, metavar="FILE", help="For --data-free, one per line.  [default: bundled]")
@click.option("--teacher", metavar="MODEL", help="Who is imitated.  [default: what MODEL was pruned from]")
@click.option("--loss", metavar="LIST", help="flow, distill, features; NAME=WEIGHT weighs.  [default: distill]")
@click.option(
    "--optimizer",
    type=click.Choice(["came8bit", "came", "adamw", "adamw8bit"]),
    default="came8bit",
    show_default=True,
)
@click.option("--learning-rate", "rate", type=click.FloatRange(0, min_open=True), help="[default: 0.1 / width]")
@click.option("--warmup", type=click.IntRange(0), metavar="N", help="Steps.  [default: a tenth]")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="[default: 16,384 tokens, at most 64 pictures]")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Batches a step.")
@click.option("--clip", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Gradient norm.")
@click.option("--ema", "average", type=click.FloatRange(0, 1, max_open=True), default=0.99, show_default=True)
@click.option("--caption-dropout", type=click.FloatRange(0, 1), default=0.1, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--checkpointing", is_flag=True, help="Less memory, a third more time.")
@click.option("--compile", "compiled", is_flag=True, help="Faster steps after a minute or two.")
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train low-rank changes only, then merge them.")
@click.option("--lora-file", type=_FOLDER, metavar="FILE", help="Keep these changes as a file, too.")
@click.option("--fake-quant", metavar="SCHEME", help="Train for `sanac quantize --scheme SCHEME`.")
@click.option("--teacher-cache", default="4GB", show_default=True, metavar="SIZE", help="Disk for its answers.")
@click.option("--memory-limit", default="2GB", show_default=True, metavar="SIZE", help="While the teacher is asked.")
@click.option("--save-every", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Steps.")
@click.option("--sample-every", type=click.IntRange(1), metavar="N", help="Paint --sample-prompt every so many steps.")
@click.option("--sample-prompt", "sample_prompts", multiple=True, metavar="TEXT", help="May be repeated.")
@click.option("--log-with", metavar="LIST", default="", help="tensorboard, wandb, mlflow, ...: accelerate's trackers.")
@stage
@common()
def command(model: str | None, options: StageOptions, common: Common, **said: Any) -> Result:
    """Train MODEL for a few steps, so that a pruned one paints as before, and write the result as a new artifact.

    By default the model that it was pruned from teaches it, on latents that this teacher paints: no data is needed.
    Without MODEL it takes the workspace's newest artifact. Ctrl-C saves the state; the same command goes on from it.
    """
    word = model or newest_word(options, common)
    opened = open_word(word, common)
    every, prompts = said.pop("sample_every"), said.pop("sample_prompts")
    names = [name for name in said.pop("log_with").split(",") if name]
    if bool(every) != bool(prompts):
        raise UsageError("--sample-every and --sample-prompt belong together")
    wanted = _wanted(said, options, common)
    from sanac.core.write.job import WriteOptions
    from sanac.finetune.job import plan_finetune
    from sanac.train.trackers import trackers

    job = plan_finetune(opened, wanted, options.workspace, common.reporter)
    writing = WriteOptions(force=options.force, fresh=options.fresh)
    surgery = job.surgery(writing)
    common.reporter.note(f"losses: {', '.join(job.losses)}; {wanted.steps:,} steps of {job.batch * wanted.accumulate}")
    memory = job.memory()
    common.reporter.note(f"training takes about {memory}")
    if not options.dry_run:
        job.check_room(memory)
    folder = job.folder(surgery)
    with ExitStack() as stack:

        def complete(decided: Any) -> Any:
            logged = stack.enter_context(trackers(names, options.workspace / "runs", job.plain_settings))
            watch = _watch(opened, logged, folder / "samples", every, prompts, common)
            return job.trained(decided, common.reporter, watch)

        result = run_surgery(word, surgery, options, common, complete)
    if not options.dry_run and folder.is_dir():
        _keep_measurements(folder, Path(str(result.out)), job, common)
    return replace(result, data={**result.data, "memory": memory.total})


def _wanted(said: dict[str, Any], options: StageOptions, common: Common) -> "FinetuneSettings":
    from sanac.finetune.job import FinetuneSettings

    teacher, losses = said.pop("teacher"), said.pop("loss")
    limits = {name: parse_bytes(said.pop(name)) for name in ("teacher_cache", "memory_limit")}
    return FinetuneSettings(
        **said,
        teacher=open_word(teacher, common) if teacher else None,
        losses=_losses(losses) if losses else None,
        cache_limit=limits["teacher_cache"],
        memory_limit=limits["memory_limit"],
        seed=common.seed or 0,
        device=common.device,
        fresh=options.fresh,
        dry=options.dry_run,
    )


def _losses(text: str) -> dict[str, float]:
    """'distill,flow=0.5' as weights by name."""
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _LOSS.fullmatch(part.strip())
        if match is None or match[1] in found:
            raise UsageError(f"--loss {text} can't be read", why=f"at {part!r}", hint="--loss distill,flow=0.5")
        try:
            found[match[1]] = float(match[2] or 1)
        except ValueError as error:
            raise UsageError(f"--loss {text} can't be read", why=f"{match[2]!r} is no number") from error
    return found


def _watch(
    model: "Model", logged: "Logged", folder: Path, every: int | None, prompts: tuple[str, ...], common: Common
) -> "Callbacks":
    """Who is told of the run: trackers, and a painter of samples."""
    from sanac.train.loop import Callbacks

    if not every:
        return Callbacks(logged)
    from sanac.runtime.training_samples import Samples

    return Callbacks(logged, Samples(model, prompts, every, folder, common.device).stepped)


def _keep_measurements(folder: Path, out: Path, job: "FinetuneJob", common: Common) -> None:
    """The run's numbers, chart and pictures go beside the artifact; what it needed to go on is deleted."""
    from sanac.report.charts.loss import archive_run

    report, metrics = archive_run(folder, out)
    if report:
        from sanac.core.artifact.measurements import write_measurement

        about = {"losses": dict(job.losses), "batch": job.batch, "learning_rate": job.rate}
        write_measurement(out, "finetune", about | report, metrics)
        common.reporter.note(
            f"loss {report['loss_first']:.4f} -> {report['loss_last']:.4f} in {report['steps']:,} steps"
        )
