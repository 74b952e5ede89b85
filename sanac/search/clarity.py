"""Where previews become clear enough to be judged: measured for a model and a judge, kept, and never assumed.

Some candidates of some prompts are generated whole. At every step the potential of their previews is compared with the
score of their finished images: clarity begins at the first step where the mean rank correlation within a prompt is at
least 0.3. Before it, a preview says too little about what becomes of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.core.resources import user_cache
from sanac.judge.rank_statistics import spearman
from sanac.judge.verifier import Request
from sanac.nn.stepwise import Noise, StepwiseGenerator
from sanac.search.judging import SearchJudge

PROMPTS, NOISES = 12, 8
LEAST = 0.3  # rank correlation from which on a preview counts as clear
_SEED = 7_000_003  # of the first noise: none that a user's search begins with by default
_LAST, _BETWEEN = 0.8, 0.1  # shares of all steps: the last look, and the distance of two


@dataclass(frozen=True)
class Clarity:
    """The mean rank correlation of preview and finished image within a prompt, after each step."""

    correlations: tuple[float | None, ...]  # None: no prompt's candidates differ

    @property
    def start(self) -> int:
        """Steps after which previews are clear; the last but one if they never are."""
        clear = [step for step, one in enumerate(self.correlations, 1) if one is not None and one >= LEAST]
        return min([*clear, max(1, len(self.correlations) - 1)])

    @property
    def looks(self) -> tuple[int, ...]:
        """Steps to look after: from the start of clarity to four fifths of all steps, a tenth of them apart."""
        steps = len(self.correlations)
        apart, last = max(1, round(_BETWEEN * steps)), max(self.start, round(_LAST * steps))
        return tuple(step for step in range(self.start, last + 1, apart) if step < steps)


def measure_clarity(
    generator: StepwiseGenerator, judge: SearchJudge, requests: Sequence[Request], batch: int, reporter: Reporter
) -> Clarity:
    """Generate candidates of every request whole, and compare previews with what they became."""
    found: list[list[float]] = [[] for _ in generator.costs]
    reporter.begin("measuring where previews become clear", len(requests), "prompts")
    try:
        for number, request in enumerate(requests):
            noises = [Noise(_SEED + NOISES * number + place) for place in range(NOISES)]
            potential, scores = _watched(generator, judge, request, noises, batch)
            for step, values in enumerate(potential):
                rho = spearman(values, scores)
                found[step] += [] if rho is None else [rho]
            reporter.advance(1)
    finally:
        reporter.end()
    return Clarity(tuple(float(np.mean(one)) if one else None for one in found))


def _watched(
    generator: StepwiseGenerator, judge: SearchJudge, request: Request, noises: Sequence[Noise], batch: int
) -> tuple[list[list[float]], list[float]]:
    """(potential of every candidate after each step, scores of the finished images)."""
    potential: list[list[float]] = [[] for _ in generator.costs]
    scores: list[float] = []
    for start in range(0, len(noises), batch):
        some = noises[start : start + batch]
        images = generator.start([request.prompt] * len(some), some)
        while images.done < images.steps:
            images.advance()
            potential[images.done - 1] += [one.potential for one in judge.read([images], request)]
        scores += judge.score(list(images.finish()), request)
    return potential, scores


def known_clarity(
    generator: StepwiseGenerator,
    judge: SearchJudge,
    requests: Sequence[Request],
    batch: int,
    about: Any,
    reporter: Reporter,
) -> Clarity:
    """The clarity of a model's previews: measured once, and cached by `about` (model, sampler settings) and judge."""
    reader = judge.reader or judge.verifier
    prompts = [request.prompt for request in requests]
    key = json_files.key_of(["clarity", about, judge.verifier.id, reader.id, judge.block, prompts, PROMPTS, NOISES])
    file = ConfinedPath(user_cache()) / "clarity" / f"{key[:16]}.json"
    known = load_cached(file, key, {"correlations": list})
    if known and len(known["correlations"]) == len(generator.costs):
        return Clarity(tuple(known["correlations"]))
    images = len(requests) * NOISES
    reporter.note(f"where previews become clear to {reader.id.partition('@')[0]} is measured once: {images} images")
    found = measure_clarity(generator, judge, requests, batch, reporter)
    store_cached(file, {"key": key, "correlations": list(found.correlations), "start": found.start})
    return found
