"""Prints the checks of `sanac gate`, one line each."""

import click

from sanac.core.context import Outcome


def show(outcome: Outcome, *, color: bool) -> None:
    """Print every check and how many failed."""
    del color
    checks = outcome.view
    for check in checks:
        click.echo(f"{'ok' if check.passed else 'NO'}  {check.text}")
    failed = sum(not check.passed for check in checks)
    click.echo(f"{failed} of {len(checks)} limits are not kept" if failed else f"all {len(checks)} limits are kept")
