"""Prints the files of `sanac generate`."""

import click

from sanac.core.context import Outcome


def show(outcome: Outcome, *, color: bool) -> None:
    """Print one path per line."""
    del color
    for path in outcome.view.files:
        click.echo(path)
