"""Chooses between candidates by images: all of them on a quarter of the prompts, the best few on all prompts."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sanac.judge.intervals import PromptScore

T = TypeVar("T")
FINALISTS = 4
FEW = 4  # of the prompts, one in so many decides who is a finalist
LEAST = 48  # images of a finalist


@dataclass(frozen=True)
class SuiteSettings:
    """What the scores depend on besides the model and its variants."""

    images: int
    guidance: float
    batch: int
    seed: int
    unseen: bool = False  # whether contents that training never saw are tasks of their own
    prompts: tuple[str, ...] = ()  # the user's own; empty: those of the shapes world
    verifier: str = ""  # word of what scores their images; empty: similarity to the whole model's images


def choose_by_images(candidates: Iterable[T], scores: Callable[[T, int], Sequence[PromptScore]], images: int) -> T:
    """The candidate with the best score; `scores` gives those of a candidate on the first prompts, so many images."""
    few = images // FEW
    ranked = sorted(candidates, key=lambda one: -mean_of_tasks(scores(one, few)))  # stable: order breaks ties
    return max(ranked[:FINALISTS], key=lambda one: mean_of_tasks(scores(one, images)))


def images_of_finalist(images: int, prompts: int, *, typed: bool) -> int:
    """Images of a finalist: `images`, but on so many prompts of the user's, unless typed, each equally often."""
    if typed or not prompts:
        return images
    return prompts * math.ceil(LEAST / prompts)


def judged_images(candidates: int, images: int) -> int:
    """Number of images that a choice between so many candidates takes."""
    finalists = min(candidates, FINALISTS)
    return candidates * (images // FEW) + finalists * (images - images // FEW)


def mean_of_tasks(scores: Iterable[PromptScore]) -> float:
    """The unweighted mean of the tasks' mean scores."""
    by_task: dict[str, list[float]] = {}
    for score in scores:
        by_task.setdefault(score.task, []).append(score.right / score.images)
    return statistics.fmean(map(statistics.fmean, by_task.values()))
