"""Gates: what measurements must reach for a pipeline to go on. A number that is wanted and not there is a no."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.measurements import METRICS
from sanac.core.artifact.model import Model
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.check import Check
from sanac.core.errors import InvalidInput, UsageError

BOUNDS = ("value", "low", "high")
_SIZES = "size"


@dataclass(frozen=True, slots=True)
class Gate:
    """One number, and what it must be: in itself, or as a share of the baseline's."""

    metric: str
    bound: str = "value"  # of an interval: its value, or the end that is named
    least: float | None = None
    most: float | None = None
    min_recovery: float | None = None  # of the baseline's value, at least
    max_ratio: float | None = None  # of the baseline's value, at most

    @property
    def relative(self) -> bool:
        """Whether it wants a baseline."""
        return self.min_recovery is not None or self.max_ratio is not None

    @property
    def key(self) -> str:
        """In metrics.json."""
        return self.metric if self.bound == "value" else f"{self.metric}.{self.bound}"

    def problems(self) -> list[str]:
        """What is wrong with it."""
        found = [] if self.metric else ["a gate names no metric"]
        if self.bound not in BOUNDS:
            found.append(f"{self.metric}: bound {self.bound!r} is none of {', '.join(BOUNDS)}")
        limits = [limit for limit in (self.least, self.most, self.min_recovery, self.max_ratio) if limit is not None]
        if not limits:
            found.append(f"{self.metric}: no limit: one of least, most, min_recovery, max_ratio")
        if any(not math.isfinite(limit) for limit in limits):
            found.append(f"{self.metric}: a limit that is no number passes nothing")
        return found


def read_gates(path: Path) -> tuple[Gate, ...]:
    """The [[gate]] tables of a TOML file; every mistake at once."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be read", why=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # TOML's, and UTF-8's, are ValueErrors
        raise UsageError(f"{path} is no TOML", why=str(error)) from error
    strangers = [f"{name}: only [[gate]] tables are known here" for name in value if name != "gate"]
    gates, problems = parse_gates(value.get("gate", []))
    if found := [*strangers, *problems]:
        raise UsageError(f"{path} has gates that can't be judged", why=found[0], problems=found)
    if not gates:
        raise UsageError(f"{path} has no gates", hint='[[gate]] metric = "evaluate-shapes/overall" least = 0.9')
    return gates


def parse_gates(value: Any) -> tuple[tuple[Gate, ...], list[str]]:
    """From what TOML gives; and what is wrong."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return (), ["gates are written as [[gate]] tables"]
    known = {field.name for field in fields(Gate)}
    gates, problems = [], []
    for number, entry in enumerate(value, 1):
        where = f"gate {number}"
        wrong = [f"{where}: there is no {name!r}: {', '.join(sorted(known))}" for name in entry.keys() - known]
        texts = [name for name in ("metric", "bound") if not isinstance(entry.get(name, ""), str)]
        numbers = [name for name in known - {"metric", "bound"} if not _is_number(entry.get(name, 0))]
        wrong += [f"{where}: {name} is no text" for name in texts]
        wrong += [f"{where}: {name} is no number" for name in sorted(numbers)]
        if not wrong:
            gate = Gate(**{"metric": "", **entry})
            wrong = [f"{where}: {problem}" for problem in gate.problems()]
            gates.append(gate)
        problems += wrong
    return tuple(gates), problems


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) >= 1e300


def numbers_of(model: Model, folder: Path | None = None) -> dict[str, float]:
    """All that is known of a model: what was measured of it (in `folder`, if not beside it), and its sizes."""
    found: dict[str, float] = dict(sizes_of(model))
    for home in (model.located.path, *((folder,) if folder else ())):  # the folder's own come last
        found |= measured_in(home)
    return found


def measured_in(home: Path) -> dict[str, float]:
    """The flat numbers of a folder's measurements; none where nothing was measured."""
    path = home / MEASUREMENTS / METRICS
    known = json_files.read_object(path) if path.is_file() else {}
    return {name: float(value) for name, value in known.items() if _is_number(value)}


def sizes_of(model: Model) -> dict[str, float]:
    """Bytes and parameters of its weights."""
    parts = {part.name: part.weights for part in model.components if part.weights}
    found = {f"{_SIZES}/bytes": float(sum(weights.size for weights in parts.values()))}
    for name, weights in parts.items():
        found |= {f"{_SIZES}/{name}_bytes": float(weights.size), f"{_SIZES}/{name}_parameters": float(weights.count)}
    return found


def judge(
    gates: Sequence[Gate], numbers: Mapping[str, float], baseline: Mapping[str, float] | None
) -> tuple[Check, ...]:
    """Every limit of every gate."""
    return tuple(verdict for gate in gates for verdict in _judged(gate, numbers, baseline))


def _judged(gate: Gate, numbers: Mapping[str, float], baseline: Mapping[str, float] | None) -> list[Check]:
    name = gate.metric if gate.bound == "value" else f"{gate.metric}, {gate.bound} bound"
    value = numbers.get(gate.key)
    missing = "" if value is not None else _missing(gate, numbers)
    found = [
        Check(name, value, limit, most, missing)
        for limit, most in ((gate.least, False), (gate.most, True))
        if limit is not None
    ]
    for limit, most in ((gate.min_recovery, False), (gate.max_ratio, True)):
        if limit is None:
            continue
        base = None if baseline is None else baseline.get(gate.metric)
        why = missing or ("there is no baseline" if baseline is None else "the baseline has none")
        if value is None or base is None or base == 0:
            found.append(Check(f"{name} / baseline", None, limit, most, why if base != 0 else "the baseline is 0"))
        else:
            note = f"{value:.6g} of {base:.6g}"
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
    """Gates that are shares want something to be shares of."""
    relative = [gate.metric for gate in gates if gate.relative]
    if relative and not baselines:
        raise UsageError(f"{relative[0]} is held to a baseline", why="none was given", hint="--baseline DIR")


def require_measured(path: Path) -> None:
    """A folder with measurements in it."""
    if not (path / MEASUREMENTS / METRICS).is_file():
        hint = f"sanac evaluate {path} --suite shapes"
        raise InvalidInput(f"nothing was measured of {path}", why=f"it has no {MEASUREMENTS}/{METRICS}", hint=hint)
