"""`sanac quantize`: fewer bits per weight."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.measuring import calibrating, idle_measuring, wanted_from
from sanac.cli.model_argument import before_rerun, newest_word, open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import SurgeryOptions, check_out, run_surgery, surgery
from sanac.cli.tables import console, table
from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sanac.core.artifact.model import Model
    from sanac.core.write.job import ArtifactJob
    from sanac.nn.calibration.settings import CalibrationSettings as Looked
    from sanac.quantize.bit_allocation import Budget
    from sanac.quantize.job import QuantizeSettings


@click.command(
    "quantize",
    short_help="Fewer bits per weight.",
    epilog="""\b
Examples:
  sanac quantize --scheme int8-wo
  sanac quantize MODEL --scheme int4-wo --block 64 --component transformer
  sanac quantize MODEL --scheme int8-wo --component transformer --component text-encoder
  sanac quantize MODEL --scheme int4-wo --rounding gptq --num-prompts 32
  sanac quantize MODEL --scheme int8 --num-prompts 32
  sanac quantize MODEL --max-bytes 2GB --component transformer --component text-encoder --explain
  sanac quantize MODEL --scheme int4-wo --rounding nearest --include kv --dry-run""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option(
    "--scheme",
    metavar="NAME",
    help="int8-wo, int4-wo, fp8-wo; int8, int8-dynamic, fp8, fp8-dynamic: activations, too.",
)
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
@click.option("--include", multiple=True, metavar="NAME", help="What is left alone otherwise: kv, ends.")
@click.option("--leave", multiple=True, metavar="PATTERN", help="Weights that stay as they are.")
@click.option(
    "--smoothing",
    type=click.Choice(["search", "none"]),
    help="Of what outlier-prone layers are given.  [default: search, with activations]",
)
@click.option(
    "--ranges",
    type=click.Choice(["minmax", "percentile", "mse"]),
    help="How int8's and fp8's static scales are chosen.  [default: minmax]",
)
@click.option("--max-bytes", metavar="SIZE", help="Of the components: mixes schemes for the least error within it.")
@click.option("--min-sqnr", type=float, metavar="DB", help="Of the velocity: mixes schemes for the fewest bytes.")
@click.option(
    "--among", metavar="LIST", help="Schemes that --max-bytes and --min-sqnr mix.  [default: int8-wo,int4-wo]"
)
@click.option("--explain", is_flag=True, help="Print how sensitive each weight is, and what it was given.")
@calibrating
@surgery
@stage
@common()
def command(
    model: str | None,
    scheme: str | None,
    components: tuple[str, ...],
    block: int | None,
    rounding: str | None,
    include: tuple[str, ...],
    leave: tuple[str, ...],
    smoothing: str | None,
    ranges: str | None,
    max_bytes: str | None,
    min_sqnr: float | None,
    among: str | None,
    explain: bool,
    measured: dict[str, Any],
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Store MODEL's weights in fewer bits, tensor by tensor; the input is not touched.

    One of --scheme, --max-bytes and --min-sqnr says how. What looks at activations (gptq, int8, fp8, smoothing) or at
    errors (a budget) samples prompts with the model; everything else gives the same bytes anywhere. quant.json beside
    the weights says which are quantized, how, and why the others are not.
    Without MODEL it takes the workspace's newest artifact.
    """
    from sanac.quantize.bit_allocation import AMONG, Budget
    from sanac.quantize.job import QuantizeSettings, plan_quantize

    _check_ways(scheme, max_bytes, min_sqnr)
    components = tuple(dict.fromkeys(components))
    word = model or newest_word(options, common)
    opened = open_word(word, common)
    if model is None:
        word, opened = before_rerun(word, opened, "quantize", common, lambda it: _quantizes_again(it, components))
    opened = opened.with_loras(chosen.loras)
    looked = wanted_from(measured, common)
    if scheme is None:
        _refuse({"--block": block, "--smoothing": smoothing, "--ranges": ranges}, "is for one --scheme")
        limit = parse_bytes(max_bytes) if max_bytes is not None else None
        kinds = tuple(filter(None, map(str.strip, among.split(",")))) if among is not None else AMONG
        budget = Budget(limit, min_sqnr, kinds, components, rounding, frozenset(include), leave)
        return _run_budget(word, opened, budget, looked, chosen, options, common, explain=explain)
    _refuse({"--among": among, "--explain": explain}, "is for --max-bytes and --min-sqnr")
    wanted = QuantizeSettings(scheme, components, block, rounding, frozenset(include), leave, smoothing, ranges)
    job = plan_quantize(opened, wanted, chosen.writing(options))
    for name, part in job.repacked.items():
        common.reporter.note(
            f"{name}: {len(part.quantized.weights)} weights to {scheme}, {len(part.quantized.skipped)} left"
        )
    if not wanted.needs_calibration:
        if idle := idle_measuring(spared=()):
            common.reporter.warn(f"nothing looks at what layers are given: {', '.join(idle)} have no effect")
        return run_surgery(word, job, options, common)
    return _run_fitted(word, job, wanted, looked, options, common)


def _check_ways(scheme: str | None, max_bytes: str | None, min_sqnr: float | None) -> None:
    ways = {"--scheme": scheme, "--max-bytes": max_bytes, "--min-sqnr": min_sqnr}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} contradict each other" if given else "how to quantize is not said"
        raise UsageError(what, why="one of --scheme, --max-bytes and --min-sqnr says it", hint="--scheme int8-wo")


def _refuse(options: dict[str, Any], why: str) -> None:
    problems = [f"{name} {why}" for name, value in options.items() if value]
    if problems:
        raise UsageError(problems[0], problems=problems)


def _run_budget(
    word: str,
    opened: "Model",
    budget: "Budget",
    looked: "Looked",
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
    *,
    explain: bool,
) -> Result:
    """Measure, choose, write; what was chosen and why is kept beside the artifact."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.quantize.allocation_units import UNQUANTIZED
    from sanac.quantize.bit_allocation import allocating, explained, summary
    from sanac.report.charts.allocation import draw

    writing, reporter = chosen.writing(options), common.reporter
    looked = replace(looked, dry=options.dry_run)
    check_out(options)
    job = allocating(opened, budget, looked, writing, options.workspace, reporter, fresh=options.fresh)
    found = job.run(reporter)
    for line in summary(found):
        reporter.note(line)
    result = run_surgery(word, job.job(found, writing), options, common)
    rows, data = explained(job.units, found), found.to_json()
    if not options.dry_run:
        metrics = {"sqnr": found.best.sqnr} if found.best.error else {}
        report = write_measurement(
            Path(str(result.out)), "allocation", data | job.report_settings | {"units": rows}, metrics
        )
        draw(rows, (UNQUANTIZED, *budget.among), summary(found)[0], report.with_suffix(".png"))
    if not explain:
        return replace(result, data={**result.data, "allocation": data})

    def show() -> None:
        result.show()
        _show_units(rows, budget.among, color=common.color)

    return replace(result, show=show, data={**result.data, "allocation": data | {"units": rows}})


def _show_units(rows: "Sequence[Mapping[str, Any]]", among: tuple[str, ...], *, color: bool) -> None:
    """The most sensitive first."""
    shown = table(("unit", "gets"), ("bytes", *(f"error at {name}" for name in among)))
    for row in rows:
        errors = (f"{row['errors'][name]:.1e}" if name in row["errors"] else "" for name in among)
        shown.add_row(row["unit"], row["scheme"], f"{row['bytes']:,}", *errors)
    console(color=color).print(shown)


def _quantizes_again(opened: "Model", components: tuple[str, ...]) -> bool:
    """Whether some of these are quantized already."""
    names = {name.replace("-", "_") for name in components}
    return any(part.name in names and part.weights and part.weights.quantized for part in opened.components)


def _run_fitted(
    word: str, job: "ArtifactJob", wanted: "QuantizeSettings", looked: "Looked", options: StageOptions, common: Common
) -> Result:
    """Fit what is written to what layers are given, now or before."""
    from sanac.quantize.calibration_job import CalibrationJob, fitting_states, with_fit

    states = fitting_states(job, looked, common.reporter)
    fitting = CalibrationJob(with_fit(job, states), wanted, states, options.workspace, looked.yes, options.fresh)
    if options.dry_run and (options.fresh or fitting.report() is None):
        fitting.check_budget(common.reporter)
    return run_surgery(word, fitting.job, options, common, lambda _: fitting.run(common.reporter))
