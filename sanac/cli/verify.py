"""`sanac verify`: is it the same function?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, common
from sanac.cli.output import DENIED, Result
from sanac.cli.ranks import RankOptions, ranked, ranking
from sanac.cli.tables import console, table

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.verify.end_to_end import VerifyReport, VerifySettings


@click.command(
    "verify",
    short_help="Is it the same function?",
    epilog="""\b
Examples:
  sanac verify ./exported --against sanac:tiny
  sanac verify ./exported --against sanac:tiny --limit 1e-3 --pictures 0
  sanac verify ./converted --against model.pth --backend torch --json
  sanac verify ./exported --against sanac:tiny --backend trt
  sanac verify ./pruned --against sanac:tiny --rank-correlation --noises 16""",
)
@click.argument("candidate", metavar="CANDIDATE")
@click.option("--against", "reference", required=True, metavar="REFERENCE", help="What it is to be the same as.")
@click.option(
    "--backend", type=click.Choice(["torch", "onnx", "trt"]), help="What runs it.  [default: onnx where graphs are]"
)
@click.option("--limit", type=click.FloatRange(0, min_open=True), help="Relative error.  [default: by precision]")
@click.option("--pictures", type=click.IntRange(0, 64), default=4, show_default=True, help="To paint with both.")
@click.option("--steps", type=click.IntRange(1, 1000), default=12, show_default=True, help="Of the sampler.")
@ranking
@common()
def command(
    candidate: str,
    reference: str,
    backend: str | None,
    limit: float | None,
    pictures: int,
    steps: int,
    ranking: RankOptions,
    common: Common,
) -> Result:
    """Give CANDIDATE and REFERENCE the same inputs and compare what they give, block by block; then their pictures.

    Inputs are random ones of several sizes, and those that break what random ones don't: nothing but zeros, huge
    numbers, no caption, first and last step. Exit 5 when a figure is beyond its limit.

    With --rank-correlation another question: do both put the same noises first, as a verifier sees their pictures?
    """
    from sanac.runtime.backends import graphs_in
    from sanac.verify.end_to_end import VerifySettings

    ours, theirs = open_word(candidate, common), open_word(reference, common)
    if ranking.wanted:
        return ranked(ours, theirs, backend or "torch", steps, ranking, common)
    if common.seed is not None:
        common.reporter.warn("--seed has no effect here")
    asked = VerifySettings(backend or ("onnx" if graphs_in(ours) else "torch"), limit, pictures, steps)
    return verified(ours, theirs, asked, common)


def verified(candidate: "Model", reference: "Model", asked: "VerifySettings", common: Common) -> Result:
    """Compare, keep the measurement beside an artifact, say what was found."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.verify.end_to_end import verify

    found = verify(candidate, reference, asked, common.device or "cpu", common.reporter)
    data: dict[str, Any] = {"reference": reference.located.name, "backend": asked.backend, **found.to_json()}
    home: Path | None = candidate.located.path if candidate.manifest else None
    if home:
        metrics = {_flat(figure.name): figure.finite for figure in found.figures if figure.finite is not None}
        write_measurement(home, f"verify-{asked.backend}", data, metrics)
    status, code = ("ok", 0) if found.passed else ("failed", DENIED)
    return Result(status, lambda: show(found), data, str(home) if home else None, common.as_json, code)


def _flat(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).replace("__", "_")


def show(found: "VerifyReport") -> None:
    """Each figure with its limit and verdict; what would have passed."""
    rows = table(("figure",), ("found", "limit", "verdict"))
    for figure in found.figures:
        sign = "at most" if figure.most else "at least"
        rows.add_row(figure.name, f"{figure.value:.6g}", f"{sign} {figure.limit:g}", "ok" if figure.passed else "NO")
    console(color=False).print(rows)
    for note in found.notes:
        click.echo(f"note: {note}")
    if found.passed:
        click.echo("the same function, as far as this can tell")
        return
    click.echo(f"NOT the same function: {_why(found)}")


def _why(found: "VerifyReport") -> str:
    """The block, and the limit that would have passed; else what failed."""
    parity = found.parity
    if parity.passed:
        return ", ".join(figure.name for figure in found.figures if not figure.passed)
    where = (
        f"they part at block {parity.culprit}" if parity.culprit is not None else "no single block is where they part"
    )
    rounded = f"; rounded otherwise: what {parity.otherwise[0]} is multiplied by" if parity.otherwise else ""
    passing = f"; a limit of {parity.passing:.3g} would pass" if parity.passing else ""
    return f"{where}{rounded}{passing}"
