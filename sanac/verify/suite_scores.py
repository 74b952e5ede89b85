"""The scores of a suite as a table for people and as numbers for other tools."""

from collections.abc import Mapping

from sanac.core.view import Table
from sanac.judge.intervals import Interval


def score_table(scores: Mapping[str, Interval]) -> Table:
    """A row per score: its value, its bounds, the number of prompts behind it."""
    rows = tuple(
        (name, f"{score.value:.3f}", f"{score.low:.3f}", f"{score.high:.3f}", str(score.n))
        for name, score in scores.items()
    )
    return Table(("task",), ("right", "from", "to", "prompts"), rows)


def score_metrics(scores: Mapping[str, Interval]) -> dict[str, float]:
    """NAME, NAME.low and NAME.high of every score."""
    found: dict[str, float] = {}
    for name, score in scores.items():
        found |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
    return found
