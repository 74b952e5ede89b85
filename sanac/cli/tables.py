"""How lines and tables look: rich on a terminal, plain and 110 wide elsewhere."""

import sys
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from sanac.core.view import Show, Table


def print_view(show: "Show", *, color: bool) -> None:
    """Print what an outcome shows."""
    from sanac.core.view import Line, Table

    for block in show():
        if isinstance(block, Table):
            _print_table(block, color=color)
        elif isinstance(block, Line):
            style = {"bold": True} if block.style == "bold" else {"fg": block.style}
            click.echo((click.style(block.mark, **style) if color else block.mark) + block.text)
        else:
            click.echo(block)


def _print_table(table: "Table", *, color: bool) -> None:
    from rich.table import Table as RichTable

    made = RichTable(box=None, pad_edge=False)
    for title in table.words:
        made.add_column(title)
    for title in table.numbers:
        made.add_column(title, justify="right")
    for title in table.notes:
        made.add_column(title)
    for row in table.rows:
        made.add_row(*row)
    console(color=color).print(made)


def console(*, color: bool) -> "Console":
    """A console on stdout, whose broken pipe is an error like any other."""
    from rich.console import Console

    class PipeAware(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    width = None if sys.stdout.isatty() else 110
    return PipeAware(color_system="auto" if color else None, highlight=False, markup=False, width=width)
