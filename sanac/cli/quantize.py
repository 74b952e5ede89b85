"""`sanac quantize`: fewer bits per weight."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.choose import newest_word, open_word
from sanac.cli.measuring import calibrating, idle_measuring, wanted_from
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.result import Result
from sanac.cli.surgery import SurgeryOptions, run_surgery, surgery

if TYPE_CHECKING:
    from sanac.core.execute import Surgery
    from sanac.core.model import Model
    from sanac.nn.asked import Wanted


@click.command(
    "quantize",
    short_help="Fewer bits per weight.",
    epilog="""\b
Examples:
  sanac quantize --scheme int8-wo
  sanac quantize MODEL --scheme int4-wo --block 64 --component transformer
  sanac quantize MODEL --scheme int8-wo --component transformer --component text-encoder
  sanac quantize MODEL --scheme int4-wo --rounding gptq --num-prompts 32
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
    type=click.Choice(["nearest", "search", "gptq"]),
    help="Scales by the largest value, or by the smallest error; gptq: values fitted to what layers are given, too.  "
    "[default: search for int4-wo, else nearest]",
)
@click.option("--include", multiple=True, metavar="NAME", help="What is left alone otherwise: kv.")
@calibrating
@surgery
@stage
@common()
def command(
    model: str | None,
    scheme: str,
    components: tuple[str, ...],
    block: int | None,
    rounding: str | None,
    include: tuple[str, ...],
    measured: dict[str, Any],
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Store MODEL's weights in fewer bits, tensor by tensor; the input is not touched.

    Only --rounding gptq computes with the model: it samples prompts and fits block by block. Everything else gives the
    same bytes anywhere. quant.json beside the weights says which are quantized, how, and why the others are not.
    Without MODEL it takes the workspace's newest artifact.
    """
    from sanac.quantize.job import Wanted, decide_quantizing

    word = model or newest_word(options, common)
    opened = open_word(word, common)
    if model is None:
        word, opened = _before_quantizing(word, opened, components, common)
    opened = opened.with_loras(chosen.loras)
    looked = wanted_from(measured, common)
    wanted = Wanted(scheme, tuple(dict.fromkeys(components)), block, rounding, frozenset(include))
    job = decide_quantizing(opened, wanted, chosen.writing(options))
    for name, part in job.repacked.items():
        common.talk.note(f"{name}: {len(part.quantized.weights)} weights to {scheme}, {len(part.quantized.left)} left")
    if rounding != "gptq":
        if idle := idle_measuring(spared=()):
            common.talk.warn(f"only --rounding gptq looks at what layers are given: {', '.join(idle)} have no effect")
        return run_surgery(word, job, options, common)
    return _run_fitted(word, job, looked, options, common)


def _before_quantizing(word: str, opened: "Model", components: tuple[str, ...], common: Common) -> tuple[str, "Model"]:
    """The newest artifact, or what it was made from if these components are quantized there: a rerun as typed."""
    from sanac.core.stage import origin_of

    names = {name.replace("-", "_") for name in components}
    while opened.manifest and opened.manifest.stage == "quantize":
        quantized = {part.name for part in opened.components if part.weights and part.weights.quantized}
        before = origin_of(opened.located.path)
        if not before or not Path(before).exists() or not names & quantized:
            break
        common.talk.note(f"{word} is quantized already: going on from {before}, which it was made from")
        word, opened = before, open_word(before, common)
    return word, opened


def _run_fitted(word: str, job: "Surgery", wanted: "Wanted", options: StageOptions, common: Common) -> Result:
    """Fit what is written to what layers are given, now or before."""
    from sanac.quantize.fitting import Fitting, fitting_states, with_fit

    states = fitting_states(job, wanted, common.talk)
    fitting = Fitting(with_fit(job, states), states, options.workspace, wanted.yes, options.fresh)
    if options.dry_run and (options.fresh or fitting.report() is None):
        fitting.announce(common.talk)
    return run_surgery(word, fitting.job, options, common, lambda _: fitting.fitted(common.talk))
