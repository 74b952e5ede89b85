"""The shapes world as a judge sees it: its detector's findings as detections, its prompts as GenEval's tasks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput
from sanac.judge.detections import Detection
from sanac.judge.geneval import GenEvalResult, Rules, judge
from sanac.judge.metadata import parse_task
from sanac.shapes.detector import detect
from sanac.shapes.prompts import Prompt

SURE = 0.6  # rendered items overlap their shape by 0.74 or more even when blurred and noisy; noise by less than 0.5
SHAPES_RULES = Rules(least_score=SURE, least_score_counting=SURE)


def look(picture: NDArray[np.generic]) -> list[Detection]:
    """What is in a picture. Colours are the detector's own: nothing else classifies them."""
    try:
        found = detect(picture)
    except ValueError as error:
        raise InvalidInput("what is to be judged is no picture", why=str(error)) from error
    return [Detection(item.shape, item.confidence, item.box, item.color, item.mask) for item in found]


def judge_pictures(prompts: Sequence[Prompt], pictures: Sequence[NDArray[np.generic]]) -> list[GenEvalResult]:
    """Whether each picture shows what its prompt asks for."""
    pairs = zip(prompts, pictures, strict=True)
    return [judge(parse_task(prompt.metadata), look(picture), SHAPES_RULES) for prompt, picture in pairs]


def grades(prompt: Prompt, pictures: Sequence[NDArray[np.generic]]) -> list[float]:
    """How good each is for the prompt, from 0: by what it shows of what is asked for, then by how clearly it shows it.

    Only the order of a prompt's own pictures means anything.
    """
    verdicts = judge_pictures([prompt] * len(pictures), pictures)
    found = [(verdict.soft, _clarity(verdict)) for verdict in verdicts]
    order = {grade: float(place) for place, grade in enumerate(sorted(set(found)))}
    return [order[grade] for grade in found]


def _clarity(verdict: GenEvalResult) -> float:
    scores = [detection.score for kept in verdict.kept.values() for detection in kept]
    return sum(scores) / len(scores) if scores else 0.0
