"""Choosing by images: a quarter of the prompts decides who is a finalist, all prompts decide between these."""

import pytest

from sanac.judge.halving import FINALISTS, choose_by_images, judged_images, mean_of_tasks
from sanac.judge.intervals import PromptScore

IMAGES = 8
RIGHT = {  # of the first two images, of all eight
    "early": (2, 4),
    "late": (1, 8),
    "third": (1, 5),
    "fourth": (1, 3),
    "hidden": (0, 8),
}


def test_all_images_decide_between_the_finalists() -> None:
    asked: list[tuple[str, int]] = []

    def scores(name: str, count: int) -> list[PromptScore]:
        asked.append((name, count))
        return [PromptScore("task", "prompt", RIGHT[name][count == IMAGES], count)]

    assert choose_by_images(RIGHT, scores, IMAGES) == "late", "not the first of few images, nor one that fell out"
    few, every = ([name for name, count in asked if count == size] for size in (IMAGES // 4, IMAGES))
    assert few == list(RIGHT)
    assert every == ["early", "late", "third", "fourth"]
    assert len(every) == FINALISTS
    finals = FINALISTS * (IMAGES - IMAGES // 4)
    assert judged_images(len(RIGHT), IMAGES) == len(RIGHT) * (IMAGES // 4) + finals
    assert judged_images(2, IMAGES) == 2 * IMAGES


def test_tasks_count_alike() -> None:
    scores = [PromptScore("a", "1", 1, 1), PromptScore("a", "2", 1, 1), PromptScore("b", "3", 0, 2)]
    assert mean_of_tasks(scores) == pytest.approx(0.5)
