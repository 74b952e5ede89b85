"""What the user says of TensorRT engines, and what is said of those that were built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sanac.cli.options import gathered
from sanac.core.artifact.engine_record import NEVER
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text

if TYPE_CHECKING:
    from sanac.core.artifact.engine_record import Record
    from sanac.export.engine_plan import EngineSettings

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class EngineOptions:
    """As they were typed."""

    trt: bool
    builder: str | None
    sm: tuple[str, ...]
    batch: str | None
    size: str | None
    weight_streaming: bool
    refit: bool
    refit_from: Path | None
    timing_cache: Path | None

    def asked(self) -> "EngineSettings | None":
        """For the library; None where no engine is wanted. All mistakes at once."""
        from sanac.core.artifact.engine_record import parse_capabilities, parse_span
        from sanac.export.engine_plan import EngineSettings

        if not self.trt:
            given = [name for name in _NAMES if getattr(self, name)]
            if given:
                names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise UsageError(f"{names}: about engines, of which none is asked for", hint="add --trt")
            return None
        idle = [name for name in _OF_A_BUILD if getattr(self, name)]
        if self.refit_from and idle:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise UsageError(
                f"{names}: what --refit-from takes is as it was built", hint="leave them out, or build anew"
            )
        found: dict[str, Any] = {}
        problems: list[UsageError] = []
        for name, read in (
            ("capabilities", lambda: parse_capabilities(self.sm)),
            ("batch", lambda: parse_span(self.batch or "1..4", "batch")),
            ("size", lambda: parse_span(self.size, "size") if self.size else None),
        ):
            try:
                found[name] = read()
            except UsageError as error:
                problems.append(error)
        if problems:
            every = [text for error in problems for text in (error.problems or (error.message,))]
            raise UsageError(problems[0].message, hint=problems[0].hint, problems=every)
        rest = {name: getattr(self, name) for name in ("weight_streaming", "refit", "refit_from", "timing_cache")}
        return EngineSettings(builder=self.builder or "auto", **found, **rest)


_NAMES = tuple(field.name for field in fields(EngineOptions) if field.name != "trt")
_OF_A_BUILD = ("sm", "batch", "size", "weight_streaming", "timing_cache")
_OPTIONS = (
    click.option("--trt", is_flag=True, help="TensorRT engines, too."),
    click.option(
        "--builder",
        type=click.Choice(["auto", "tensorrt", "rtx"]),
        help="tensorrt builds for the GPU here, rtx ahead of time.  [default: auto]",
    ),
    click.option("--sm", multiple=True, metavar="GPU", help="89, rtx4090, ...; several: 89,120."),
    click.option("--batch", metavar="A..B", help="Pictures at once.  [default: 1..4]"),
    click.option("--size", metavar="A..B", help="Sides in pixels.  [default: half the model's own to its double]"),
    click.option("--weight-streaming", is_flag=True, help="Weights may stay in the host's memory."),
    click.option("--refit", is_flag=True, help="An engine that can be given other weights later."),
    click.option("--refit-from", type=_FILE, metavar="ENGINE", help="Give this engine new weights: no build."),
    click.option("--timing-cache", type=_FILE, metavar="FILE", help="Timings of earlier builds, read and written."),
)


def engines(function: Command) -> Command:
    """Add the options of engines."""
    return gathered(EngineOptions, "engine", _OPTIONS)(function)


def show_engines(records: "Mapping[str, Record]") -> None:
    """For whom each was built, for which sizes, and whether anybody ever ran it."""
    for file, record in records.items():
        click.echo(f"{file}: {bytes_text(record.size)}, {record.executed}")
        for name, entry in record.inputs.items():
            click.echo(f"  {name}: {_shape(entry['least'])} to {_shape(entry['most'])}")
    if any(record.executed == NEVER for record in records.values()):
        click.echo("their files were looked at; on the GPU, sanac verify --backend trt completes the proof")


def _shape(sizes: "Sequence[int]") -> str:
    return "x".join(map(str, sizes))
