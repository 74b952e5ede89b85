"""The scores file: importance of each block, the settings of the measurement, and the identity of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput, UsageError

SCHEMA = 1
_REACH = NormalDist().inv_cdf(0.975)  # half width of a 95 % interval, in standard errors


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one block: the mean over prompts with its 95 % interval, and the mean at each timestep."""

    value: float
    low: float
    high: float
    by_step: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all blocks by metric; a higher score means a more important block."""

    metrics: Mapping[str, tuple[Score, ...]]
    model: str  # its identity
    content: str  # digest of its transformer's tensors
    name: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The content of the scores file."""
        return {
            "schema": SCHEMA,
            "kind": "block scores",
            "model": self.model,
            "content": self.content,
            "name": self.name,
            "settings": dict(self.settings),
            "metrics": {
                name: [
                    {"block": i, "value": s.value, "low": s.low, "high": s.high, "by_step": list(s.by_step)}
                    for i, s in enumerate(found)
                ]
                for name, found in self.metrics.items()
            },
        }

    def of(self, metric: str) -> tuple[float, ...]:
        """Scores of all blocks under one metric; UsageError if the file doesn't contain it."""
        if metric not in self.metrics:
            known = ", ".join(self.metrics)
            raise UsageError(
                f"the scores file has no metric {metric!r}", why=f"it contains {known}", hint="sanac analyze"
            )
        return tuple(score.value for score in self.metrics[metric])


def score(values: Sequence[float], by_step: Sequence[float]) -> Score:
    """The score of a block from one value per prompt and one per timestep; rounding errors below zero become zero."""
    count = len(values)
    mean = sum(values) / count
    spread = sum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    reach = _REACH * (spread / count) ** 0.5
    low, high = max(0.0, mean - reach), max(0.0, mean + reach)
    return Score(max(0.0, mean), low, high, tuple(max(0.0, value) for value in by_step))


def read_scores(path: Path) -> Scores:
    """Read a scores file; InvalidInput says what is wrong with it."""
    value = json_files.read_object(path)
    try:
        if value["schema"] != SCHEMA or value["kind"] != "block scores":
            raise ValueError("not a scores file of this version")
        metrics = {str(name): tuple(map(_score, found)) for name, found in value["metrics"].items()}
        if not metrics or len({len(found) for found in metrics.values()}) != 1:
            raise ValueError("its metrics cover different numbers of blocks")
        model, content, name = value["model"], value.get("content", ""), value["name"]
        if not all(isinstance(word, str) for word in (model, content, name)):
            raise ValueError("it doesn't name the model that it was measured on")
        return Scores(metrics, model, content, name, dict(value["settings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not a scores file", why=str(error), hint="sanac analyze MODEL makes one"
        ) from error


def _score(entry: Any) -> Score:
    numbers = [entry["value"], entry["low"], entry["high"], *entry["by_step"]]
    if not all(type(number) in {int, float} and number >= 0 for number in numbers):
        raise ValueError(f"block {entry.get('block')} has a score that is not a number >= 0")
    value, low, high, *steps = map(float, numbers)
    return Score(value, low, high, tuple(steps))


def check_model(scores: Scores, model: Model, path: Path) -> None:
    """Raise InvalidInput if the scores were measured on another model; copies of the same model match."""
    blocks = len(next(iter(scores.metrics.values())))
    same = scores.model == model.identity() or (scores.content and scores.content == model.content())
    if not same or blocks != model.architecture.blocks:
        raise InvalidInput(
            f"{path} was measured on another model",
            why=f"it contains scores of {scores.name} with {blocks} blocks; {model.located.name} has another digest",
            hint=f"sanac analyze {model.located.path}",
        )
