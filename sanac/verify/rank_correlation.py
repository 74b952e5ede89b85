"""Rank correlation of two models over the same noises: if high, the cheaper one can pick noises for the better one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.check import Check
from sanac.core.progress import Reporter
from sanac.judge.intervals import Interval, mean
from sanac.judge.rank_statistics import kendall, overlap, spearman
from sanac.judge.shapes import grades
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.shapes.prompts import Prompt, suite

KENDALL, SPEARMAN, LOW = "Kendall's tau", "Spearman's rho", "Kendall's tau, lower bound"
VERIFIERS: dict[str, Callable[[Prompt, Sequence[NDArray[np.generic]]], list[float]]] = {"shapes": grades}
_PROMPTS: dict[str, Callable[[int], tuple[Prompt, ...]]] = {"shapes": lambda count: tuple(suite("test", count))}


@dataclass(frozen=True, slots=True)
class RankSettings:
    """Number of prompts and noises, the sampling settings of both models, and the limit."""

    reference: GenerationSettings
    candidate: GenerationSettings
    verifier: str = "shapes"
    prompts: int = 24
    noises: int = 16
    tops: tuple[int, ...] = (1, 4)
    least: float | None = None  # minimum of the lower bound of Kendall's tau
    seed: int = 0


@dataclass(frozen=True)
class RankReport:
    """Rank correlations with intervals over prompts, and the grades behind them."""

    correlations: dict[str, Interval]
    chance: dict[str, float]  # expected values for unrelated rankings
    undecided: int  # prompts for which a model's noises all get the same grade
    grades: tuple[tuple[list[float], list[float]], ...]  # per prompt: (reference, candidate) grades of all noises
    prompts: tuple[str, ...]
    settings: RankSettings

    @property
    def figure(self) -> Check | None:
        """Check of Kendall's tau; None without a limit."""
        if self.settings.least is None:
            return None
        low = self.correlations[KENDALL].low if KENDALL in self.correlations else -1.0
        return Check(LOW, low, self.settings.least, most=False)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        figure = self.figure
        both = zip(self.prompts, self.grades, strict=True)
        return {
            "verifier": self.settings.verifier,
            "noises": self.settings.noises,
            "undecided": self.undecided,
            "correlations": {name: found.to_json() for name, found in self.correlations.items()},
            "chance": self.chance,
            "figures": [figure.to_json()] if figure else [],
            "sampling": {
                "reference": self.settings.reference.to_json(),
                "candidate": self.settings.candidate.to_json(),
            },
            "prompts": [{"prompt": prompt, "reference": r, "candidate": c} for prompt, (r, c) in both],
        }


def rank(
    candidate: ImageGenerator, reference: ImageGenerator, settings: RankSettings, reporter: Reporter
) -> RankReport:
    """Generate images with both models from the same prompts and noises, grade them, and correlate the rankings."""
    prompts = _PROMPTS[settings.verifier](settings.prompts)
    reporter.begin("generating", 2 * len(prompts) * settings.noises, "images")
    try:
        theirs = _graded(reference, prompts, settings.reference, settings, reporter)
        ours = _graded(candidate, prompts, settings.candidate, settings, reporter)
    finally:
        reporter.end()
    pairs = tuple(zip(theirs, ours, strict=True))
    measures: dict[str, Callable[[list[float], list[float]], float | None]] = {KENDALL: kendall, SPEARMAN: spearman}
    found = {name: [measure(*pair) for pair in pairs] for name, measure in measures.items()}
    undecided = sum(value is None for value in found[KENDALL])
    decided = [pair for pair, value in zip(pairs, found[KENDALL], strict=True) if value is not None]
    tops: dict[str, list[float | None]] = {
        f"top {top} in common": [overlap(*pair, top) for pair in decided] for top in settings.tops
    }
    numbers = {name: [value for value in values if value is not None] for name, values in {**found, **tops}.items()}
    correlations = {name: mean(values, seed=settings.seed) for name, values in numbers.items() if values}
    chance = {KENDALL: 0.0, SPEARMAN: 0.0} | {f"top {top} in common": top / settings.noises for top in settings.tops}
    return RankReport(correlations, chance, undecided, pairs, tuple(prompt.text for prompt in prompts), settings)


def _graded(
    generator: ImageGenerator,
    prompts: Sequence[Prompt],
    sampling: GenerationSettings,
    settings: RankSettings,
    reporter: Reporter,
) -> list[list[float]]:
    """Grades of a model's images, per prompt over its noises."""
    texts = [prompt.text for prompt in prompts for _ in range(settings.noises)]
    seeds = [settings.seed * 1_000_003 + number for number in range(len(texts))]
    pictures = [picture for batch in generator.generate(texts, seeds, sampling, reporter) for picture in batch]
    grade = VERIFIERS[settings.verifier]
    parts = (pictures[start : start + settings.noises] for start in range(0, len(pictures), settings.noises))
    return [grade(prompt, part) for prompt, part in zip(prompts, parts, strict=True)]
