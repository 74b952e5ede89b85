"""Verifiers: what says how well an image shows its prompt. One protocol; scores are kept, and combined by rank.

A verifier is deterministic: the same image and prompt have the same score, whatever else is in the batch. Higher is
better; only the order of images of one prompt means something across verifiers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.judge.metadata import GenEvalTask

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True, slots=True)
class Request:
    """What an image was generated for: the prompt, and what it asks for, where that is known."""

    prompt: str
    task: GenEvalTask | None = None


class Verifier(Protocol):
    """Scores images for their prompts."""

    @property
    def id(self) -> str:
        """The model with its weights, and its question: scores with equal ids may be reused."""

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """The score of each image for its request."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a judge says of a preview, as probabilities."""

    clarity: float  # it already shows what the finished image will show
    potential: float  # the finished image will show its prompt
    final: float  # it shows its prompt as it is


@runtime_checkable
class PreviewVerifier(Verifier, Protocol):
    """A verifier that can also judge images in the making."""

    def previews(self, images: Sequence[Picture], requests: Sequence[Request], noise: float) -> list[Reading]:
        """What each preview promises; `noise` is the noise level of the states that they were made from."""


@dataclass
class KeptScores:
    """A verifier whose scores are kept in a file, by image, prompt and verifier: none is computed twice."""

    verifier: Verifier
    file: ConfinedPath
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the scores of earlier runs; a damaged line, or one of another verifier, has none."""
        for line in self.file.read_bytes().splitlines() if self.file.is_file() else ():
            with suppress(InvalidInput):
                found = json_files.parse_object(line, "it")
                scores = found.get("scores") if found.get("key") == self.id else None
                named = scores.items() if isinstance(scores, dict) else ()
                self._known |= {name: float(score) for name, score in named if isinstance(score, int | float)}

    @property
    def id(self) -> str:
        """The verifier's."""
        return self.verifier.id

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """The scores; only unknown ones are computed, each once."""
        names = [score_name(image, request) for image, request in zip(images, requests, strict=True)]
        unknown = {name: place for place, name in enumerate(names) if name not in self._known}
        if unknown:
            places = list(unknown.values())
            found = self.verifier.scores([images[place] for place in places], [requests[place] for place in places])
            self._add(dict(zip(unknown, found, strict=True)))
        return [self._known[name] for name in names]

    def _add(self, scores: Mapping[str, float]) -> None:
        """Append a line: what is known already isn't written again."""
        self._known |= scores
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.write(b"\n" + json.dumps({"key": self.id, "scores": dict(scores)}).encode() + b"\n")


def innermost(verifier: Verifier) -> Verifier:
    """The verifier behind kept scores: what it can do besides scoring isn't kept."""
    return verifier.verifier if isinstance(verifier, KeptScores) else verifier


@runtime_checkable
class Explains(Protocol):
    """A verifier that can say what an image lacks."""

    def reasons(self, image: Picture, request: Request) -> list[str]:
        """What the prompt asks for and the image doesn't show, in words that can be added to a prompt."""


@dataclass(frozen=True)
class RankEnsemble:
    """Several verifiers as one: the mean of their ranks among the images of each prompt, from 0 (worst) to 1.

    Ranks need no common scale. The score of an image depends on the other images of its prompt, so it isn't kept.
    """

    verifiers: tuple[Verifier, ...]

    @property
    def id(self) -> str:
        """The members' ids."""
        return "+".join(verifier.id for verifier in self.verifiers)

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """The mean rank of each image among those of its prompt."""
        found = np.zeros(len(images))
        for verifier in self.verifiers:
            scores = np.asarray(verifier.scores(images, requests))
            for prompt in dict.fromkeys(request.prompt for request in requests):
                mine = [place for place, request in enumerate(requests) if request.prompt == prompt]
                found[mine] += mean_ranks(scores[mine])
        return [float(score) for score in found / len(self.verifiers)]


def mean_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 to 1 in ascending order; equal scores share the mean of their ranks; a single one has 1/2."""
    if len(scores) < 2:
        return np.full(len(scores), 0.5)
    below = (scores[:, None] > scores[None]).sum(axis=1)
    equal = (scores[:, None] == scores[None]).sum(axis=1) - 1
    ranks: NDArray[np.float64] = (below + equal / 2) / (len(scores) - 1)
    return ranks


def score_name(image: Picture, request: Request) -> str:
    """The name of a score: a digest of the image's values and the prompt."""
    values = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    task = request.task.to_json() if request.task else None
    return json_files.key_of([list(image.shape), values, request.prompt, task])[:32]
