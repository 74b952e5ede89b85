"""`sanac prune`: fewer blocks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.analyze import measuring, wanted_from
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.result import Result
from sanac.cli.surgery import SurgeryOptions, open_source, run_surgery, surgery

if TYPE_CHECKING:
    from sanac.core.model import Model
    from sanac.prune.scores import Scores


@click.command(
    "prune",
    short_help="Fewer blocks.",
    epilog="""\b
Examples:
  sanac prune --target-blocks 20
  sanac prune MODEL --target-params 1.6B --scores scores.json
  sanac prune ./SANA1.5_4.8B_1024px_diffusers --keep 0-9,50-59
  sanac prune --keep 0-29 --dry-run
  sanac prune MODEL --keep 0,2,4 --transformer-only --out small""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--target-blocks", type=int, metavar="N", help="How many blocks stay: those that matter most.")
@click.option("--target-params", metavar="COUNT", help="The depth whose parameters come nearest: 1.6B, 900M.")
@click.option("--keep", metavar="LIST", help="Blocks that stay, from zero, ends included: 0-9,50-59.")
@click.option("--scores", type=click.Path(path_type=Path), metavar="FILE", help="Scores by `sanac analyze`.")
@click.option(
    "--select", type=click.Choice(["bi", "norm"]), default="bi", show_default=True, help="What blocks are judged by."
)
@click.option("--protect-first", type=click.IntRange(0), default=0, metavar="K", help="The first K stay whatever.")
@click.option("--protect-last", type=click.IntRange(0), default=0, metavar="K", help="The last K stay whatever.")
@measuring
@surgery
@stage
@common()
def command(
    model: str | None,
    target_blocks: int | None,
    target_params: str | None,
    keep: str | None,
    scores: Path | None,
    select: str,
    protect_first: int,
    protect_last: int,
    measured: dict[str, Any],
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

    With --target-blocks, the blocks that matter most stay, by --scores or by scores measured on the spot as `sanac
    analyze` does. Weights are copied tensor by tensor, nothing is loaded; the input is not touched. Without MODEL it
    takes the workspace's source, else $SANAC_MODEL, else the released 4.8B model.
    """
    targets = {"--keep": keep, "--target-blocks": target_blocks, "--target-params": target_params}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        why = f"{' and '.join(given)} contradict each other" if given else "nothing says which blocks stay"
        raise click.UsageError(f"{why}: give one of {', '.join(targets)}", click.get_current_context())
    word, opened = open_source(model, chosen, options, common)
    writing = chosen.writing(options)
    if keep is not None:
        from sanac.prune.manual import decide_keep

        return run_surgery(word, decide_keep(opened, keep, writing), options, common)
    from sanac.prune.select import Choice, decide_target, depth_of

    depth = depth_of(opened, target_blocks, target_params)
    choice = Choice(select, depth, protect_first, protect_last)
    choice.check(opened.architecture.blocks)
    if target_params is not None:
        common.talk.note(f"--target-params {target_params}: nearest is {depth} blocks")
    found = _scores(opened, scores, measured, options, common)
    return run_surgery(word, decide_target(opened, choice, found, writing), options, common)


def _scores(
    opened: "Model", file: Path | None, measured: dict[str, Any], options: StageOptions, common: Common
) -> "Scores":
    """From the file, or measured here."""
    from sanac.prune.scores import check_model, read_scores

    if file is not None:
        found = read_scores(file)
        check_model(found, opened, file)
        return found
    from sanac.prune.measure import measure

    return measure(opened, wanted_from(measured, common), options.workspace, None, common.talk).scores
