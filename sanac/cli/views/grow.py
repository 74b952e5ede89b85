"""Prints what `sanac grow` did."""

from sanac.cli.views.artifact import show

__all__ = ["show"]
