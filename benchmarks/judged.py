"""Judged pictures in a journal: what each prompt scored, so that two cells can be compared prompt by prompt."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sanac.judge.intervals import PromptScore
from sanac.judge.results import prompt_scores
from sanac.shapes.prompts import suite
from sanac.verify.shapes_suite import Evaluation


def answers_of(found: Evaluation) -> list[float]:
    """Of each test prompt, in the suite's order, how many pictures were right."""
    return [score.right for score in prompt_scores(found.results[: found.summary.pictures])]


def scores_of(cell: Mapping[str, Any]) -> list[PromptScore]:
    """The same, read back: the suite says which prompts these were and how many pictures each got."""
    asked = Counter(
        (prompt.content.tag, json.dumps(prompt.metadata, sort_keys=True)) for prompt in suite("test", cell["pictures"])
    )
    pairs = zip(asked.items(), cell["answers"], strict=True)
    return [PromptScore(tag, prompt, right, images) for ((tag, prompt), images), right in pairs]
