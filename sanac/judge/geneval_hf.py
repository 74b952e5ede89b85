"""GenEval's rules with models of transformers: a Mask2Former that detects, a CLIP that names colours.

The weights are not those of the published judge, so its scores carry another name (geneval-hf).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sanac.core.errors import InvalidInput, MissingResource
from sanac.judge.clip_colors import COLORS, ClipColors
from sanac.judge.detections import Detection
from sanac.judge.geneval import GENEVAL, Found, GenEvalResult, Rules, judge, select_detections
from sanac.judge.mask2former import Mask2FormerDetector, class_names
from sanac.judge.metadata import GenEvalTask, unknown_words
from sanac.judge.model_folder import CONTRASTIVE, DETECTORS, JudgeFolder, open_judge
from sanac.judge.verifier import Picture

NAME = "geneval-hf"
VERSION = 1  # raised when the same image and models would be judged differently
DETECTOR = "facebook/mask2former-swin-small-coco-instance"
COLOR_MODEL = "openai/clip-vit-large-patch14"


class Detector(Protocol):
    """Finds objects in an image."""

    def look(self, picture: Picture, least: float = 0.0) -> list[Detection]:
        """The detections with a score above `least`."""


class ColorClassifier(Protocol):
    """Names the colours of objects in an image."""

    def colors(self, picture: Picture, found: Sequence[Detection]) -> list[str]:
        """The colour of each detection."""


@dataclass(frozen=True)
class GenEvalJudge:
    """Judges images by GenEval's rules; colours are only named where a prompt asks for one."""

    detector: Detector
    colors: ColorClassifier | None
    rules: Rules = GENEVAL

    def verdict(self, picture: Picture, task: GenEvalTask) -> GenEvalResult:
        """Whether an image shows what its prompt asks for, and why not."""
        least = self.rules.threshold(task.tag)
        kept = select_detections(self.detector.look(picture, least), least, self.rules.most_per_class)
        for label, count in _colored(task).items():
            if self.colors is not None and label in kept:
                kept[label] = _named(self.colors, picture, kept[label], count)
        return judge(task, [one for found in kept.values() for one in found], self.rules)


def _colored(task: GenEvalTask) -> dict[str, int]:
    """The classes whose colour a task asks for, and of how many objects."""
    clauses = [clause for clause in task.include if clause.color is not None]
    return {one.label: max(other.count for other in clauses if other.label == one.label) for one in clauses}


def _named(colors: ColorClassifier, picture: Picture, found: Found, count: int) -> Found:
    """The `count` best detections with their colours, and those that equal the last of them, which the rules order."""
    last = found[min(count, len(found)) - 1]
    best = [one for at, one in enumerate(found) if at < count or (one.score, one.box) == (last.score, last.box)]
    named = [replace(one, color=color) for one, color in zip(best, colors.colors(picture, best), strict=True)]
    return (*named, *found[len(best) :])


@dataclass(frozen=True)
class GenEvalModels:
    """The checked folders of both models; `colors` is None where no prompt asks for a colour."""

    detector: JudgeFolder
    colors: JudgeFolder | None

    @property
    def id(self) -> str:
        """Both models with their weights, and the rules: verdicts with equal ids may be reused."""
        return f"{NAME} {VERSION} {self.detector.identity} {self.colors.identity if self.colors else ''} {GENEVAL}"

    def open(self, device: str) -> GenEvalJudge:
        """Load both."""
        colors = ClipColors.open(self.colors, device) if self.colors else None
        return GenEvalJudge(Mask2FormerDetector.open(self.detector, device), colors)


def find_models(detector: str, color_model: str, tasks: Sequence[GenEvalTask]) -> GenEvalModels:
    """The models for some prompts, none of which is downloaded.

    MissingResource names all that aren't on this machine, InvalidInput all classes and colours that they don't know.
    """
    words = {detector: DETECTORS} | ({color_model: CONTRASTIVE} if any(map(_colored, tasks)) else {})
    found, missing = [], []
    for word, kinds in words.items():
        try:
            found.append(open_judge(word, kinds))
        except MissingResource as error:
            missing.append(error)
    if missing:
        raise _together(missing)
    check_vocabulary(detector, class_names(found[0]), tasks)
    return GenEvalModels(found[0], found[1] if len(found) > 1 else None)


def _together(missing: Sequence[MissingResource]) -> MissingResource:
    """One error for all models that aren't on this machine."""
    if len(missing) == 1:
        return missing[0]
    messages, commands = ([getattr(error, name) for error in missing] for name in ("message", "hint"))
    hint = " && ".join(command.partition("   ")[0] for command in commands)
    return MissingResource(messages[0], why=missing[0].why, problems=messages, hint=hint)


def check_vocabulary(detector: str, labels: Iterable[str], tasks: Sequence[GenEvalTask]) -> None:
    """InvalidInput that names every class and colour which no detection could ever have."""
    unknown = unknown_words(tasks, set(labels), COLORS)
    if unknown:
        raise InvalidInput(
            f"{detector} can't judge prompts about {', '.join(unknown)}",
            why="these are neither classes of the detector nor one of ten colours",
            problems=unknown,
            hint="choose a detector that knows them (--detector MODEL), or leave these prompts out",
        )
