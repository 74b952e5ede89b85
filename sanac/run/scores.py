"""Compares scores of a suite by prompt: a share of the source's score, and the difference between two points."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sanac.core import json_files
from sanac.core.artifact.measurements import measurements_in
from sanac.judge.intervals import Interval, PromptScore, paired_difference
from sanac.judge.results import prompt_scores, read_results


@dataclass(frozen=True)
class Measured:
    """A measurement of a suite: a folder and the measurement's name."""

    folder: Path
    name: str

    @property
    def metric(self) -> str:
        """The name of its score among metrics."""
        return f"{self.name}/overall"

    @cached_property
    def scores(self) -> list[PromptScore]:
        """Scores by prompt on the test prompts, without the held-out ones that follow them in the file."""
        place = measurements_in(self.folder)
        results = read_results(Path(place / f"{self.name}.jsonl"))
        return prompt_scores(results[: json_files.read_object(place / f"{self.name}.json")["pictures"]])


def difference(ours: Measured, theirs: Measured) -> Interval:
    """The score of `ours` minus that of `theirs`, paired by prompt."""
    return paired_difference(ours.scores, theirs.scores).interval


def score_ratio(ours: Measured, base: Measured, whole: float, least: float) -> tuple[float, float]:
    """(share of the source's score, margin of the paired difference's lower bound over `least`), paired by prompt.

    The margin is low(candidate - source) + (1 - least) * source; at least 0 passes.
    """
    found = difference(ours, base)
    if whole == 0:
        return 1.0, found.low
    return (whole + found.value) / whole, found.low + (1 - least) * whole


def short_of(ours: Measured, base: Measured, whole: float, least: float) -> list[str]:
    """What is missing to `least` of the source's score, as text; [] if the share is shown to be kept."""
    ratio, low = score_ratio(ours, base, whole, least)
    if low >= 0:
        return []
    return [f"{ratio:.4f} of the source's score: the lower bound is {-low:.4f} short of {least:g} of it"]
