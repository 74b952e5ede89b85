"""The measurements folder: one JSON file per measurement, and a flat metrics.json for other tools."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput

METRICS = "metrics.json"
BEFORE_AFTER = "before-and-after.png"  # the source's pictures beside the artifact's, where a recipe made them


def write_measurement(folder: Path, name: str, value: Mapping[str, Any], metrics: Mapping[str, float]) -> Path:
    """Write `value` to measurements/NAME.json in `folder` and update `metrics` in measurements/metrics.json."""
    place = measurements_in(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / f"{name}.json", json_files.pretty(value))
        known = json_files.read_object(place / METRICS) if (place / METRICS).exists() else {}
        others = {key: number for key, number in known.items() if not key.startswith(f"{name}/")}
        ours = {f"{name}/{key}": number for key, number in metrics.items()}
        write_atomically(place / METRICS, json_files.pretty(others | ours))
    except OSError as error:
        raise InvalidInput(
            f"cannot write {place}", why=error.strerror or str(error), hint="choose another --out"
        ) from error
    return place.path / f"{name}.json"


def measurements_in(folder: Path) -> ConfinedPath:
    """The folder of the measurements of the artifact in `folder`."""
    return ConfinedPath(folder) / MEASUREMENTS


def read_measurement(folder: Path, name: str) -> dict[str, Any] | None:
    """The measurement NAME of the artifact in `folder`; None if there is none."""
    path = measurements_in(folder) / f"{name}.json"
    return json_files.read_object(path) if path.is_file() else None
