"""Scores variants of one model by the images that they generate; what was judged once is kept.

Variants are schedules, or subsets of blocks with a repair: whatever one opened pipeline can be set to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.judge.halving import SuiteSettings
from sanac.judge.intervals import Interval, PromptScore, wilson
from sanac.nn.generation import GenerationSettings
from sanac.nn.guidance import usual_steps
from sanac.nn.pipeline_config import noise_levels
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.shapes.prompts import Prompt, choosing_suite, suite, unseen_suite
from sanac.verify.prompt_scorer import Prepare, PromptScorer, WholeModel
from sanac.verify.shapes_suite import generate_and_judge, noise_seeds

if TYPE_CHECKING:
    from torch import Tensor


class VariantScorer(Protocol):
    """Scores variants of one model, the same prompts and noises for all."""

    def scores(self, variant: Any, prepare: Prepare, count: int) -> Sequence[PromptScore]:
        """The scores of the first `count` images of a variant, by prompt.

        `variant` identifies it, as JSON; `prepare` sets the generator up for it and returns its number of steps.
        """


@dataclass
class SuiteScorer:
    """Scores on the shapes world's prompts for choices, the same noises for all variants."""

    generator: DiffusionGenerator
    settings: SuiteSettings
    file: ConfinedPath  # what was judged before, by a run that was stopped
    key: str
    reporter: Reporter
    prompts: Sequence[tuple[str, Prompt]] = ()  # with their tasks
    _correct: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what a stopped run judged."""
        images = self.settings.images
        familiar = [(prompt.content.tag, prompt) for prompt in suite("tune", images)]
        self.prompts = choosing_suite(images) if self.settings.unseen else familiar
        known = load_cached(self.file, self.key, {"correct": dict})
        self._correct = known["correct"] if known else {}

    def scores(self, variant: Any, prepare: Prepare, count: int) -> Sequence[PromptScore]:
        """The scores of the first `count` images of a variant."""
        done = self._answers(json_files.key_of(variant)[:16], self.prompts[:count], prepare)
        scores: dict[Prompt, PromptScore] = {}
        for (task, prompt), right in zip(self.prompts[:count], done, strict=False):
            score = scores.get(prompt) or PromptScore(task, prompt.text, 0.0, 0)
            scores[prompt] = replace(score, right=score.right + right, images=score.images + 1)
        return list(scores.values())

    def unseen(self, variant: Any, prepare: Prepare, count: int) -> Interval:
        """The share of right images of contents that training never saw, none of which decides a choice."""
        prompts = [("", prompt) for prompt in unseen_suite(count, "tune")]
        done = self._answers(f"{json_files.key_of(variant)[:16]} unseen", prompts, prepare)
        return wilson(sum(done[:count]), count)

    def _answers(self, name: str, prompts: Sequence[tuple[str, Prompt]], prepare: Prepare) -> list[int]:
        """Whether the image of each prompt is right; known ones are not generated again."""
        done = self._correct.get(name, [])
        if len(done) < len(prompts):
            steps, settings = prepare(self.generator), self.settings
            sampling = GenerationSettings(steps, settings.guidance, batch=settings.batch)
            missing = [prompt for _, prompt in prompts[len(done) :]]
            seeds = noise_seeds(settings.seed, len(prompts))[len(done) :]
            _, results = generate_and_judge(self.generator, missing, seeds, sampling, NULL_REPORTER)
            self.reporter.advance(len(missing))
            self._correct[name] = done = [*done, *(int(result.correct) for result in results)]
            store_cached(self.file, {"key": self.key, "correct": self._correct})
        return done


@dataclass
class SubsetScorer:
    """Scores a model without some of its blocks, with changes of the remaining weights."""

    model: Model
    generator: DiffusionGenerator
    settings: SuiteSettings
    file: ConfinedPath
    key: str
    reporter: Reporter
    _own: dict[str, "Tensor"] = field(default_factory=dict)  # the model's weights, where a subset changed them

    @cached_property
    def suite(self) -> VariantScorer:
        """What scores the images: the shapes suite, or the user's prompts beside those of all blocks."""
        how = (self.generator, self.settings, self.file, self.key, self.reporter)
        if not self.settings.prompts:
            return SuiteScorer(*how)
        blocks = range(self.model.architecture.blocks)
        return PromptScorer(*how, WholeModel([[*blocks], []], lambda generator: self._prepare(generator, blocks, {})))

    def __call__(self, kept: Sequence[int], changes: Mapping[str, "Tensor"], count: int) -> Sequence[PromptScore]:
        """The scores of the first `count` images with the blocks `kept`."""

        def prepare(generator: DiffusionGenerator) -> int:
            return self._prepare(generator, kept, changes)

        return self.suite.scores([list(kept), sorted(changes)], prepare, count)

    def _prepare(self, generator: DiffusionGenerator, kept: Sequence[int], changes: Mapping[str, "Tensor"]) -> int:
        state = generator.pipeline.transformer.state_dict()
        self._own |= {name: state[name].clone() for name in changes if name not in self._own}
        changed = {name: self._own[name] + change.to(self._own[name]) for name, change in changes.items()}
        generator.load_weights(self._own | changed)
        blocks, steps = self.model.architecture.blocks, usual_steps(self.model)
        order = (*kept, *(index for index in range(blocks) if index not in kept))
        levels = noise_levels(self.model, steps)
        inside = self.model.schedule.guidance_inside if self.model.schedule else None
        generator.follow(Schedule(order, levels, (len(kept),) * steps, (inside is None,) * steps, inside))
        return steps


def subset_scorer(
    model: Model, settings: SuiteSettings, file: ConfinedPath, key: str, device: str | None, reporter: Reporter
) -> SubsetScorer:
    """The scorer of subsets of a model's blocks."""
    generator = open_generator(model, device, reporter=reporter, scheduled=False)
    return SubsetScorer(model, generator, settings, file, key, reporter)
