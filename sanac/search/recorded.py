"""Searches over recorded scores: what a judge said of every preview and image of some prompts and noises.

The matrix is filled once; every best-of, gate, halving and budget is then the same code as for real, over a search that
looks the scores up. What changes trajectories (zero-order, paths, reflection, prm) can't be recorded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import UsageError
from sanac.judge.intervals import PromptScore
from sanac.judge.verifier import Reading, Request
from sanac.nn.stepwise import Noise, StepCost
from sanac.search.pool import Candidate, Origin, Pool, PromptSearch, forwards
from sanac.search.strategies import SearchPlan

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """Scores by prompt, noise and, for previews, step."""

    prompts: tuple[str, ...]
    tasks: tuple[str, ...]  # of each prompt
    costs: tuple[StepCost, ...]
    clarity: Floats  # (prompts, noises, steps)
    potential: Floats
    scores: Floats  # (prompts, noises): the verifier's, of finished images
    right: Floats  # (prompts, noises): the verdict of the judge that searches are measured by


@dataclass
class Simulated:
    """What a plan found on every prompt, and what it spent."""

    scores: list[PromptScore]  # right winners, of as many groups of noises
    forwards: float  # per search of a prompt
    block_forwards: float
    decodes: float

    def __str__(self) -> str:
        """The cost, for messages."""
        return f"{self.block_forwards:.0f} block-forwards"


def simulate(matrix: Matrix, plan: SearchPlan, allowed: int | None = None) -> Simulated:
    """Search every prompt with each group of `plan.n` noises in turn."""
    count = matrix.scores.shape[1] // plan.n
    if not count:
        raise UsageError(f"{plan.n} noises are more than the {matrix.scores.shape[1]} that were recorded")
    scores, spent = [], np.zeros(3)
    for prompt, (text, task) in enumerate(zip(matrix.prompts, matrix.tasks, strict=True)):
        right = 0.0
        for group in range(count):
            search = RecordedSearch(matrix, prompt, allowed)
            found = plan.run(search, [Noise(group * plan.n + number) for number in range(plan.n)])
            right += float(matrix.right[prompt, found.winner.origin.noise.seed])
            spent += search.spent
        scores.append(PromptScore(task, text, right, count))
    return Simulated(scores, *map(float, spent / (count * len(matrix.prompts))))


@dataclass
class RecordedSearch:
    """The scores of one prompt; a noise's seed is its column."""

    matrix: Matrix
    prompt: int
    allowed: int | None = None
    spent: Floats = field(default_factory=lambda: np.zeros(3))  # forwards, blocks of these, decodes
    in_time: bool = True

    @property
    def request(self) -> Request:
        """The prompt."""
        return Request(self.matrix.prompts[self.prompt])

    @property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one candidate."""
        return self.matrix.costs

    @property
    def left(self) -> int | None:
        """Forward passes that may still be taken."""
        return None if self.allowed is None else self.allowed - int(self.spent[0])

    def start(self, noises: Sequence[Noise]) -> Pool:
        """Begin a candidate per noise."""
        return RecordedPool(self, dict(enumerate(noises)))

    def restart(self, *_: Any) -> NoReturn:
        """Nothing is known of other trajectories."""
        raise UsageError("a search that changes trajectories can't be simulated", hint="run it for real")

    def reasons(self, candidate: Candidate) -> list[str]:  # noqa: ARG002
        """Nothing was recorded."""
        return []

    def draft(self) -> PromptSearch:
        """Nothing is known of other generators."""
        self.restart()


@dataclass
class RecordedPool:
    """Candidates whose scores are looked up."""

    search: RecordedSearch
    noises: dict[int, Noise]
    done: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """The candidates that are left."""
        return tuple(self.noises)

    @property
    def origins(self) -> Mapping[int, Origin]:
        """The noise of each candidate."""
        return {row: Origin(noise) for row, noise in self.noises.items()}

    @property
    def guesses(self) -> Mapping[int, Any]:
        """Nothing was recorded."""
        return dict.fromkeys(self.noises)

    def advance(self, to: int) -> None:
        """Pay for the steps until so many are done."""
        steps = self.search.costs[self.done : to]
        cost = np.array([forwards(steps), sum(one.block_forwards for one in steps), 0])
        self.search.spent += len(self.noises) * cost
        self.done = max(self.done, to)

    def read(self) -> dict[int, Reading]:
        """What was said of each preview."""
        self.search.spent[2] += len(self.noises)
        return dict(self._readings())

    def _readings(self) -> Iterator[tuple[int, Reading]]:
        matrix, prompt, step = self.search.matrix, self.search.prompt, self.done - 1
        for row, noise in self.noises.items():
            potential = float(matrix.potential[prompt, noise.seed, step])
            yield row, Reading(float(matrix.clarity[prompt, noise.seed, step]), potential, potential)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all candidates but these."""
        self.noises = {row: self.noises[row] for row in rows}

    def finish(self) -> list[Candidate]:
        """Pay for the steps that are left, and look the scores up."""
        self.advance(len(self.search.costs))
        self.search.spent[2] += len(self.noises)
        scores = self.search.matrix.scores[self.search.prompt]
        return [Candidate(Origin(noise), float(scores[noise.seed])) for noise in self.noises.values()]
