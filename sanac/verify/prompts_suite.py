"""The prompts suite: images of the user's own prompts, of a model and of a reference, from the same noises.

Images are files in a folder per model, settings, backend and kind of device. What is there already isn't generated
again; images of anything else are in another folder.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.progress import Reporter
from sanac.core.units import duration_text
from sanac.judge.image_metrics import Picture
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.runtime.backends import exported_identity
from sanac.runtime.generate import (
    PlannedPicture,
    file_name,
    model_metadata,
    plan_pictures,
    refuse_replacing,
    write_picture,
)
from sanac.runtime.image_files import read_picture
from sanac.verify.suite_generator import spent_text

Opener = Callable[[int], ImageGenerator]  # by the number of images that are missing
_LONG = 60.0  # seconds from which on an estimate is given


@dataclass(frozen=True)
class ModelPictures:
    """The images of one model: how they are generated, and their files."""

    model: AnyModel
    sampling: GenerationSettings
    backend: str
    device: str
    planned: tuple[PlannedPicture, ...]  # by prompt, then by noise
    opened: Opener

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.located.name

    @property
    def missing(self) -> list[PlannedPicture]:
        """What is not generated yet."""
        return [one for one in self.planned if not one.path.exists()]

    def read(self, start: int, stop: int) -> list[Picture]:
        """The images from `start` to `stop`."""
        return [read_picture(one.path) for one in self.planned[start:stop]]


def plan_model_pictures(
    model: AnyModel,
    sampling: GenerationSettings,
    backend: str,
    device: str,
    prompts: Sequence[str],
    each: int,
    seed: int,
    home: ConfinedPath,
    opened: Opener,
    search: Mapping[str, Any],
) -> ModelPictures:
    """The images of a model, in a folder of `home`; UsageError if a file there is of something else.

    `search` is what they depend on where each is the winner of a search.
    """
    shared = model_metadata(model, sampling, backend)
    shared["settings"] |= search
    about: list[Any] = [
        model.identity(),
        sampling.to_json(),
        backend,
        exported_identity(model, backend) if isinstance(model, Model) else "",
    ]
    about += [device.partition(":")[0], model.schedule.to_json() if model.schedule else None]
    about += [search] if search else []
    folder = home / f"{file_name(model.located.name)}-{json_files.key_of(about)[:8]}"
    planned = tuple(plan_pictures(prompts, each, seed, folder, shared))
    refuse_replacing(planned)
    return ModelPictures(model, sampling, backend, device, planned, opened)


def generate_missing(pictures: ModelPictures, reporter: Reporter) -> None:
    """Generate and write the images that are not there yet; each batch is kept, whatever happens after it."""
    missing = pictures.missing
    if not missing:
        return
    folder = pictures.planned[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidInput(f"cannot write to {folder}", why=why, hint="choose another --out") from error
    _note_kept(pictures, missing, reporter)
    generator = pictures.opened(len(missing))
    prompts, seeds = [one.prompt for one in missing], [one.seed for one in missing]
    if unknown := generator.unknown_words(prompts):
        reporter.warn(
            f"{pictures.name}: words that are not in its vocabulary, and have no effect: {', '.join(unknown)}"
        )
    reporter.begin(f"generating with {pictures.name}", len(missing), "images")
    try:
        done, start = 0, time.perf_counter()
        for batch in generator.generate(prompts, seeds, pictures.sampling, reporter):
            for planned, picture in zip(missing[done : done + len(batch)], batch, strict=True):
                write_picture(planned, picture)
            if not done:
                _note_estimate(time.perf_counter() - start, len(batch), len(missing), reporter)
            done += len(batch)
        if spent := spent_text(generator, len(missing)):
            reporter.note(f"{pictures.name}: {spent}")
    finally:
        reporter.end()
        del generator
        gc.collect()  # its memory is needed for the next model, and hooks of its modules form cycles


def _note_kept(pictures: ModelPictures, missing: Sequence[PlannedPicture], reporter: Reporter) -> None:
    kept = len(pictures.planned) - len(missing)
    if kept:
        reporter.note(f"{pictures.name}: {kept} of {len(pictures.planned)} images are there, and kept")


def _note_estimate(seconds: float, done: int, count: int, reporter: Reporter) -> None:
    left = seconds / done * (count - done)
    if left > _LONG:
        reporter.note(f"about {duration_text(left)} for the other {count - done} images")


def batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each batch."""
    return ((start, min(count, start + size)) for start in range(0, count, size))
