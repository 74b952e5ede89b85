"""How tables look: rich on a terminal, plain and 110 wide elsewhere."""

import sys
from typing import NoReturn

from rich.console import Console
from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Let the command line decide, as for everything else that is printed."""
        raise BrokenPipeError


def console(*, color: bool) -> Console:
    """A console on stdout."""
    width = None if sys.stdout.isatty() else 110
    return _Console(color_system="auto" if color else None, highlight=False, markup=False, width=width)


def table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """A table without lines: columns of words, then columns of numbers."""
    made = Table(box=None, pad_edge=False)
    for title in left:
        made.add_column(title)
    for title in right:
        made.add_column(title, justify="right")
    return made
