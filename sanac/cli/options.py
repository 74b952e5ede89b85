"""The options that every command has, and those that every stage has."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from sanac.cli.console import ConsoleReporter

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Common:
    """What the user said about how to run, whatever the command."""

    as_json: bool
    seed: int | None
    device: str | None
    color: bool
    reporter: ConsoleReporter


@dataclass(frozen=True)
class StageOptions:
    """Where a stage writes and what it may replace."""

    out: Path | None
    workspace: Path
    dry_run: bool
    force: bool
    fresh: bool


def common(*ignored: str) -> Callable[[Command], Command]:
    """Add the common options; `ignored` names those that mean nothing to this command: the user is told."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def wrapper(
            *args: Any,
            as_json: bool,
            seed: int | None,
            device: str | None,
            verbose: int,
            quiet: bool,
            no_color: bool,
            **kwargs: Any,
        ) -> Any:
            color = not no_color and not os.environ.get("NO_COLOR")
            reporter = ConsoleReporter(-1 if quiet else verbose, color=color)
            for name, value in (("seed", seed), ("device", device)):
                if value is not None and name in ignored:
                    reporter.warn(f"--{name} has no effect here")
            return function(*args, common=Common(as_json, seed, device, color, reporter), **kwargs)

        for option in reversed(_COMMON):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate


def gathered(kind: type, name: str, options: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """Add options that arrive together: under `name`, as one `kind` with a field for each."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            chosen = kind(**{field.name: kwargs.pop(field.name) for field in fields(kind)})
            return function(*args, **{name: chosen}, **kwargs)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate


def workspace_option(text: str) -> Callable[[Command], Command]:
    """Where everything is kept; what for, this command says."""
    return click.option("--workspace", type=_FOLDER, default="sanac-out", show_default=True, metavar="DIR", help=text)


_FOLDER = click.Path(path_type=Path)
backend_option = click.option(
    "--backend",
    type=click.Choice(["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"]),
    default="torch",
    show_default=True,
    help="What computes: the weights, or what was exported.",
)

_COMMON = (
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, on failure too."),
    click.option("--seed", type=click.IntRange(0, 2**40), metavar="N", help="Seed of everything random."),
    click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N.  [default: the best there is]"),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors."),
    click.option("--no-color", is_flag=True, help="Plain text; NO_COLOR=1 does the same."),
)


_STAGE = (
    click.option("--out", type=_FOLDER, metavar="DIR", help="Where to write.  [default: WORKSPACE/VERB-KEY]"),
    workspace_option("Remembers the source model and the newest artifact."),
    click.option("--dry-run", is_flag=True, help="Print the plan and what it needs, write nothing."),
    click.option("--force", is_flag=True, help="Write OUT anew even if it holds an artifact already."),
    click.option("--fresh", is_flag=True, help="Discard what an interrupted run left instead of continuing it."),
)


def stage(function: Command) -> Command:
    """Add the options of a stage."""
    return gathered(StageOptions, "options", _STAGE)(function)


def interactive(options: Common) -> bool:
    """Whether a question can be asked."""
    return not options.as_json and sys.stdin.isatty() and sys.stderr.isatty()
