"""`sanac quantize`: fewer bits per weight."""

import click

from sanac.cli.choose import newest_word, open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.result import Result
from sanac.cli.surgery import SurgeryOptions, run_surgery, surgery


@click.command(
    "quantize",
    short_help="Fewer bits per weight.",
    epilog="""\b
Examples:
  sanac quantize --scheme int8-wo
  sanac quantize MODEL --scheme int4-wo --block 64 --component transformer
  sanac quantize MODEL --scheme int8-wo --component transformer --component text-encoder
  sanac quantize MODEL --scheme int4-wo --rounding nearest --include kv --dry-run""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--scheme", required=True, metavar="NAME", help="int8-wo, int4-wo or fp8-wo.")
@click.option(
    "--component",
    "components",
    multiple=True,
    default=("transformer",),
    show_default=True,
    metavar="NAME",
    help="transformer, text-encoder or vae. May be repeated.",
)
@click.option("--block", type=int, metavar="N", help="Inputs that share a scale.  [default: 64 for int4-wo, else all]")
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "search"]),
    help="Scales by the largest value, or by the smallest error.  [default: search for int4-wo, else nearest]",
)
@click.option("--include", multiple=True, metavar="NAME", help="What is left alone otherwise: kv.")
@surgery
@stage
@common("device", "seed")
def command(
    model: str | None,
    scheme: str,
    components: tuple[str, ...],
    block: int | None,
    rounding: str | None,
    include: tuple[str, ...],
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Store MODEL's weights in fewer bits; nothing is loaded, the input is not touched.

    The same command gives the same bytes. quant.json beside the weights says which are quantized, how, and why the
    others are not. Without MODEL it takes the workspace's newest artifact.
    """
    from sanac.quantize.job import Wanted, decide_quantizing

    word = model or newest_word(options, common)
    opened = open_word(word, common).with_loras(chosen.loras)
    wanted = Wanted(scheme, tuple(dict.fromkeys(components)), block, rounding, frozenset(include))
    job = decide_quantizing(opened, wanted, chosen.writing(options))
    for name, part in job.repacked.items():
        common.talk.note(f"{name}: {len(part.quantized.weights)} weights to {scheme}, {len(part.quantized.left)} left")
    return run_surgery(word, job, options, common)
