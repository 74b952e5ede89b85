"""Judging images of the shapes world: its detector's output as detections, its prompts as GenEval tasks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.detections import Detection
from sanac.judge.geneval import GenEvalResult, Rules, judge
from sanac.judge.metadata import parse_task
from sanac.judge.questions import parts_of
from sanac.judge.verifier import Picture, Request
from sanac.shapes.detector import detect
from sanac.shapes.prompts import Prompt

SURE = 0.6  # rendered items overlap their shape by 0.74 or more even when blurred and noisy; noise by less than 0.5
SHAPES_RULES = Rules(least_score=SURE, least_score_counting=SURE)


def look(picture: NDArray[np.generic]) -> list[Detection]:
    """The detections in an image, with the detector's own colours."""
    try:
        found = detect(picture)
    except ValueError as error:
        raise InvalidInput("the image to judge is invalid", why=str(error)) from error
    return [Detection(item.shape, item.confidence, item.box, item.color, item.mask) for item in found]


def judge_pictures(prompts: Sequence[Prompt], pictures: Sequence[NDArray[np.generic]]) -> list[GenEvalResult]:
    """The verdict on each image for its prompt."""
    pairs = zip(prompts, pictures, strict=True)
    return [judge(parse_task(prompt.metadata), look(picture), SHAPES_RULES) for prompt, picture in pairs]


def grades(prompt: Prompt, pictures: Sequence[NDArray[np.generic]]) -> list[float]:
    """Rank of each image for `prompt`, 0 is worst: by soft score, then by mean detection confidence.

    Ranks are only comparable between images of the same prompt.
    """
    verdicts = judge_pictures([prompt] * len(pictures), pictures)
    found = [(verdict.soft, _clarity(verdict)) for verdict in verdicts]
    order = {grade: float(place) for place, grade in enumerate(sorted(set(found)))}
    return [order[grade] for grade in found]


def _clarity(verdict: GenEvalResult) -> float:
    scores = [detection.score for kept in verdict.kept.values() for detection in kept]
    return sum(scores) / len(scores) if scores else 0.0


class ShapesVerifier:
    """The shapes world's detector as a verifier: the soft score, a correct image above all others."""

    id = "shapes-detector 1"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """Scores from 0 to 2; UsageError for prompts that aren't of the shapes world."""
        found = []
        for image, request in zip(images, requests, strict=True):
            if request.task is None:
                raise UsageError(
                    f"{request.prompt!r} is not a prompt of the shapes world",
                    why="the detector only knows that world",
                    hint="--verifier clip:MODEL or vlm:MODEL",
                )
            verdict = judge(request.task, look(image), SHAPES_RULES)
            found.append(float(verdict.correct) + 0.9 * verdict.soft + 0.1 * _clarity(verdict))
        return found

    def reasons(self, image: Picture, request: Request) -> list[str]:
        """The parts of a prompt that an image doesn't show."""
        seen = look(image)
        parts = parts_of(request.task) if request.task else ()
        return [wanted for wanted, task in parts if not judge(task, seen, SHAPES_RULES).correct]
