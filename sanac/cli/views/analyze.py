"""Prints the scores of `sanac analyze`."""

import click

from sanac.cli.tables import console, table
from sanac.core.context import Outcome
from sanac.prune.analyze_job import ScoresView


def show(outcome: Outcome, *, color: bool) -> None:
    """Print a row per block, and the files."""
    del color
    view: ScoresView = outcome.view
    found = view.scores.metrics[view.metric]
    order = sorted(range(len(found)), key=lambda index: -found[index].value)
    rows = table(("block",), (view.metric, "from", "to", "rank"))
    for index, score in enumerate(found):
        rank = str(order.index(index) + 1)
        rows.add_row(str(index), f"{score.value:.5f}", f"{score.low:.5f}", f"{score.high:.5f}", rank)
    console(color=False).print(rows)
    for path in (view.file, *outcome.data.get("pictures", ())):
        click.echo(path)
