"""Prints the findings of `sanac doctor`."""

import click

from sanac.core.context import Outcome

_MARKS = {"ok": ("ok", "green"), "warn": ("!!", "yellow"), "missing": ("--", "bright_black"), "broken": ("XX", "red")}


def show(outcome: Outcome, *, color: bool) -> None:
    """Print findings under the titles of their groups."""
    group = ""
    for finding in outcome.view:
        if finding.group != group:
            group = finding.group
            click.echo(group)
        mark, tint = _MARKS[finding.state]
        click.echo(f"  {click.style(mark, fg=tint) if color else mark} {finding.name:<16} {finding.text}")
        if finding.hint:
            click.echo(f"     {'':<16} {finding.hint}")
