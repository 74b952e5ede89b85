"""`sanac prune`: fewer blocks."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sanac.cli.choose import open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.result import Result
from sanac.core.units import bytes_text, parse_bytes

if TYPE_CHECKING:
    from sanac.core.execute import Surgery


@click.command(
    "prune",
    short_help="Fewer blocks.",
    epilog="""\b
Examples:
  sanac prune ./SANA1.5_4.8B_1024px_diffusers --keep 0-9,50-59
  sanac prune --keep 0-29 --dry-run
  sanac prune MODEL --keep 0,2,4 --transformer-only --out small""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--keep", required=True, metavar="LIST", help="Blocks that stay, from zero, ends included: 0-9,50-59.")
@click.option("--transformer-only", is_flag=True, help="Leave text encoder, autoencoder and the rest where they are.")
@click.option("--link", is_flag=True, help="Hard-link unchanged components: no space, but editing one edits both.")
@click.option("--shard-size", default="5GB", show_default=True, metavar="SIZE", help="Largest weight file to write.")
@click.option("--full-hash", is_flag=True, help="Identify the input by all its bytes, not by headers, sizes and times.")
@stage
@common("seed", "device")
def command(
    model: str | None,
    keep: str,
    transformer_only: bool,
    link: bool,
    shard_size: str,
    full_hash: bool,
    options: StageOptions,
    common: Common,
) -> Result:
    """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

    Weights are copied tensor by tensor, nothing is loaded; the input is not touched. Without MODEL it takes the
    workspace's source, else $SANAC_MODEL, else the released 4.8B model.
    """
    from sanac.core.execute import Writing
    from sanac.core.workspace import read_workspace, starting_model
    from sanac.prune.manual import decide_keep

    word = model
    if word is None:
        word, reason = starting_model(read_workspace(options.workspace))
        common.talk.note(f"model: {word} ({reason})")
    writing = Writing(parse_bytes(shard_size), transformer_only, link, options.force, options.fresh, full_hash)
    return run_surgery(word, decide_keep(open_word(word, common), keep, writing), options, common)


def run_surgery(word: str, job: "Surgery", options: StageOptions, common: Common) -> Result:
    """Show the plan or carry it out, and record the result in the workspace."""
    from pathlib import Path

    from sanac.core.execute import execute
    from sanac.core.workspace import is_made_here, read_workspace, record

    out = options.out or options.workspace / f"{job.stage}-{job.key[:8]}"
    data = {"plan": job.plan.to_json(), "key": job.key, "needs": asdict(job.needs), "dry_run": options.dry_run}
    data["family"] = job.model.architecture.title
    if options.dry_run:
        needs = f"{bytes_text(job.needs.disk)} of disk and {bytes_text(job.needs.memory)} of memory"
        return Result("ok", lambda: _show(job, f"would write {out}, with {needs}"), data, str(out), common.as_json)
    if job.writing.link:
        common.talk.warn("--link shares files with the source: editing one in place changes both")
    status, _ = execute(job, out, common.talk)
    local = Path(word).expanduser()
    source = str(local.absolute()) if local.exists() else word
    made_here = is_made_here(read_workspace(options.workspace), local)
    record(options.workspace, source=None if made_here else source, head=out)
    done = f"{out} already holds this (cached)" if status == "cached" else f"wrote {out}"
    return Result(status, lambda: _show(job, done, load=str(out)), data, str(out), common.as_json)


def _show(job: "Surgery", done: str, load: str = "") -> None:
    before, after = job.model.weights.size, sum(piece.source.size for piece in job.pieces)
    click.echo(f"{job.model.located.name}: {job.model.architecture.title}")
    click.echo(f"plan: {job.plan}")
    click.echo(f"transformer: {bytes_text(before)} -> {bytes_text(after)} ({after / before:.0%})")
    click.echo(done)
    if load and job.carried:
        click.echo(f'load it with SanaPipeline.from_pretrained("{load}")')
    elif load:
        click.echo(f'load it with SanaTransformer2DModel.from_pretrained("{load}", subfolder="transformer")')
