"""JSON Lines files: every malformed line is reported, none is skipped."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput, MissingResource

MOST_BYTES = 100_000_000
MOST_LINES = 200_000
_LONGEST = 200  # maximum characters of one problem's text

Parsed = TypeVar("Parsed")


def read_lines(path: Path, parse: Callable[[dict[str, Any]], Parsed]) -> list[Parsed]:
    """Each line parsed by `parse`. InvalidInput lists all problems of all lines, or says that the file is empty."""
    lines = _split(path)
    parsed: list[Parsed] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(parse(json_files.parse_object(line, "it")))
        except InvalidInput as error:
            whole = f"{error.message}: {error.why}" if error.why else error.message
            problems += [f"line {number}: {problem[:_LONGEST]}" for problem in error.problems or [whole]]
    if problems:
        raise InvalidInput(f"{path} has malformed lines", why=problems[0], problems=problems)
    return parsed


def write_lines(path: AnyPath, values: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, keys in their given order; the file is written atomically."""
    data = "".join(f"{json.dumps(value, allow_nan=False)}\n" for value in values).encode()
    try:
        write_atomically(path, data)
    except OSError as error:
        raise MissingResource(
            f"cannot write {path}", why=error.strerror or str(error), hint="choose another file"
        ) from error


def _split(path: Path) -> list[bytes]:
    lines = _read(path).split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise InvalidInput(f"{path} is empty")
    if len(lines) > MOST_LINES:
        raise InvalidInput(f"{path} has too many lines", why=f"it has {len(lines):,}; the maximum is {MOST_LINES:,}")
    return lines


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{path} is not a file")
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidInput(f"cannot read {path}", why=getattr(error, "strerror", None) or str(error)) from error
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"{path} is too large", why=f"the maximum is {MOST_BYTES:,} bytes")
    return data
