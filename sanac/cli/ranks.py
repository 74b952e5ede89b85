"""`sanac verify --rank-correlation`: do two models put the same noises first?"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sanac.cli.options import Common, gathered
from sanac.cli.output import DENIED, Result
from sanac.cli.tables import console, table
from sanac.core.errors import UsageError

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.verify.rank_correlation import RankReport

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class RankOptions:
    """As they were typed."""

    rank_correlation: bool
    verifier: str | None
    rank_prompts: int | None
    noises: int | None
    candidate_steps: int | None
    least_kendall: float | None

    @property
    def wanted(self) -> bool:
        """Whether that is the question; Misuse where only its settings were given."""
        if self.rank_correlation:
            return True
        given = [field.name for field in fields(self)[1:] if getattr(self, field.name) is not None]
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"{names}: about ranks, which nobody asked for", hint="add --rank-correlation")
        return False


_OPTIONS = (
    click.option("--rank-correlation", is_flag=True, help="Do both put the same noises first?"),
    click.option("--verifier", type=click.Choice(["shapes"]), help="Who grades pictures.  [default: shapes]"),
    click.option("--rank-prompts", type=click.IntRange(6), metavar="N", help="Prompts to rank for.  [default: 24]"),
    click.option("--noises", type=click.IntRange(2, 256), metavar="N", help="Noises of each.  [default: 16]"),
    click.option("--candidate-steps", type=click.IntRange(1, 1000), help="Of its sampler.  [default: --steps]"),
    click.option("--least-kendall", type=click.FloatRange(-1, 1), help="Exit 5 if the lower bound is less."),
)


def ranking(function: Command) -> Command:
    """Add the options about ranks."""
    return gathered(RankOptions, "ranking", _OPTIONS)(function)


def ranked(
    candidate: "Model", reference: "Model", backend: str, steps: int, options: RankOptions, common: Common
) -> Result:
    """Compare, keep the measurement beside an artifact, say what was found."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.runtime.pipeline import GenerationSettings, open_generator
    from sanac.verify.rank_correlation import RankSettings, rank

    how, noises = GenerationSettings(steps), options.noises or 16
    tops = (1, 4) if noises > 4 else (1,)
    ours = GenerationSettings(options.candidate_steps or steps)
    counts = (options.rank_prompts or 24, noises, tops)
    asked = RankSettings(how, ours, options.verifier or "shapes", *counts, options.least_kendall, common.seed or 0)
    painters = (
        open_generator(candidate, common.device, backend, common.reporter),
        open_generator(reference, common.device),
    )
    found = rank(*painters, asked, common.reporter)
    data = {"reference": reference.located.name, "backend": backend, **found.to_json()}
    home: Path | None = candidate.located.path if candidate.manifest else None
    if home:
        metrics = {name: interval.value for name, interval in found.correlations.items()}
        names = {"Kendall's tau": "kendall", "Spearman's rho": "spearman"}
        flat = {names.get(name, name.replace(" ", "_")): value for name, value in metrics.items()}
        write_measurement(home, "verify-ranks", data, flat)
    passed = found.figure is None or found.figure.passed
    status, code = ("ok", 0) if passed else ("failed", DENIED)
    return Result(status, lambda: _show(found), data, str(home) if home else None, common.as_json, code)


def _show(found: "RankReport") -> None:
    rows = table(("",), ("found", "from", "to", "by chance"))
    for name, interval in found.correlations.items():
        numbers = (interval.value, interval.low, interval.high, found.chance[name])
        rows.add_row(name, *(f"{number:.3f}" for number in numbers))
    console(color=False).print(rows)
    click.echo(f"{len(found.grades)} prompts with {found.asked.noises} noises each")
    if found.undecided:
        click.echo(f"{found.undecided} of them say nothing: one of both finds all noises equally good")
    if figure := found.figure:
        verdict = "ok" if figure.passed else "NO"
        click.echo(f"{figure.name}: {figure.value:.3f}, at least {figure.limit:g}: {verdict}")
