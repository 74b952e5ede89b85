"""A generator whose images are numbers, and a judge whose optimum is known, for tests of strategies.

An image is one number from 0 to 100 that follows from its noise. Its preview is that number plus an error that halves
with every step, so early previews mislead and late ones don't. A restart moves the number by the noise's own one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sanac.judge.verifier import Picture, Reading, Request
from sanac.nn.stepwise import Noise, Spent, StepCost
from sanac.search.generator_search import GeneratorSearch
from sanac.search.judging import SearchJudge

STEPS = 8
SIDE = 2


def value_of(noise: Noise) -> float:
    """The number that a noise leads to; a turn moves it a little."""
    value = (noise.seed * 37) % 101
    for seed, cosine in noise.turns:
        value = cosine * value + (1 - cosine) * ((seed * 37) % 101)
    return float(value)


@dataclass
class Numbers:
    """A batch of numbers in the making."""

    owner: "NumberGenerator"
    values: dict[int, float]
    done: int = 0
    batches: list[int] = field(default_factory=list)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(self.values)

    @property
    def steps(self) -> int:
        return STEPS

    @property
    def noise(self) -> float:
        return 1 - self.done / STEPS

    @property
    def guess_noise(self) -> float:
        return 1 - (self.done - 1) / STEPS

    @property
    def guesses(self) -> Sequence[float]:
        return [self._seen(value) for value in self.values.values()]

    def _seen(self, value: float) -> float:
        error = 60 * 0.5**self.done * (1 if int(value) % 2 else -1)
        return value if self.done == STEPS else min(100.0, max(0.0, value + error))

    def advance(self) -> None:
        assert self.values, "an empty batch costs nothing"
        cost = self.owner.costs[self.done]
        self.owner.spent.forwards += cost.forwards * len(self.values)
        self.owner.spent.block_forwards += cost.block_forwards * len(self.values)
        self.done += 1

    def preview(self) -> np.ndarray:
        self.owner.spent.decodes += len(self.values)
        return painted(self.guesses)

    def keep(self, rows: Sequence[int]) -> None:
        self.values = {row: self.values[row] for row in rows}

    def finish(self) -> np.ndarray:
        while self.values and self.done < STEPS:
            self.advance()
        self.owner.spent.decodes += len(self.values)
        return painted(list(self.values.values()))


def painted(values: Sequence[float]) -> np.ndarray:
    rounded = np.round(2 * np.asarray(values, float)).astype(np.uint8)
    return np.broadcast_to(rounded[:, None, None, None], (len(values), SIDE, SIDE, 3)).copy()


@dataclass
class NumberGenerator:
    """A stepwise generator of numbers; each step takes two forward passes, but the last half one."""

    each: int = 2
    spent: Spent = field(default_factory=Spent)
    started: list[Noise] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    @property
    def costs(self) -> tuple[StepCost, ...]:
        return tuple(StepCost(self.each if step < STEPS // 2 else 1, 3) for step in range(STEPS))

    def start(self, prompts: Sequence[str], noises: Sequence[Noise]) -> Numbers:
        assert len(prompts) == len(noises)
        self.started += noises
        self.prompts += prompts
        return Numbers(self, {row: value_of(noise) for row, noise in enumerate(noises)})

    def restart(self, prompts: Sequence[str], guesses: Sequence[float], noises: Sequence[Noise], step: int) -> Numbers:
        self.started += noises
        self.prompts += prompts
        share = 0.5 * (1 - step / STEPS)
        moved = [(1 - share) * guess + share * value_of(noise) for guess, noise in zip(guesses, noises, strict=True)]
        return Numbers(self, dict(enumerate(moved)), step)


class Near:
    """A verifier whose optimum is known: the nearer to a number, the better, from 0 to 1."""

    def __init__(self, optimum: float = 70) -> None:
        self.optimum, self.id = optimum, f"near {optimum}"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        assert len(images) == len(requests)
        return [1 - abs(float(image.mean()) / 2 - self.optimum) / 100 for image in images]


class NearPreviews(Near):
    """The same, with an opinion of previews; early ones aren't clear."""

    def previews(self, images: Sequence[Picture], requests: Sequence[Request], noise: float) -> list[Reading]:
        return [Reading(1 - noise, score, score) for score in self.scores(images, requests)]

    def reasons(self, image: Picture, request: Request) -> list[str]:
        return ["more"] if self.scores([image], [request])[0] < 0.99 else []


def number_search(allowed: int | None = None, *, batch: int = 3, verifier: Any = None, **more: Any) -> GeneratorSearch:
    judge = SearchJudge(verifier or NearPreviews())
    return GeneratorSearch(Request("a number"), NumberGenerator(), judge, batch, allowed, **more)
