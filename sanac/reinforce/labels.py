"""Reads a user's labels: which images show their prompts, and what is to be thought of their previews."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.json_files import key_of
from sanac.judge.jsonl import read_lines
from sanac.judge.verifier import Picture
from sanac.judge.words import split_words
from sanac.nn.calibration.prompts import LONGEST
from sanac.runtime.image_files import decode_picture, read_image

FORMATS = ("PNG", "JPEG", "WEBP")
_FIELDS = ("image", "prompt", "label", "noise", "final", "clarity", "potential")
_ANSWERS = {"label": "final", "clarity": "clarity", "potential": "potential"}  # field -> the head that it trains
_WORDS = {"yes": 1.0, "no": 0.0}
_INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}  # categories of characters: control, half a character, separators of lines


@dataclass(frozen=True)
class LabelledImage:
    """An image, its prompt, and the right answers about it."""

    image: ConfinedPath
    digest: str  # of the file's bytes
    prompt: str
    noise: float
    answers: Mapping[str, float]  # head -> probability of yes

    @property
    def about(self) -> list[Any]:
        """Everything that training on it depends on, for content keys."""
        return [self.digest, self.prompt, self.noise, dict(self.answers)]

    def read(self) -> Picture:
        """The pixels; InvalidInput if the file was changed since it was checked."""
        data = read_image(self.image, FORMATS)
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise InvalidInput(f"{self.image} was changed during training", hint="run the same command again")
        found: Picture = np.array(decode_picture(data, str(self.image), FORMATS))  # writable, as torch wants it
        return found


@dataclass(frozen=True)
class Labels:
    """All lines of a file of labels."""

    lines: tuple[LabelledImage, ...]

    @property
    def has_previews(self) -> bool:
        """Whether any image is unfinished."""
        return any(one.noise > 0 for one in self.lines)

    @property
    def final_only(self) -> "Labels":
        """The same images with the question about what they show as they are, and no other."""
        kept = [replace(one, answers={"final": one.answers["final"]}) for one in self.lines if "final" in one.answers]
        return Labels(tuple(kept))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, in their order."""
        return tuple(dict.fromkeys(one.prompt for one in self.lines))

    @cached_property
    def identity(self) -> str:
        """A digest of all labels and images."""
        return key_of([one.about for one in self.lines])

    def split(self, back: frozenset[str]) -> tuple[list[LabelledImage], list[LabelledImage]]:
        """The lines to train on, and those of the prompts that are kept back."""
        parts: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
        for one in self.lines:
            parts[one.prompt in back].append(one)
        return parts


def read_labels(file: Path) -> Labels:
    """The labels in a JSON Lines file; InvalidInput names every line that is malformed or whose image can't be used.

    An image's path is relative to the file's folder, and stays in it; no link is followed.
    """
    folder = ConfinedPath(file.absolute().parent)
    known: dict[str, str] = {}
    return Labels(tuple(read_lines(file, partial(_parse, folder, known))))


def check_prompts(labels: Labels, file: Path) -> None:
    """InvalidInput if there are fewer than two prompts."""
    if len(labels.prompts) < 2:
        raise InvalidInput(
            f"{file} has labels for a single prompt, or for none",
            why="a share of the prompts is kept from training to measure the judge on",
            hint="label images of two prompts or more",
        )


def check_varied(lines: Sequence[LabelledImage], file: Path) -> None:
    """InvalidInput if all labels to train on are yes, or all are no."""
    labels = [answer > 0.5 for one in lines for head, answer in one.answers.items() if head != "clarity"]
    if len(set(labels)) < 2:
        said = f"every label to train on is {'yes' if labels[0] else 'no'}" if labels else "no line has a label"
        raise InvalidInput(
            f"{file} teaches a judge nothing",
            why=said,
            hint="label images that show their prompt, and images that don't",
        )


def words_of(prompts: Sequence[str]) -> tuple[str, ...]:
    """The words of some prompts, sorted."""
    return tuple(sorted({word for prompt in prompts for word in split_words(prompt)}))


def _parse(folder: ConfinedPath, known: dict[str, str], line: dict[str, Any]) -> LabelledImage:
    """One line; InvalidInput with all of its problems. `known` holds the digests of images that were checked."""
    problems = [f"unknown key {name!r}" for name in line if name not in _FIELDS]
    prompt, noise, finished = line.get("prompt"), line.get("noise", 0.0), line.get("final")
    if not _is_prompt(prompt):
        problems.append(f"prompt is {prompt!r}, not a line of text with words, of up to {LONGEST:,} characters")
    if not _is_share(noise):
        problems.append(f"noise is {noise!r}, not a number from 0 to 1")
    if finished is not None and not isinstance(finished, bool):
        problems.append(f"final is {finished!r}, not true or false")
    if finished is True and noise:
        problems.append("final is true, but its noise is not 0")
    if finished is False and not noise:
        problems.append("final is false, but there is no noise above 0: the level that the preview was made at")
    given = {name: _answer(line[name]) for name in _ANSWERS if name in line}
    problems += [
        f"{name} is {line[name]!r}, not yes, no or a number from 0 to 1" for name, one in given.items() if one is None
    ]
    if not given:
        problems.append("there is no label: yes, no or a number from 0 to 1")
    try:
        path, digest = _checked(folder, known, line.get("image"))
    except InvalidInput as error:
        problems.append(f"{error.message}: {error.why}" if error.why else error.message)
    if problems:
        raise InvalidInput("the line is malformed", why=problems[0], problems=problems)
    answers = {_ANSWERS[name]: answer for name, answer in given.items() if answer is not None}
    if not noise:
        answers = _of_finished(answers)
    assert isinstance(prompt, str)
    return LabelledImage(path, digest, prompt, float(noise), answers)


def _of_finished(answers: Mapping[str, float]) -> dict[str, float]:
    """The answers about a finished image: it is clear, and what it shows is what it can become."""
    shown = answers.get("final", answers.get("potential"))
    known = {} if shown is None else {"potential": shown, "final": shown}
    return {"clarity": 1.0, **known, **answers}


def _checked(folder: ConfinedPath, known: dict[str, str], name: object) -> tuple[ConfinedPath, str]:
    """The path and the digest of an image that can be read whole."""
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"image is {name!r}, not a path")
    path = folder / name
    if not path.is_file():
        raise InvalidInput(f"image is {name!r}, which is no file in {folder}")
    if name not in known:
        data = read_image(path, FORMATS)
        decode_picture(data, name, FORMATS)
        known[name] = hashlib.sha256(data).hexdigest()
    return path, known[name]


def _answer(value: object) -> float | None:
    """A label as the probability of yes; None for what is no label."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return float(value) if _is_share(value) and isinstance(value, int | float) else None


def _is_prompt(value: object) -> bool:
    if not isinstance(value, str) or len(value) > LONGEST or not split_words(value):
        return False
    return not any(unicodedata.category(one) in _INVISIBLE for one in value)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
