"""Prints the plan or the outcome of `sanac run`."""

import click

from sanac.cli.tables import console, table
from sanac.core.context import Outcome
from sanac.core.units import bytes_text, duration_text
from sanac.run.estimate import table_of as estimates_table
from sanac.run.job import PlanView, RecipeView
from sanac.run.outcome import NONE, table_of


def show(outcome: Outcome, *, color: bool) -> None:
    """Print what would be done, or what was."""
    del color
    if isinstance(outcome.view, PlanView):
        _show_plan(outcome.view)
    else:
        _show_outcome(outcome.view)


def _show_plan(view: PlanView) -> None:
    titles, *rows = estimates_table(view.plan, view.estimates, view.done)
    shown = table(tuple(titles[:2]), tuple(titles[2:]))
    for row in rows:
        shown.add_row(*row)
    console(color=False).print(shown)
    needs = f"about {duration_text(view.seconds)} and {bytes_text(int(view.memory))} of memory"
    click.echo(f"{needs}; nothing was run")


def _show_outcome(view: RecipeView) -> None:
    ran = view.outcome
    titles, *rows = table_of(ran)
    shown = table((titles[0],), tuple(titles[1:-1]))
    shown.add_column(titles[-1])
    for row in rows:
        shown.add_row(*row)
    console(color=False).print(shown)
    for reason in ran.reasons:
        click.echo(f"- {reason}")
    for check in ran.limits:
        click.echo(f"{'ok' if check.passed else 'NO'}  {check.text}")
    if ran.chosen:
        click.echo(f"{ran.chosen.folder}{' (cached: nothing had to be run)' if ran.cached else ''}")
    else:
        click.echo(f"NO  {NONE}: none")
    if view.pushed:
        click.echo(view.pushed)
