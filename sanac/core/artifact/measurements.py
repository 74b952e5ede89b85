"""Where measurements lie and what is in them: one JSON each, and the flat metrics.json that other tools read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.staging import MEASUREMENTS, write_flushed
from sanac.core.errors import InvalidInput

METRICS = "metrics.json"


def write_measurement(folder: Path, name: str, value: Mapping[str, Any], metrics: Mapping[str, float]) -> Path:
    """Write FOLDER/measurements/NAME.json and enter its numbers in metrics.json beside it."""
    place = folder / MEASUREMENTS
    try:
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / f"{name}.json", json_files.pretty(value))
        known = json_files.read_object(place / METRICS) if (place / METRICS).exists() else {}
        others = {key: number for key, number in known.items() if not key.startswith(f"{name}/")}
        _replace(
            place / METRICS, json_files.pretty(others | {f"{name}/{key}": number for key, number in metrics.items()})
        )
    except OSError as error:
        raise InvalidInput(
            f"cannot write {place}", why=error.strerror or str(error), hint="choose another --out"
        ) from error
    return place / f"{name}.json"


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write_flushed(partial, data)
    partial.replace(path)
