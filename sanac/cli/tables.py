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
    if sys.stdout.isatty():
        return _Console(no_color=not color, highlight=False)
    return _Console(no_color=True, highlight=False, width=110)


def table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """A table without lines: columns of words, then columns of numbers."""
    made = Table(box=None, pad_edge=False)
    for title in left:
        made.add_column(title)
    for title in right:
        made.add_column(title, justify="right")
    return made
