"""Prints what `sanac quantize` did; with --explain, the sensitivity of each weight."""

from sanac.cli.tables import console, table
from sanac.cli.views.artifact import show_artifact
from sanac.core.context import Outcome
from sanac.core.write.run import ArtifactView
from sanac.quantize.job import AllocationView


def show(outcome: Outcome, *, color: bool) -> None:
    """Print the artifact, and the allocation where one was asked for."""
    view = outcome.view
    if isinstance(view, ArtifactView):
        show_artifact(view, str(outcome.out))
        return
    assert isinstance(view, AllocationView)
    show_artifact(view.artifact, str(outcome.out))
    if not view.explain:
        return
    rows = table(("unit", "gets"), ("bytes", *(f"error at {name}" for name in view.schemes)))
    for row in view.rows:  # the most sensitive first
        errors = (f"{row['errors'][name]:.1e}" if name in row["errors"] else "" for name in view.schemes)
        rows.add_row(row["unit"], row["scheme"], f"{row['bytes']:,}", *errors)
    console(color=color).print(rows)
