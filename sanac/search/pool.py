"""The candidates of one prompt while they are searched: what strategies see of generator and judge.

A strategy only knows these protocols, so that the same code runs for real and over recorded scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sanac.judge.verifier import Picture, Reading, Request
from sanac.nn.stepwise import Noise, StepCost


@dataclass(frozen=True, slots=True)
class Restart:
    """A guess that was made noisy again: before which step, with which noise, and for which prompt if it changed."""

    step: int
    noise: Noise
    prompt: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of metadata."""
        changed = {"prompt": self.prompt} if self.prompt else {}
        return {"step": self.step, **self.noise.to_json(), **changed}


@dataclass(frozen=True, slots=True)
class Origin:
    """Everything that a candidate follows from, besides model, prompt and sampler settings."""

    noise: Noise
    restarts: tuple[tuple[int, Restart], ...] = ()  # each with the number of steps that were taken before it
    draft: bool = False  # whether the draft's image was kept

    def restarted(self, taken: int, restart: Restart) -> "Origin":
        """A continuation of it: after so many steps, its guess was made noisy again."""
        return Origin(self.noise, (*self.restarts, (taken, restart)), self.draft)

    def to_json(self) -> dict[str, Any]:
        """The content of metadata."""
        found = self.noise.to_json()
        if self.restarts:
            found["restarts"] = [{"after": taken, **restart.to_json()} for taken, restart in self.restarts]
        return found | ({"draft": True} if self.draft else {})


def origin_of(value: Mapping[str, Any]) -> Origin:
    """The origin that `to_json` wrote."""
    turns = [
        (int(one["after"]), Restart(int(one["step"]), _noise_of(one), str(one.get("prompt", ""))))
        for one in value.get("restarts", ())
    ]
    return Origin(_noise_of(value), tuple(turns), bool(value.get("draft")))


def _noise_of(value: Mapping[str, Any]) -> Noise:
    return Noise(int(value["seed"]), tuple((int(seed), float(cosine)) for seed, cosine in value.get("turns", ())))


@dataclass(frozen=True)
class Candidate:
    """A finished image and its score."""

    origin: Origin
    score: float
    picture: Picture | None = field(default=None, compare=False, repr=False)
    guess: Any = field(default=None, compare=False, repr=False)  # the image in the generator's own form


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that left the batch, and what was said of it then."""

    origin: Origin
    step: int
    potential: float


@dataclass
class Found:
    """What the search of a prompt found: finished candidates, and those that were dropped on the way."""

    candidates: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def winner(self) -> Candidate:
        """The candidate with the highest score; the first of equal ones."""
        return max(self.candidates, key=lambda one: one.score)


class Pool(Protocol):
    """Candidates that advance together; rows are their numbers in the order in which they began."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The candidates that are left."""

    @property
    def origins(self) -> Mapping[int, Origin]:
        """Where each candidate that is left came from."""

    @property
    def guesses(self) -> Mapping[int, Any]:
        """What the last step takes for the finished image of each candidate."""

    def advance(self, to: int) -> None:
        """Take steps until so many are done."""

    def read(self) -> dict[int, Reading]:
        """What the judge says of each candidate's preview."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all candidates but these."""

    def finish(self) -> list[Candidate]:
        """Take the steps that are left, decode and score."""


class PromptSearch(Protocol):
    """Generator, judge and budget, as the search of one prompt uses them."""

    @property
    def request(self) -> Request:
        """The prompt, and what it asks for."""

    @property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one candidate."""

    @property
    def left(self) -> int | None:
        """Forward passes that the search of this prompt may still take; None: no limit."""

    @property
    def in_time(self) -> bool:
        """Whether something new may be begun."""

    def start(self, noises: Sequence[Noise]) -> Pool:
        """Begin a candidate per noise."""

    def restart(
        self, origins: Sequence[Origin], guesses: Sequence[Any], restarts: Sequence[Restart], taken: int
    ) -> Pool:
        """Continue guesses that were made noisy again; `taken` steps led to them."""

    def reasons(self, candidate: Candidate) -> list[str]:
        """What the candidate's image lacks, in words that can be added to a prompt; [] if nothing or unknown."""

    def draft(self) -> "PromptSearch":
        """A cheaper generator with the same noises, for the same prompt and budget."""


def affordable(search: PromptSearch, each: int, wanted: int) -> int:
    """How many things of `each` forward passes the budget pays for, at most `wanted`."""
    return wanted if search.left is None else max(0, min(wanted, search.left // each))


def forwards(costs: Sequence[StepCost]) -> int:
    """Forward passes of these steps for one candidate."""
    return sum(cost.forwards for cost in costs)


def best(readings: Mapping[int, float], count: int) -> list[int]:
    """The rows with the highest values, in their own order; of equal ones those that began first."""
    return sorted(sorted(readings, key=lambda row: (-readings[row], row))[:count])
