"""How a job's talk looks: progress with an ETA on a terminal, a line every few seconds elsewhere. All on stderr."""

import sys
import time
from typing import TYPE_CHECKING

import click

from sanac.core.units import bytes_text, duration_text

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_EVERY = 5.0  # seconds between progress lines where there is no terminal


def shows_progress() -> bool:
    """Whether somebody watches: a terminal, or a notebook."""
    return sys.stderr.isatty() or in_notebook()


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    return "ipykernel" in sys.modules


class ConsoleReporter:
    """A Talk for people. Verbosity: -1 only warnings, 0 normal, 1 and up with details."""

    def __init__(self, verbosity: int, *, color: bool) -> None:
        self.verbosity = verbosity
        self._color = color and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._label = self._unit = ""
        self._total = self._done = 0
        self._started = self._said = 0.0

    def note(self, text: str) -> None:
        """Print a line unless -q was given."""
        if self.verbosity >= 0:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Print a line if -v was given."""
        if self.verbosity > 0:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Print a warning, always."""
        mark = click.style("warning:", fg="yellow") if self._color else "warning:"
        click.echo(f"{mark} {text}", err=True)

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """Show a bar on a terminal."""
        self._label, self._total, self._done, self._unit = label, total, 0, unit
        self._before: int | None = None
        self._started = self._said = time.monotonic()
        if self.verbosity >= 0 and shows_progress():
            self._bar = _bar(unit, color=self._color)
            self._bar.add_task(label, total=total)
            self._bar.start()

    def advance(self, amount: int, state: str = "") -> None:
        """Move the bar, or say a line when it is time."""
        self._done += amount
        label = f"{self._label} ({state})" if state else self._label
        now = time.monotonic()
        if self._before is None:  # the first may be what was done before a stop
            self._before, self._started = self._done, now
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=amount, description=label)
        elif self.verbosity >= 0 and now - self._said >= _LINE_EVERY and self._total and self._done > self._before:
            self._said = now
            share = min(1.0, self._done / self._total)
            left = (now - self._started) * (self._total - self._done) / (self._done - self._before)
            whole = f"{self._total:,} {self._unit}" if self._unit else bytes_text(self._total)
            self.note(f"{label}: {share:.0%} of {whole}, {duration_text(left)} left")

    def end(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def _bar(unit: str, *, color: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts = (MofNCompleteColumn(), TextColumn(unit)) if unit else (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=not in_notebook(), no_color=not color), transient=True)
