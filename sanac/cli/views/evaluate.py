"""Prints the scores of `sanac evaluate`."""

import click

from sanac.cli.tables import console, table
from sanac.core.context import Outcome
from sanac.verify.evaluate_job import EvaluationView


def show(outcome: Outcome, *, color: bool) -> None:
    """Print a row per task, the distance of the set, and the files."""
    del color
    view: EvaluationView = outcome.view
    found = view.evaluation
    scores = {**found.summary.tasks, "overall": found.summary.overall}
    scores |= {"held out": found.held_out} if found.held_out else {}
    rows = table(("task",), ("right", "from", "to", "prompts"))
    for name, score in scores.items():
        rows.add_row(name, f"{score.value:.3f}", f"{score.low:.3f}", f"{score.high:.3f}", str(score.n))
    console(color=False).print(rows)
    distance = found.distance
    click.echo(
        f"distance to rendered scenes: {distance.frechet:.2f} (two halves of these: {distance.frechet_floor:.2f})"
    )
    click.echo(f"diversity: {distance.diversity}")
    for path in view.files:
        click.echo(path)
