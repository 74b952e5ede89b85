"""Decides a comparison before anything is generated: prompts, noises, steps, whether to score, and the content key."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sanac.core import json_files
from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model
from sanac.core.confined import AnyPath
from sanac.core.errors import UsageError
from sanac.nn.calibration.prompts import default_prompts, is_shapes_vocabulary, read_prompts
from sanac.nn.device import pick_device
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import vocabulary_of
from sanac.runtime.generate import PlannedPicture, file_name, model_metadata, plan_pictures
from sanac.runtime.pipeline import sampling_of
from sanac.shapes.prompts import suite
from sanac.verify.settings import CompareSettings

SCHEMA = 1  # of compare.json: raised when the same settings would give other figures
PROMPTS, _IMAGES = 4, 64  # defaults


@dataclass(frozen=True)
class ComparisonPlan:
    """Everything that a comparison depends on."""

    models: tuple[Model, ...]
    names: tuple[str, ...]  # labels, all different
    prompts: tuple[str, ...]
    images: int  # of the scored suite; 0: none
    device: str
    settings: CompareSettings

    @cached_property
    def key(self) -> str:
        """The content key."""
        settings = self.settings
        samplings = [self.sampling(model).to_json() for model in self.models]
        models = [[name, model.identity()] for name, model in zip(self.names, self.models, strict=True)]
        seeds = [settings.seed, settings.prompts_split if self.images else ""]
        return json_files.key_of(["compare", SCHEMA, models, self.prompts, samplings, self.images, seeds, self.device])

    def sampling(self, model: Model, batch: int = 1) -> GenerationSettings:
        """Sampler settings of a model; pictures of the sheet are generated one by one, which times them."""
        typed = "guidance" in self.settings.typed
        return sampling_of(model, self.settings.steps, self.settings.guidance, guidance_typed=typed, batch=batch)

    @cached_property
    def folder_names(self) -> tuple[str, ...]:
        """The folder of each model's pictures: its label as a file name."""
        found: list[str] = []
        for name in map(file_name, self.names):
            found.append(name if name not in found else f"{name}-{len(found) + 1}")
        return tuple(found)

    def pictures(self, home: AnyPath) -> tuple[list[PlannedPicture], ...]:
        """The pictures of each model, in folders below `home`."""
        return tuple(
            plan_pictures(
                self.prompts, 1, self.settings.seed, home / folder, model_metadata(model, self.sampling(model))
            )
            for model, folder in zip(self.models, self.folder_names, strict=True)
        )


def plan_comparison(words: Sequence[str], models: Sequence[Model], settings: CompareSettings) -> ComparisonPlan:
    """Check everything that can be checked without loading weights."""
    _check_models(models)
    shapes = [is_shapes_vocabulary(vocabulary_of(model)) for model in models]
    images = settings.images if settings.images is not None else _IMAGES if all(shapes) else 0
    if images and not all(shapes):
        stranger = models[shapes.index(False)].located.name
        raise UsageError(
            f"{stranger} can't be scored with the shapes suite",
            why="its tokenizer doesn't have the vocabulary of the shapes world",
            hint="--images 0 compares without a score",
        )
    prompts = _prompts(settings, shapes=all(shapes))
    names = [model.located.name for model in models]
    labels = [word if names.count(name) > 1 else name for word, name in zip(words, names, strict=True)]
    return ComparisonPlan(tuple(models), tuple(labels), prompts, images, pick_device(settings.device), settings)


def check_words(words: Sequence[str]) -> None:
    """UsageError for fewer than two models, or one that is named twice."""
    if len(words) < 2:
        raise UsageError(
            "there is nothing to compare",
            why="compare needs two models or more",
            hint=f"sanac compare {words[0] if words else 'A'} OTHER",
        )
    if twice := [word for word in dict.fromkeys(words) if words.count(word) > 1]:
        raise UsageError(f"{twice[0]} is named twice", hint="name every model once")


def _check_models(models: Sequence[Model]) -> None:
    places = [model.located.path for model in models]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise UsageError(f"{twice} is named twice", hint="name every model once")
    for model in models:
        check_complete(model)


def _prompts(settings: CompareSettings, *, shapes: bool) -> tuple[str, ...]:
    if settings.prompt:
        return settings.prompt
    count = settings.num_prompts
    if settings.prompts is not None:
        found = read_prompts(settings.prompts)
        if count is not None and count > len(found):
            raise UsageError(f"--num-prompts {count}: {settings.prompts} has only {len(found)}")
        return tuple(dict.fromkeys(found[:count]))
    count = count or PROMPTS
    if shapes:
        return tuple(prompt.text for prompt in suite(settings.prompts_split, count))
    return tuple(default_prompts(count)[0])
