"""Judged pictures in a journal: what each prompt scored, so that two cells can be compared prompt by prompt."""

from collections.abc import Mapping
from typing import Any

from sanac.judge.intervals import PromptScore
from sanac.judge.results import prompt_scores
from sanac.verify.shapes import Evaluation


def answers_of(found: Evaluation) -> dict[str, list[float]]:
    """Test prompts, and what was right of how many pictures."""
    scores = prompt_scores(found.results[: found.summary.pictures])
    return {f"{score.task}: {score.prompt}": [score.right, score.images] for score in scores}


def scores_of(cell: Mapping[str, Any]) -> list[PromptScore]:
    """The same, read back."""
    pairs = ((*key.split(": ", 1), *value) for key, value in cell["answers"].items())
    return [PromptScore(task, prompt, right, images) for task, prompt, right, images in pairs]
