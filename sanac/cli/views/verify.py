"""Prints a comparison of `sanac verify`: each value with its limit and verdict, and what would have passed."""

import click

from sanac.cli.tables import console, table
from sanac.core.context import Outcome
from sanac.verify.end_to_end import VerifyReport
from sanac.verify.job import StoredComparison
from sanac.verify.rank_correlation import RankReport


def show(outcome: Outcome, *, color: bool) -> None:
    """Print a comparison or a rank correlation."""
    del color
    if isinstance(outcome.view, RankReport):
        _show_ranks(outcome.view)
    else:
        show_report(outcome.view)


def show_report(found: VerifyReport | StoredComparison) -> None:
    """Print every value of a comparison and its verdict."""
    rows = table(("figure",), ("found", "limit", "verdict"))
    for figure in found.figures:
        sign = "at most" if figure.most else "at least"
        rows.add_row(figure.name, f"{figure.value:.6g}", f"{sign} {figure.limit:g}", "ok" if figure.passed else "NO")
    console(color=False).print(rows)
    for note in found.notes:
        click.echo(f"note: {note}")
    if isinstance(found, StoredComparison):
        click.echo("the same function, within these limits (cached: the same files were compared before)")
    elif found.passed:
        click.echo("the same function, within these limits")
    else:
        click.echo(f"NOT the same function: {_why(found)}")


def _why(found: VerifyReport) -> str:
    """The first bad block, and the limit that would have passed; else what failed."""
    parity = found.parity
    if parity.passed:
        return ", ".join(figure.name for figure in found.figures if not figure.passed)
    block = parity.first_bad_block
    where = f"they differ from block {block} on" if block is not None else "no single block makes the difference"
    rounded = f"; the inputs of {parity.misrounded[0]} are rounded differently" if parity.misrounded else ""
    passing = f"; a limit of {parity.passing:.3g} would pass" if parity.passing else ""
    return f"{where}{rounded}{passing}"


def _show_ranks(found: RankReport) -> None:
    rows = table(("",), ("found", "from", "to", "by chance"))
    for name, interval in found.correlations.items():
        numbers = (interval.value, interval.low, interval.high, found.chance[name])
        rows.add_row(name, *(f"{number:.3f}" for number in numbers))
    console(color=False).print(rows)
    click.echo(f"{len(found.grades)} prompts with {found.settings.noises} noises each")
    if found.undecided:
        click.echo(f"{found.undecided} of them decide nothing: one model makes all noises equally good")
    if figure := found.figure:
        verdict = "ok" if figure.passed else "NO"
        click.echo(f"{figure.name}: {figure.value:.3f}, at least {figure.limit:g}: {verdict}")
