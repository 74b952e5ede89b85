"""Prints what `sanac convert` did."""

from sanac.cli.views.artifact import show

__all__ = ["show"]
