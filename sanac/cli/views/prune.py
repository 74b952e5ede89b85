"""Prints what `sanac prune` did."""

from sanac.cli.views.artifact import show

__all__ = ["show"]
