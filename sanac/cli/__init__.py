"""The `sanac` command: parses, calls one library function, prints. Command bodies import lazily."""

from sanac.cli.app import main

__all__ = ["main"]
