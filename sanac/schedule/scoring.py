"""Scores schedules of a model by the images that they generate; what was judged once is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.judge.intervals import PromptScore
from sanac.runtime.pipeline import DiffusionGenerator, GenerationSettings
from sanac.shapes.prompts import Prompt, Split, suite
from sanac.verify.shapes_suite import generate_and_judge, noise_seeds

SPLIT: Split = "tune"  # schedules are chosen on prompts that no score is reported on


@dataclass
class ShapesScorer:
    """Scores of schedules on the shapes suite's tuning prompts, the same noises for all."""

    generator: DiffusionGenerator
    images: int
    guidance: float
    batch: int
    seed: int
    file: ConfinedPath  # what was judged before, by a run that was stopped
    key: str
    reporter: Reporter
    _correct: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what a stopped run judged."""
        known = load_cached(self.file, self.key, {"correct": dict})
        self._correct = known["correct"] if known else {}

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the finalists; candidates are scored on the first ones."""
        return tuple(suite(SPLIT, self.images))

    def __call__(self, schedule: Schedule, count: int) -> Sequence[PromptScore]:
        """The scores of the first `count` prompts."""
        name = _name(schedule)
        done = self._correct.get(name, [])
        if len(done) < count:
            done = [*done, *self._judged(schedule, len(done), count)]
            self._correct[name] = done
            store_cached(self.file, {"key": self.key, "correct": self._correct})
        scores: dict[Prompt, PromptScore] = {}
        for prompt, right in zip(self.prompts[:count], done, strict=False):
            score = scores.get(prompt) or PromptScore(prompt.content.tag, prompt.text, 0.0, 0)
            scores[prompt] = replace(score, right=score.right + right, images=score.images + 1)
        return list(scores.values())

    def _judged(self, schedule: Schedule, start: int, stop: int) -> list[int]:
        """Whether each image of the prompts from `start` to `stop` is right."""
        self.generator.follow(schedule)
        sampling = GenerationSettings(schedule.steps, self.guidance, batch=self.batch)
        seeds = noise_seeds(self.seed, self.images)[start:stop]
        _, results = generate_and_judge(self.generator, self.prompts[start:stop], seeds, sampling, NULL_REPORTER)
        self.reporter.advance(stop - start)
        return [int(result.correct) for result in results]


def _name(schedule: Schedule) -> str:
    """A short name of a schedule's content."""
    content: dict[str, Any] = schedule.to_json()
    return json_files.key_of(content)[:16]
