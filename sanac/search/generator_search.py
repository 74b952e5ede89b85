"""Search with a real generator: candidates in micro-batches, scored by a judge, paid from a budget, kept as files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sanac.judge.verifier import Picture, Reading, Request
from sanac.nn.stepwise import ImagesInProgress, Noise, StepCost, StepwiseGenerator
from sanac.search.judging import SearchJudge
from sanac.search.pool import Candidate, Origin, Pool, PromptSearch, Restart, forwards

Keep = Callable[[Origin, Picture], None]  # what is done with each finished image
Known = Callable[[Origin], Picture | None]  # the image of an earlier run


@dataclass
class GeneratorPool:
    """Candidates of one prompt in batches of the generator; some may be finished from an earlier run."""

    search: "GeneratorSearch"
    parts: list[tuple[ImagesInProgress, list[int]]]  # with the candidates' rows
    origins: dict[int, Origin]
    ready: dict[int, Picture] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...]:
        """The candidates that are left."""
        return tuple(sorted([*self.ready, *(rows[row] for part, rows in self.parts for row in part.rows)]))

    @property
    def guesses(self) -> Mapping[int, Any]:
        """The guess of each candidate's finished image."""
        pairs = ((part, rows, zip(part.rows, part.guesses, strict=True)) for part, rows in self.parts)
        return {rows[row]: guess for _, rows, guesses in pairs for row, guess in guesses}

    def advance(self, to: int) -> None:
        """Take steps until so many are done."""
        for part, _ in self.parts:
            while part.rows and part.done < to:
                part.advance()

    def read(self) -> dict[int, Reading]:
        """What the judge says of each preview."""
        readings = self.search.judge.read([part for part, _ in self.parts if part.rows], self.search.request)
        numbers = [rows[row] for part, rows in self.parts for row in part.rows]
        return dict(zip(numbers, readings, strict=True))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all candidates but these."""
        for part, numbers in self.parts:
            part.keep([row for row in part.rows if numbers[row] in rows])
        self.ready = {row: picture for row, picture in self.ready.items() if row in rows}
        self.origins = {row: self.origins[row] for row in rows}

    def finish(self) -> list[Candidate]:
        """Finish batch by batch, keep the files, and score all together."""
        found: dict[int, tuple[Picture, Any]] = {row: (picture, None) for row, picture in self.ready.items()}
        for part, rows in self.parts:
            pictures = part.finish()
            for row, picture, guess in zip(part.rows, pictures, part.guesses, strict=True):
                self.search.keep(self.origins[rows[row]], picture)
                found[rows[row]] = picture, guess
        order = sorted(found)
        scores = self.search.judge.score([found[row][0] for row in order], self.search.request)
        return [Candidate(self.origins[row], score, *found[row]) for row, score in zip(order, scores, strict=True)]


@dataclass
class GeneratorSearch:
    """Generator, judge and budget of one prompt."""

    request: Request
    generator: StepwiseGenerator
    judge: SearchJudge
    batch: int
    allowed: int | None = None  # forward passes, of both generators
    clock: Callable[[], bool] = lambda: True  # whether there is time left
    keep: Keep = lambda *_: None
    known: Known = lambda _: None
    drafting: StepwiseGenerator | None = None
    drafts: bool = False  # whether its images are drafts
    paid: int = 0  # forward passes of images that an earlier run finished
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
        """Forward passes that may still be taken; what is taken is counted in the model."""
        return None if self.allowed is None else self.allowed - self.paid - (self._spent - self._start)

    @property
    def in_time(self) -> bool:
        """Whether something new may be begun."""
        return self.clock()

    def start(self, noises: Sequence[Noise]) -> Pool:
        """Begin a candidate per noise; one that an earlier run finished is ready, and paid for."""
        origins = [Origin(noise, draft=self.drafts) for noise in noises]
        pictures = [self.known(origin) for origin in origins]
        ready = {row: picture for row, picture in enumerate(pictures) if picture is not None}
        self.paid += len(ready) * forwards(self.costs)
        rows = [row for row in range(len(noises)) if row not in ready]

        def begin(some: Sequence[int]) -> ImagesInProgress:
            return self.generator.start([self.request.prompt] * len(some), [noises[row] for row in some])

        return GeneratorPool(self, self._parts(rows, begin), dict(enumerate(origins)), ready)

    def restart(
        self, origins: Sequence[Origin], guesses: Sequence[Any], restarts: Sequence[Restart], taken: int
    ) -> Pool:
        """Continue guesses that were made noisy again."""
        found = [origin.restarted(taken, one) for origin, one in zip(origins, restarts, strict=True)]
        step = restarts[0].step

        def begin(some: Sequence[int]) -> ImagesInProgress:
            prompts = [restarts[row].prompt or self.request.prompt for row in some]
            chosen = [guesses[row] for row in some]
            return self.generator.restart(prompts, chosen, [restarts[row].noise for row in some], step)

        parts = self._parts(range(len(found)), begin)
        return GeneratorPool(self, parts, dict(enumerate(found)))

    def _parts(
        self, rows: Sequence[int], begin: Callable[[Sequence[int]], ImagesInProgress]
    ) -> list[tuple[ImagesInProgress, list[int]]]:
        batches = [list(rows[first : first + self.batch]) for first in range(0, len(rows), self.batch)]
        return [(begin(batch), batch) for batch in batches]

    def reasons(self, candidate: Candidate) -> list[str]:
        """What the candidate's image lacks."""
        assert candidate.picture is not None
        return self.judge.reasons(candidate.picture, self.request)

    def draft(self) -> PromptSearch:
        """The cheaper generator, paid from the same budget."""
        assert self.drafting is not None
        return GeneratorSearch(
            self.request, self.drafting, self.judge, self.batch, clock=self.clock, keep=self.keep, drafts=True
        )
