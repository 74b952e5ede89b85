"""Options of what measures a model: prompts, sampler, memory."""

import functools
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sanac.cli.options import Common
from sanac.core.units import parse_bytes

if TYPE_CHECKING:
    from sanac.nn.calibration.settings import CalibrationSettings

Command = TypeVar("Command", bound=Callable[..., Any])
_FOLDER = click.Path(path_type=Path)
_OPTIONS: dict[str, Callable[[Command], Command]] = {
    "prompts": click.option("--prompts", type=_FOLDER, metavar="FILE", help="One prompt per line.  [default: bundled]"),
    "embeddings": click.option(
        "--embeddings", type=_FOLDER, metavar="FILE", help="Captions that --save-embeddings wrote, instead of prompts."
    ),
    "num_prompts": click.option(
        "--num-prompts",
        type=click.IntRange(1),
        metavar="N",
        help="How many.  [default: 100; search, gptq, int8, fp8: 32; a budget: 8]",
    ),
    "inputs": click.option(
        "--inputs",
        type=click.Choice(["sampled", "noised"]),
        default="sampled",
        show_default=True,
        help="What is pushed through: sampled trajectories, or --data under noise.",
    ),
    "data": click.option(
        "--data", type=_FOLDER, metavar="DIR", help="Latents of your own pictures, as .safetensors files."
    ),
    "timesteps": click.option(
        "--timesteps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Sampler steps."
    ),
    "guidance": click.option(
        "--guidance", type=click.FloatRange(0, 100), default=4.5, show_default=True, help="Guidance scale."
    ),
    "reduce": click.option(
        "--reduce",
        type=click.Choice(["token", "sample"]),
        default="token",
        show_default=True,
        help="Cosine per token, or of whole samples.",
    ),
    "memory_limit": click.option(
        "--memory-limit",
        metavar="SIZE",
        help="What it takes at most.  [default: 2GB; search, repair and gptq: more]",
    ),
    "yes": click.option("--yes", is_flag=True, help="Go on although the estimate is over an hour."),
}

_CALIBRATING = ("prompts", "embeddings", "num_prompts", "timesteps", "guidance", "memory_limit", "yes")


def measuring(function: Command) -> Command:
    """Add the options of what measures blocks; they arrive as `measured`, to be completed by `wanted_from`."""
    return _with(tuple(_OPTIONS), function)


def calibrating(function: Command) -> Command:
    """The same, of those that say where a model's own trajectories are looked at."""
    return _with(_CALIBRATING, function)


def _with(names: Sequence[str], function: Command) -> Command:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, measured={name: kwargs.pop(name) for name in names}, **kwargs)

    for name in reversed(names):
        wrapper = _OPTIONS[name](wrapper)
    return wrapper  # type: ignore[return-value]


def wanted_from(measured: dict[str, Any], common: Common) -> "CalibrationSettings":
    """The options of `measuring`, for the library."""
    from sanac.nn.calibration.settings import CalibrationSettings

    said = measured.pop("memory_limit")
    limit = parse_bytes(said) if said else None
    return CalibrationSettings(**measured, memory_limit=limit, seed=common.seed or 0, device=common.device)


def idle_measuring(spared: Container[str] = ("yes", "memory_limit")) -> list[str]:
    """The options of `measuring` that were given and say what is measured: idle where nothing is."""
    context, command_line = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    given = [name for name in _OPTIONS if context.get_parameter_source(name) == command_line]
    return [f"--{name.replace('_', '-')}" for name in given if name not in spared]
