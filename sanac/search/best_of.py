"""Best of N: as many candidates of every prompt as asked for or paid for, each scored alone; the best one wins.

Scores are pointwise, so N calls of the verifier and a sort give the true order; a tournament would take twice as many.
Candidates are files, and scores are kept beside them: a search that was stopped goes on where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.progress import Reporter
from sanac.judge.verifier import Request, Verifier
from sanac.runtime.generate import PlannedPicture, write_picture
from sanac.runtime.image_files import read_picture
from sanac.runtime.pipeline import GenerationSettings, ImageGenerator
from sanac.search.budget import Budget

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Candidate:
    """An image of a prompt, and its score."""

    planned: PlannedPicture
    picture: Picture
    score: float


@dataclass(frozen=True)
class Ranking:
    """The candidates of one prompt, the best first; equal scores in the order of their seeds."""

    request: Request
    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Candidate:
        """The best candidate."""
        return self.candidates[0]


def rank_candidates(
    generator: ImageGenerator,
    requests: Sequence[Request],
    planned: Sequence[Sequence[PlannedPicture]],
    sampling: GenerationSettings,
    verifier: Verifier,
    budget: Budget,
    each: int,
    reporter: Reporter,
) -> list[Ranking]:
    """Generate and score the candidates of each prompt, in turns over the prompts until the budget is spent.

    `each` is the number of forward passes of an image. Candidates whose files exist count as spent. The first one of
    each prompt is made however long that takes: a limit of time ends what is begun after them.
    """
    order = [one for turn in zip(*planned, strict=True) for one in turn]
    order = order[: budget.affordable(each, len(order))]
    pictures = _pictures(generator, order, len(planned), sampling, budget, each, reporter)
    found = []
    for request, mine in zip(requests, planned, strict=True):
        made = [one for one in mine if one.path in pictures]
        images = [pictures[one.path] for one in made]
        scores = verifier.scores(images, [request] * len(images))
        budget.verifier_calls += len(images)
        candidates = [Candidate(*one) for one in zip(made, images, scores, strict=True)]
        found.append(Ranking(request, tuple(sorted(candidates, key=lambda one: (-one.score, one.planned.seed)))))
    return found


def _pictures(
    generator: ImageGenerator,
    order: Sequence[PlannedPicture],
    needed: int,
    sampling: GenerationSettings,
    budget: Budget,
    each: int,
    reporter: Reporter,
) -> dict[Any, Picture]:
    """The image of each planned picture: read if it was made before, else generated and written, batch by batch.

    Out of time, the first `needed` ones are made nevertheless.
    """
    found: dict[Any, Picture] = {}
    reporter.begin("generating", len(order), "images")
    try:
        for start in range(0, len(order), sampling.batch):
            some = order[start : start + sampling.batch]
            missing = [one for one in some if not one.path.exists()]
            if missing and start >= needed and not budget.in_time:
                break
            if missing:
                prompts, seeds = [one.prompt for one in missing], [one.seed for one in missing]
                images = [image for batch in generator.generate(prompts, seeds, sampling) for image in batch]
                for one, image in zip(missing, images, strict=True):
                    write_picture(one, image)
                    found[one.path] = image
            found |= {one.path: read_picture(one.path) for one in some if one.path not in found}
            budget.forwards += each * len(some)
            budget.decodes += len(some)
            reporter.advance(len(some))
    finally:
        reporter.end()
    return found


def winners(rankings: Sequence[Ranking], out: Path, about: Mapping[str, Any]) -> list[PlannedPicture]:
    """The winners' files in `out`, with the search in their metadata."""
    found = []
    for ranking in rankings:
        best = ranking.winner
        search = {**about, "score": best.score, "candidates": len(ranking.candidates)}
        path = out / Path(best.planned.path).name
        found.append(replace(best.planned, path=path, metadata={**best.planned.metadata, "search": search}))
    return found
