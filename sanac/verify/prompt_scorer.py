"""Scores variants of one model by images of the user's own prompts; what was scored once is kept.

A verifier scores each image, or its similarity to the whole model's image of the same prompt and noise does.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.judge.halving import SuiteSettings
from sanac.judge.image_metrics import Picture, ms_ssim_distance
from sanac.judge.intervals import FEW_PROMPTS, PromptScore
from sanac.judge.requests import check_requests, requests_of
from sanac.judge.verifier import Request, Verifier
from sanac.judge.words import kind_of
from sanac.nn.generation import GenerationSettings
from sanac.runtime.image_files import read_picture, save_picture
from sanac.runtime.pipeline import DiffusionGenerator
from sanac.search.verifiers import open_kept
from sanac.verify.shapes_suite import noise_seeds

Prepare = Callable[[DiffusionGenerator], int]  # sets a generator up for a variant; returns its number of steps
_SCALES = {"shapes": 0.5}  # factors that bring a verifier's scores to at most 1


@dataclass(frozen=True)
class WholeModel:
    """The model that variants are made from: how it is identified among them, and set up."""

    variant: Any
    prepare: Prepare


@dataclass
class PromptScorer:
    """Scores from 0 to 1 on the user's own prompts, the same noises for all variants."""

    generator: DiffusionGenerator
    settings: SuiteSettings
    file: ConfinedPath  # what was scored before, by a run that was stopped
    key: str
    reporter: Reporter
    whole: WholeModel
    prompts: Sequence[str] = ()
    _verifier: Verifier | None = None
    _requests: Sequence[Request] = ()
    _known: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what a stopped run scored; open the verifier."""
        settings = self.settings
        self.prompts = prompts_for_choices(settings.prompts, settings.images)
        self._requests = requests_of(self.prompts)
        if settings.verifier:
            check_requests([settings.verifier], self._requests)
            self._verifier = open_kept(settings.verifier, self.generator.device, self.file.parent)
        if len(settings.prompts) < FEW_PROMPTS:
            few = f"{len(settings.prompts)} prompts: intervals are too narrow below some {FEW_PROMPTS}"
            self.reporter.note(few)
        if settings.images < len(settings.prompts):
            left_out = f"{settings.images} of {len(settings.prompts)} prompts are used"
            self.reporter.warn(f"{left_out}: --images {len(settings.prompts)} for all of them")
        known = load_cached(self.file, self.key, {"scores": dict})
        self._known = known["scores"] if known else {}

    def scores(self, variant: Any, prepare: Prepare, count: int) -> Sequence[PromptScore]:
        """The scores of the first `count` images of a variant, summed by prompt.

        `variant` identifies it, as JSON; `prepare` sets the generator up for it and returns its number of steps.
        """
        found: dict[str, PromptScore] = {}
        for prompt, score in zip(self.prompts[:count], self._image_scores(variant, prepare, count), strict=False):
            before = found.get(prompt) or PromptScore("prompts", prompt, 0.0, 0)
            found[prompt] = replace(before, right=before.right + score, images=before.images + 1)
        return list(found.values())

    def _image_scores(self, variant: Any, prepare: Prepare, count: int) -> list[float]:
        """The score of each image; known ones are not generated again."""
        name = json_files.key_of(variant)[:16]
        done = self._known.get(name, [])
        if len(done) >= count:
            return done
        if self._verifier is None:
            self._complete_references(count)
            if variant == self.whole.variant:
                return [1.0] * count
        steps = prepare(self.generator)
        while len(done) < count:
            start, stop = len(done), min(count, len(done) + self.settings.batch)
            done = [*done, *self._measured(self._generated(steps, start, stop), start)]
            self._known[name] = done
            store_cached(self.file, {"key": self.key, "scores": self._known})
        return done

    def _generated(self, steps: int, start: int, stop: int) -> list[Picture]:
        settings = self.settings
        sampling = GenerationSettings(steps, settings.guidance, batch=settings.batch)
        seeds = noise_seeds(settings.seed, stop)[start:]
        images = [one for some in self.generator.generate(self.prompts[start:stop], seeds, sampling) for one in some]
        self.reporter.advance(len(images))
        return images

    def _measured(self, images: Sequence[Picture], start: int) -> list[float]:
        """Scores of consecutive images, the first one of number `start`."""
        if self._verifier is None:
            references = [read_picture(self._reference(start + number)) for number in range(len(images))]
            return [1 - ms_ssim_distance(*pair) for pair in zip(images, references, strict=True)]
        scale = _SCALES.get(kind_of(self.settings.verifier), 1.0)
        found = self._verifier.scores(images, self._requests[start : start + len(images)])
        return [min(1.0, max(0.0, scale * score)) for score in found]

    def _complete_references(self, count: int) -> None:
        """Generate the whole model's first `count` images, where they are not there yet."""
        missing = [number for number in range(count) if not self._reference(number).exists()]
        if not missing:
            return
        steps = self.whole.prepare(self.generator)
        self._reference(0).parent.mkdir(parents=True, exist_ok=True)
        for start in range(missing[0], count, self.settings.batch):
            stop = min(count, start + self.settings.batch)
            for number, image in enumerate(self._generated(steps, start, stop), start):
                save_picture(self._reference(number), image, {"prompt": self.prompts[number]})

    def _reference(self, number: int) -> ConfinedPath:
        return self.file.parent / "whole" / f"{number:05}.png"


def prompts_for_choices(prompts: Sequence[str], images: int) -> tuple[str, ...]:
    """The prompt of each image: all in turns, in an order that doesn't depend on the file's.

    The first images are then those of a random sample, also where a file is sorted by subject.
    """
    ordered = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    return tuple(ordered[number % len(ordered)] for number in range(images))
