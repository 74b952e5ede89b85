"""Gates: limits that a model's measurements must meet. A missing measurement fails its gate."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.measurements import METRICS, measurements_in
from sanac.core.artifact.model import Model
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.check import Check
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.units import share_text

EARLIER = {"least": "min", "most": "max"}  # names of limits that are still read
BOUNDS = ("value", "low", "high")
_SIZES = "size"


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits on one metric, absolute or relative to a baseline."""

    metric: str
    bound: str = "value"  # of an interval: its value, low or high end
    min: float | None = None
    max: float | None = None
    min_recovery: float | None = None  # minimum of value / baseline
    max_ratio: float | None = None  # maximum of value / baseline

    @property
    def relative(self) -> bool:
        """Whether the gate needs a baseline."""
        return self.min_recovery is not None or self.max_ratio is not None

    @property
    def key(self) -> str:
        """Name of the metric in metrics.json."""
        return self.metric if self.bound == "value" else f"{self.metric}.{self.bound}"

    def problems(self) -> list[str]:
        """Everything that is wrong with the gate."""
        found = [] if self.metric else ["the gate has no metric"]
        if self.bound not in BOUNDS:
            found.append(f"{self.metric}: bound {self.bound!r} is not one of {', '.join(BOUNDS)}")
        limits = [limit for limit in (self.min, self.max, self.min_recovery, self.max_ratio) if limit is not None]
        if not limits:
            found.append(f"{self.metric}: no limit: set one of min, max, min_recovery, max_ratio")
        if any(not math.isfinite(limit) for limit in limits):
            found.append(f"{self.metric}: a limit must be a finite number")
        return found


def read_gates(path: Path) -> tuple[Gate, ...]:
    """Read the [[gate]] tables of a TOML file; UsageError lists every mistake."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be read", why=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise UsageError(f"{path} is not valid TOML", why=str(error)) from error
    strangers = [f"{name}: only [[gate]] tables are allowed in this file" for name in value if name != "gate"]
    gates, problems = parse_gates(value.get("gate", []))
    if found := [*strangers, *problems]:
        raise UsageError(f"{path} has invalid gates", why=found[0], problems=found)
    if not gates:
        hint = 'add a [[gate]] table, for example with metric = "evaluate-shapes/overall" and min = 0.9'
        raise UsageError(f"{path} has no gates", hint=hint)
    return gates


def parse_gates(value: Any) -> tuple[tuple[Gate, ...], list[str]]:
    """(gates, problems) from the parsed [[gate]] tables."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return (), ["gates must be [[gate]] tables"]
    known = {field.name for field in fields(Gate)}
    gates, problems = [], []
    for number, written in enumerate(value, 1):
        where, entry = f"gate {number}", {EARLIER.get(name, name): limit for name, limit in written.items()}
        wrong = [f"{where}: unknown key {name!r}: {', '.join(sorted(known))}" for name in entry.keys() - known]
        texts = [name for name in ("metric", "bound") if not isinstance(entry.get(name, ""), str)]
        numbers = [name for name in known - {"metric", "bound"} if not _is_number(entry.get(name, 0))]
        wrong += [f"{where}: {name} is not a string" for name in texts]
        wrong += [f"{where}: {name} is not a number" for name in sorted(numbers)]
        if not wrong:
            gate = Gate(**{"metric": "", **entry})
            wrong = [f"{where}: {problem}" for problem in gate.problems()]
            gates.append(gate)
        problems += wrong
    return tuple(gates), problems


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) >= 1e300


def numbers_of(model: Model, folder: Path | None = None) -> dict[str, float]:
    """Metrics of a model: its measurements, those in `folder` if given, and its sizes."""
    found: dict[str, float] = dict(sizes_of(model))
    for home in (model.located.path, *((folder,) if folder else ())):  # `folder` takes precedence
        found |= measured_in(home)
    return found


def measured_in(home: Path) -> dict[str, float]:
    """Flat metrics in a folder's measurements; empty if nothing was measured."""
    path = measurements_in(home) / METRICS
    known = json_files.read_object(path) if path.is_file() else {}
    return {name: float(value) for name, value in known.items() if _is_number(value)}


def sizes_of(model: Model) -> dict[str, float]:
    """Bytes and parameters of a model's weights, in total and by component."""
    parts = {part.name: part.weights for part in model.components if part.weights}
    found = {f"{_SIZES}/bytes": float(sum(weights.size for weights in parts.values()))}
    for name, weights in parts.items():
        found |= {f"{_SIZES}/{name}_bytes": float(weights.size), f"{_SIZES}/{name}_parameters": float(weights.count)}
    return found


def judge(
    gates: Sequence[Gate], numbers: Mapping[str, float], baseline: Mapping[str, float] | None
) -> tuple[Check, ...]:
    """Checks of every limit of every gate."""
    return tuple(verdict for gate in gates for verdict in _judged(gate, numbers, baseline))


def _judged(gate: Gate, numbers: Mapping[str, float], baseline: Mapping[str, float] | None) -> list[Check]:
    name = gate.metric if gate.bound == "value" else f"{gate.metric}, {gate.bound} bound"
    value = numbers.get(gate.key)
    missing = "" if value is not None else _missing(gate, numbers)
    found = [
        Check(name, value, limit, most, missing)
        for limit, most in ((gate.min, False), (gate.max, True))
        if limit is not None
    ]
    for limit, most in ((gate.min_recovery, False), (gate.max_ratio, True)):
        if limit is None:
            continue
        base = None if baseline is None else baseline.get(gate.metric)
        why = missing or ("there is no baseline" if baseline is None else "the baseline has no such metric")
        if value is None or base is None or base == 0:
            found.append(Check(f"{name} / baseline", None, limit, most, why if base != 0 else "the baseline is 0"))
        else:
            note = share_text(value, base, in_bytes=gate.metric.endswith("bytes"))
            found.append(Check(f"{name} / baseline", value / base, limit, most, note))
    return found


def _missing(gate: Gate, numbers: Mapping[str, float]) -> str:
    if gate.bound != "value" and gate.metric in numbers:
        return "it was measured without an interval"
    words = _words(gate.metric)
    near = sorted(
        (name for name in numbers if len(words & _words(name)) > 1), key=lambda one: -len(words & _words(one))
    )
    return "it was not measured" + (f" (but {', '.join(near[:3])})" if near else "")


def _words(name: str) -> set[str]:
    return set(re.split(r"[/_.-]", name))


def check_baseline(gates: Sequence[Gate], baselines: Sequence[str]) -> None:
    """Raise UsageError if a relative gate has no baseline."""
    relative = [gate.metric for gate in gates if gate.relative]
    if relative and not baselines:
        raise UsageError(
            f"the gate on {relative[0]} is relative to a baseline", why="no baseline was passed", hint="--baseline DIR"
        )


def require_measured(path: Path) -> None:
    """Raise InvalidInput if a folder contains no measurements."""
    if not (measurements_in(path) / METRICS).is_file():
        hint = f"sanac evaluate {path} --suite shapes"
        raise InvalidInput(f"{path} has no measurements", why=f"{MEASUREMENTS}/{METRICS} is missing", hint=hint)
