"""Training data from the shapes world: the contents allowed in training, their sampling weights and captions."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sanac.shapes.prompts import Content, contents, phrasings, split_of
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene
from sanac.shapes.words import TAGS

WEIGHTS = {  # sampling weight per task; harder tasks are drawn more often
    "single_object": 1,
    "two_object": 2,
    "counting": 3,
    "colors": 2,
    "position": 6,
    "color_attr": 4,
}


@cache
def lessons() -> tuple[Content, ...]:
    """All contents allowed in training, grouped by task."""
    return tuple(content for tag in TAGS for content in contents(tag) if not content.held_out)


@cache
def captions(lesson: int) -> tuple[str, ...]:
    """Training-split captions of a lesson."""
    return tuple(prompt.text for prompt in phrasings(lessons()[lesson]) if split_of(prompt) == "train")


def draw_lessons(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` lessons: a task by its weight, then one of its contents uniformly."""
    tags = np.array([TAGS.index(content.tag) for content in lessons()])
    chances = np.array([WEIGHTS[tag] for tag in TAGS])[tags] / np.bincount(tags)[tags]
    return rng.choice(len(tags), size=count, p=chances / chances.sum())


def pictures(chosen: NDArray[np.int64], size: int, rng: np.random.Generator, *, tidy: bool = True) -> NDArray[np.uint8]:
    """Rendered scenes of the chosen lessons: (count, size, size, 3)."""
    return np.stack([render(draw_scene(lessons()[lesson], rng, tidy=tidy), size) for lesson in chosen])
