"""`sanac grow`: more blocks."""

import click

from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import SurgeryOptions, open_source, run_surgery, surgery


@click.command(
    "grow",
    short_help="More blocks.",
    epilog="""\b
Examples:
  sanac grow ./Sana_1600M_1024px_diffusers --target-blocks 60 --qk-norm
  sanac grow MODEL --target-blocks 60 --preserve 18 --dry-run
  sanac grow MODEL --target-blocks 40 --init replicate --out deeper""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--target-blocks", "target", required=True, type=int, metavar="N", help="Depth of the result.")
@click.option(
    "--init",
    type=click.Choice(["partial", "cyclic", "replicate"]),
    default="partial",
    show_default=True,
    help="New blocks that pass on what they get; all blocks again and again; each block several times in its place.",
)
@click.option(
    "--preserve",
    type=int,
    metavar="K",
    help="How many of the first blocks `partial` keeps; new ones follow.  [default: all but the last two]",
)
@click.option("--qk-norm", is_flag=True, help="Add QK norm to a model without it. Changes the function.")
@surgery
@stage
@common("device")
def command(
    model: str | None,
    target: int,
    init: str,
    preserve: int | None,
    qk_norm: bool,
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Add blocks to MODEL's transformer and write a model that stock diffusers loads, ready for training.

    With --init partial, the default, the result computes exactly what MODEL computes with only its first K blocks:
    the last two are dropped unless --preserve keeps them. The same --seed gives the same bytes.

    Nothing is loaded, the input is not touched. Without MODEL it takes the workspace's source, else $SANAC_MODEL, else
    the released 4.8B model.
    """
    from sanac.grow.depth import decide_growth, notices, warnings

    word, opened = open_source(model, chosen, options, common)
    if common.seed is not None and init != "partial":
        common.reporter.warn(f"--seed has no effect with --init {init}: it draws nothing")
    seed = common.seed or 0
    writing = chosen.writing(options)
    job = decide_growth(opened, target, writing, init=init, preserve=preserve, qk_norm=qk_norm, seed=seed)
    for notice in notices(job):
        common.reporter.note(notice)
    for warning in warnings(job, qk_norm=qk_norm):
        common.reporter.warn(warning)
    return run_surgery(word, job, options, common)
