"""`sanac analyze`: what each block is worth."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.measuring import measuring, wanted_from
from sanac.cli.model_argument import open_word, starting_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.tables import console, table

if TYPE_CHECKING:
    from sanac.prune.scores import Scores

_FOLDER = click.Path(path_type=Path)


@click.command(
    "analyze",
    short_help="What each block is worth.",
    epilog="""\b
Examples:
  sanac analyze ./SANA1.5_4.8B_1024px_diffusers --num-prompts 20 --timesteps 10
  sanac analyze sanac:tiny --metric norm
  sanac analyze ./transformer --embeddings captions.safetensors
  sanac analyze MODEL --inputs noised --data ./latents
  sanac prune MODEL --target-blocks 20 --scores sanac-out/analyze-1a2b3c4d/scores.json""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option(
    "--metric",
    type=click.Choice(["bi", "norm", "velocity"]),
    default="bi",
    show_default=True,
    help="Which metric is shown. bi and norm are always measured; velocity leaves out each block in turn.",
)
@measuring
@click.option("--save-embeddings", type=_FOLDER, metavar="FILE", help="Keep the encoded prompts for --embeddings.")
@stage
@common()
def command(
    model: str | None,
    metric: str,
    save_embeddings: Path | None,
    measured: dict[str, Any],
    options: StageOptions,
    common: Common,
) -> Result:
    """Watch the stream between MODEL's blocks while it samples, and score each block by how much it changes it.

    The model need not fit in memory: per sampler step its blocks are read one after the other, and the states of all
    prompts are pushed through. A stopped run continues where it was.
    """
    from sanac.core.artifact.workspace import record
    from sanac.prune.scoring import plan_scoring
    from sanac.report.charts.scores import draw

    word = model or starting_word(options, common)
    opened = open_word(word, common)
    wanted = replace(wanted_from(measured, common), save_embeddings=save_embeddings, velocity=metric == "velocity")
    wanted = replace(wanted, yes=wanted.yes or options.dry_run)
    job = plan_scoring(opened, wanted, options.workspace, options.out)
    scores = None if options.force else job.known()
    status = "ok" if scores is None else "cached"
    if scores is None:
        if options.out and not options.force:
            job.refuse_other_scores()
        job.check_budget(common.reporter)
    if options.dry_run:
        done = f"{job.folder} {'already holds these' if scores else 'would hold the scores'}"
        return Result(status, lambda: click.echo(done), {"dry_run": True}, str(job.folder), common.as_json)
    if scores is None:
        if options.fresh:
            job.clear_progress()
        scores = job.run(common.reporter)
    elif save_embeddings:
        job.captions(common.reporter)
    record(options.workspace, word)
    pictures = draw(scores, metric, job.folder)
    data = {"pictures": [str(path) for path in pictures], **scores.to_json()}
    show = functools.partial(_show, scores, metric, [job.file, *pictures])
    return Result(status, show, data, str(job.folder), common.as_json)


def _show(scores: "Scores", metric: str, files: list[Path]) -> None:
    found = scores.metrics[metric]
    order = sorted(range(len(found)), key=lambda index: -found[index].value)
    rows = table(("block",), (metric, "from", "to", "rank"))
    for index, score in enumerate(found):
        rank = str(order.index(index) + 1)
        rows.add_row(str(index), f"{score.value:.5f}", f"{score.low:.5f}", f"{score.high:.5f}", rank)
    console(color=False).print(rows)
    for path in files:
        click.echo(path)
