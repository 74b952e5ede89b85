"""What a command leaves on stdout: a table for people, or exactly one JSON object on one line."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import click

from sanac.core.errors import SanacError

DENIED = 5  # the exit code of a verdict that is no


@dataclass(frozen=True)
class Result:
    """A finished command: its status, its data for `--json`, and how to show it to people."""

    status: str
    show: Callable[[], None]
    data: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    as_json: bool = False
    exit_code: int = 0


def emit(result: Result) -> int:
    """Print a result; returns the exit code."""
    if result.as_json:
        _print_json({"status": result.status, "out": result.out, **result.data})
    else:
        result.show()
    return result.exit_code


def mute_stdout() -> None:
    """Nobody reads our output any more: what is still in the buffers goes nowhere, without an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_error(error: SanacError, *, as_json: bool, color: bool) -> int:
    """Print a failure: what and where, why, what to try. In JSON mode on stdout too."""
    if as_json:
        kind = type(error).__name__
        failure = _failure(
            error.exit_code, kind, error.message, why=error.why, hint=error.hint, problems=error.problems
        )
        _print_failure(failure | {"status": error.status})
    mark = "no:" if error.status == "failed" else "error:"
    _talk(click.style(mark, fg="red") if color else mark, error.message)
    if len(error.problems) > 1:
        for problem in error.problems[:20]:
            _talk("   -", problem)
        if len(error.problems) > 20:
            _talk("   -", f"and {len(error.problems) - 20} more")
    elif error.why:
        _talk("  why:", error.why)
    if error.hint:
        _talk("  try:", error.hint)
    if os.environ.get("SANAC_DEBUG") == "1":
        click.echo("".join(traceback.format_exception(error)), err=True)
    return error.exit_code


def emit_stop(exit_code: int, message: str, *, as_json: bool) -> int:
    """Say that the run was stopped from outside."""
    if as_json:
        _print_failure(_failure(exit_code, "Stopped", message))
    click.echo(f"\n{message}", err=True)
    return exit_code


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The exception hook: a bug in sanac is JSON as well when JSON was asked for; the traceback goes to stderr."""
    if "--json" in sys.argv:
        _print_failure(_failure(1, kind.__name__, str(error), why="this is a bug in sanac"))
    traceback.print_exception(kind, error, trace)
    click.echo("This is a bug in sanac: please report it with the lines above and `sanac doctor --json`.", err=True)


def _failure(
    code: int, kind: str, message: str, *, why: str = "", hint: str = "", problems: Sequence[str] = ()
) -> dict[str, Any]:
    """The JSON object of a failure."""
    detail = {"kind": kind, "message": message, "why": why, "hint": hint, "problems": list(problems)}
    return {"status": "error", "out": None, "exit": code, "error": detail}


def _print_failure(value: Mapping[str, Any]) -> None:
    """A failure keeps its exit code even when stdout is closed or full."""
    try:
        _print_json(value)
    except OSError:
        mute_stdout()


def _print_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, separators=(",", ":")))


def _talk(mark: str, text: str) -> None:
    click.echo(f"{mark} {text}", err=True)
