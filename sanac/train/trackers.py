"""Logs training metrics to experiment trackers by name, through accelerate: TensorBoard, W&B, MLflow and others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sanac.core.errors import MissingResource, UsageError

Logged = Callable[[Mapping[str, float]], None]


@contextmanager
def trackers(names: Sequence[str], folder: Path, settings: Mapping[str, object]) -> Iterator[Logged]:
    """Open the named trackers and yield a function that logs a line of metrics; imports nothing without names."""
    if not names:
        yield lambda _: None
        return
    from accelerate import Accelerator
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    unknown = [name for name in names if name not in LOGGER_TYPE_TO_CLASS]
    if unknown:
        raise UsageError(f"unknown tracker {unknown[0]!r}", hint=f"one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    missing = [name for name in names if name not in {str(found) for found in get_available_trackers()}]
    if missing:
        raise MissingResource(f"{missing[0]} is not installed", hint=f"pip install {missing[0]}")
    accelerator = Accelerator(log_with=list(names), project_dir=str(folder), cpu=True)
    plain = {key: value for key, value in settings.items() if isinstance(value, int | float | str | bool)}
    accelerator.init_trackers("sanac", config=plain)

    def logged(line: Mapping[str, float]) -> None:
        values = {key: value for key, value in line.items() if key != "step"}
        accelerator.log(values, step=int(line["step"]))

    try:
        yield logged
    finally:
        accelerator.end_training()
