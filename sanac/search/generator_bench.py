"""Search with a real generator: candidates in micro-batches, scored by a judge, paid from a budget, kept as files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sanac.judge.verifier import Picture, Reading, Request
from sanac.nn.stepwise import ImagesInProgress, Noise, StepCost, StepwiseGenerator
from sanac.search.judging import SearchJudge
from sanac.search.pool import Bench, Candidate, Origin, Pool, Restart

Keep = Callable[[Candidate], None]  # what is done with each finished image
Known = Callable[[Origin], Picture | None]  # the image of an earlier run


@dataclass
class GeneratorPool:
    """Candidates of one prompt in batches of the generator."""

    bench: "GeneratorBench"
    parts: list[ImagesInProgress]
    firsts: list[int]  # row of the first candidate of each batch
    origins: dict[int, Origin]
    step: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """The candidates that are left."""
        return tuple(first + row for part, first in self._batches for row in part.rows)

    @property
    def done(self) -> int:
        """Steps that were taken."""
        return self.step

    @property
    def guesses(self) -> Mapping[int, Any]:
        """The guess of each candidate's finished image."""
        return {
            first + row: guess
            for part, first in self._batches
            for row, guess in zip(part.rows, part.guesses, strict=True)
        }

    @property
    def _batches(self) -> list[tuple[ImagesInProgress, int]]:
        return list(zip(self.parts, self.firsts, strict=True))

    def advance(self, to: int) -> None:
        """Take steps until so many are done."""
        for part in self.parts:
            while part.rows and part.done < to:
                part.advance()
        self.step = max(self.step, to)

    def read(self) -> dict[int, Reading]:
        """What the judge says of each preview."""
        found: dict[int, Reading] = {}
        for part, first in self._batches:
            readings = self.bench.judge.read(part, self.bench.request)
            found |= {first + row: reading for row, reading in zip(part.rows, readings, strict=True)}
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all candidates but these."""
        for part, first in self._batches:
            part.keep([row for row in part.rows if first + row in rows])
        self.origins = {row: self.origins[row] for row in rows}

    def finish(self) -> list[Candidate]:
        """Finish batch by batch, score, and keep the files."""
        found: list[Candidate] = []
        for part, first in self._batches:
            pictures = list(part.finish())
            scores = self.bench.judge.score(pictures, self.bench.request)
            for row, picture, score, guess in zip(part.rows, pictures, scores, part.guesses, strict=True):
                candidate = Candidate(self.origins[first + row], score, picture, guess)
                self.bench.keep(candidate)
                found.append(candidate)
        return found


@dataclass
class GeneratorBench:
    """Generator, judge and budget of one prompt."""

    request: Request
    generator: StepwiseGenerator
    judge: SearchJudge
    batch: int
    allowed: int | None = None  # forward passes, of both generators
    clock: Callable[[], bool] = lambda: True  # whether there is time left
    keep: Keep = lambda _: None
    drafting: StepwiseGenerator | None = None
    _start: int = field(init=False)

    def __post_init__(self) -> None:
        """Note what was spent for other prompts."""
        self._start = self._spent

    @property
    def _spent(self) -> int:
        drafted = self.drafting.spent.forwards if self.drafting else 0
        return self.generator.spent.forwards + drafted

    @property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one candidate."""
        return self.generator.costs

    @property
    def left(self) -> int | None:
        """Forward passes that may still be taken; what was taken is counted in the model."""
        return None if self.allowed is None else self.allowed - (self._spent - self._start)

    @property
    def in_time(self) -> bool:
        """Whether something new may be begun."""
        return self.clock()

    def start(self, noises: Sequence[Noise]) -> Pool:
        """Begin a candidate per noise."""
        return self._pool([Origin(noise) for noise in noises], lambda some: self._begin(noises[some]))

    def _begin(self, noises: Sequence[Noise]) -> ImagesInProgress:
        return self.generator.start([self.request.prompt] * len(noises), noises)

    def restart(
        self, origins: Sequence[Origin], guesses: Sequence[Any], restarts: Sequence[Restart], taken: int
    ) -> Pool:
        """Continue guesses that were made noisy again."""
        found = [origin.restarted(taken, one) for origin, one in zip(origins, restarts, strict=True)]
        step = restarts[0].step

        def begin(some: slice) -> ImagesInProgress:
            prompts = [one.prompt or self.request.prompt for one in restarts[some]]
            return self.generator.restart(prompts, guesses[some], [one.noise for one in restarts[some]], step)

        return self._pool(found, begin, step)

    def _pool(self, origins: Sequence[Origin], begin: Callable[[slice], ImagesInProgress], step: int = 0) -> Pool:
        firsts = list(range(0, len(origins), self.batch))
        parts = [begin(slice(first, first + self.batch)) for first in firsts]
        return GeneratorPool(self, parts, firsts, dict(enumerate(origins)), step)

    def reasons(self, candidate: Candidate) -> list[str]:
        """What the candidate's image lacks."""
        assert candidate.picture is not None
        return self.judge.reasons(candidate.picture, self.request)

    def draft(self) -> Bench:
        """The cheaper generator, paid from the same budget."""
        assert self.drafting is not None
        return GeneratorBench(self.request, self.drafting, self.judge, self.batch, None, self.clock, self.keep)
