"""`sanac prune`: fewer blocks."""

import click

from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.result import Result
from sanac.cli.surgery import SurgeryOptions, open_source, run_surgery, surgery


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
@surgery
@stage
@common("seed", "device")
def command(
    model: str | None,
    keep: str,
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

    Weights are copied tensor by tensor, nothing is loaded; the input is not touched. Without MODEL it takes the
    workspace's source, else $SANAC_MODEL, else the released 4.8B model.
    """
    from sanac.prune.manual import decide_keep

    word, opened = open_source(model, chosen, options, common)
    return run_surgery(word, decide_keep(opened, keep, chosen.writing(options)), options, common)
