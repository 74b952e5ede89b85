"""Prints what `sanac finetune` did."""

from sanac.cli.views.artifact import show_artifact
from sanac.core.context import Outcome


def show(outcome: Outcome, *, color: bool) -> None:
    """Print the artifact."""
    del color
    show_artifact(outcome.view.artifact, str(outcome.out))
