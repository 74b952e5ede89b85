"""Searches prompts one after the other with one plan and one budget; what was found is kept in a journal.

A search that was stopped goes on behind the last prompt in the journal; best-of also finds the candidates of the prompt
that it was in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.verifier import Picture, Request
from sanac.nn.stepwise import Noise, StepwiseGenerator
from sanac.search.budget import COUNTED, Budget
from sanac.search.generator_search import GeneratorSearch, Keep, Known
from sanac.search.judging import SearchJudge
from sanac.search.pool import Candidate, Dropped, Found, Origin, forwards, origin_of
from sanac.search.strategies import SearchPlan

Counts = Mapping[str, int]


@dataclass
class Searcher:
    """Generator, judge, plan and budget of a search."""

    generator: StepwiseGenerator
    judge: SearchJudge
    plan: SearchPlan
    budget: Budget = field(default_factory=Budget)
    drafting: StepwiseGenerator | None = None

    def check(self, images: int) -> None:
        """UsageError if the budget doesn't pay for so many images."""
        self.budget.check(forwards(self.generator.costs), images)

    def search(
        self,
        request: Request,
        seeds: Sequence[int],
        prompts: int,
        keep: Keep = lambda *_: None,
        known: Known = lambda _: None,
    ) -> tuple[Found, Counts]:
        """Search one prompt, the next of so many that are left, with the noises of these seeds.

        `keep` gets every finished candidate, `known` gives the image of one that is finished already.
        """
        before = self._counts
        search = GeneratorSearch(
            request,
            self.generator,
            self.judge,
            self.plan.batch,
            self.budget.allowed(prompts),
            lambda: self.budget.in_time,
            keep,
            known if self.plan.strategy == "best-of" else lambda _: None,
            self.drafting,
        )
        found = self.plan.run(search, list(map(Noise, seeds)))
        if not found.candidates:
            raise UsageError(f"the budget pays for no image of {request.prompt!r}", hint="a larger --max-forwards")
        if self.judge.relative:  # ranks among all candidates, not among those of a batch
            found.candidates = self.judge.rescored(found.candidates, request)
        spent = {name: count - before[name] for name, count in self._counts.items()}
        ready = search.paid // forwards(self.generator.costs)
        spent["forwards"] += search.paid
        spent["block_forwards"] += ready * sum(cost.block_forwards for cost in self.generator.costs)
        spent["decodes"] += ready
        self.budget.add(spent)
        return found, spent

    @property
    def _counts(self) -> dict[str, int]:
        generators = [one for one in (self.generator, self.drafting) if one]
        counts = {name: sum(getattr(one.spent, name) for one in generators) for name in COUNTED[:3]}
        return counts | {"verifier_calls": self.judge.calls}


@dataclass
class SearchJournal:
    """What the search of each prompt found, in a file that survives a stop."""

    file: ConfinedPath
    key: str
    _known: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the prompts that were searched with the same key; a line that was cut off is none."""
        if not self.file.is_file():
            return
        for line in self.file.read_bytes().splitlines():
            try:
                found = json_files.parse_object(line, "it")
                number = found["number"]
            except (InvalidInput, KeyError):
                continue
            if found.get("key") == self.key and isinstance(number, int):
                self._known[number] = found

    def get(
        self, number: int, about: Mapping[str, Any], read: Callable[[Origin], Picture | None]
    ) -> tuple[Found, Counts] | None:
        """What was found for prompt `number`; None if it wasn't searched, or not like this, or an image is missing.

        `about` is what the search of the prompt depends on besides the key: the prompt, its seeds, its budget.
        """
        entry = self._known.get(number)
        if entry is None or entry.get("about") != about:
            return None
        try:
            origins = [origin_of(one["origin"]) for one in entry["candidates"]]
            scores = [float(one["score"]) for one in entry["candidates"]]
            dropped = [
                Dropped(origin_of(one["origin"]), int(one["step"]), float(one["potential"])) for one in entry["dropped"]
            ]
            spent = {name: int(entry["spent"][name]) for name in COUNTED}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None
        pictures = [read(origin) for origin in origins]
        if not pictures or any(picture is None for picture in pictures):
            return None
        candidates = [Candidate(*one) for one in zip(origins, scores, pictures, strict=True)]
        return Found(candidates, dropped), spent

    def put(self, number: int, about: Mapping[str, Any], found: Found, spent: Counts) -> None:
        """Append what was found for a prompt."""
        entry = {"key": self.key, "number": number, "about": about, **found_json(found), "spent": dict(spent)}
        with self.file.open("ab") as file:  # the line before may have been cut off
            file.write(b"\n" + json.dumps(entry, allow_nan=False).encode() + b"\n")


def found_json(found: Found) -> dict[str, Any]:
    """Candidates, the best first, and what was dropped, as JSON."""
    ranked = sorted(found.candidates, key=lambda one: -one.score)
    return {
        "candidates": [{"origin": one.origin.to_json(), "score": one.score} for one in ranked],
        "dropped": [
            {"origin": one.origin.to_json(), "step": one.step, "potential": one.potential} for one in found.dropped
        ],
    }
