"""What a verb shows to people, as data: lines and tables. Whoever shows it decides how it looks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """A line whose beginning stands out."""

    mark: str
    style: str  # of the mark: bold, or a color
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of words, then columns of numbers, then words again."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


Block = str | Line | Table
Show = Callable[[], Iterable[Block]]


def path_text(path: Path) -> str:
    """A path as one would type it here: relative where it lies in the working directory, else absolute."""
    here, found = Path.cwd(), path.absolute()
    return str(found.relative_to(here)) if found.is_relative_to(here) else str(found)


def nothing() -> Iterable[Block]:
    """Show nothing."""
    return ()


def chain(*shows: Show) -> Show:
    """Show one after the other."""
    return lambda: (block for show in shows for block in show())
