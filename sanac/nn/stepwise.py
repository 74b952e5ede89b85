"""Images in the making, step by step: what search strategies need of a generator, whatever it generates with.

    images = generator.start(prompts, noises)
    while images.done < images.steps:
        images.advance()
        pictures = images.preview()        # what the images would be if they were finished now
        images.keep(good(pictures))        # the others leave the batch, and cost nothing from here on
    pictures = images.finish()

A guess is what a step takes for the finished image, in the generator's own form: latents, or tokens. It can be made
noisy again and continued from an earlier step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (count, height, width, 3)


@dataclass(frozen=True, slots=True)
class Noise:
    """Where an image begins: the noise of a seed, turned towards that of other seeds.

    A turn (seed, cosine) leaves the noise's length and moves it to a neighbour at this cosine: 1 is no move.
    """

    seed: int
    turns: tuple[tuple[int, float], ...] = ()

    def turned(self, seed: int, cosine: float) -> "Noise":
        """A neighbour of this noise."""
        return Noise(self.seed, (*self.turns, (seed, cosine)))

    def to_json(self) -> dict[str, Any]:
        """The content of metadata."""
        return {"seed": self.seed} | ({"turns": [list(turn) for turn in self.turns]} if self.turns else {})


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes for one image: forward passes (both branches of guidance count), and blocks of these."""

    forwards: int
    block_forwards: int


@dataclass
class Spent:
    """What a generator computed, counted where it is computed."""

    forwards: int = 0  # of one image on one branch of guidance
    block_forwards: int = 0  # the blocks of these
    decodes: int = 0  # images, previews among them


class ImagesInProgress(Protocol):
    """A batch of images that are generated step by step."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Which of the started images are in the batch, by their place in `start`."""

    @property
    def steps(self) -> int:
        """Number of steps that an image takes."""

    @property
    def done(self) -> int:
        """Number of steps that were taken."""

    @property
    def noise(self) -> float:
        """Share of noise in the state: 1 at the start, 0 at the end."""

    @property
    def guess_noise(self) -> float:
        """Share of noise in the state that the last guesses were made from."""

    @property
    def guesses(self) -> Sequence[Any]:
        """The last step's guess of each finished image, in the order of `rows`."""

    def advance(self) -> None:
        """Take one step with all images of the batch."""

    def preview(self) -> Pictures:
        """Decode the guesses; costs a decode per image."""

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these images in the batch, named as in `rows`."""

    def finish(self) -> Pictures:
        """Take all steps that are left, and decode."""


class StepwiseGenerator(Protocol):
    """A generator whose images can be looked at, and dropped, before they are finished."""

    @property
    def spent(self) -> Spent:
        """What was computed since it was opened."""

    @property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one image."""

    def start(self, prompts: Sequence[str], noises: Sequence[Noise]) -> ImagesInProgress:
        """Begin an image per prompt and noise; an image depends on its own prompt and noise only."""

    def restart(
        self, prompts: Sequence[str], guesses: Sequence[Any], noises: Sequence[Noise], step: int
    ) -> ImagesInProgress:
        """Begin before a later step: guesses with as much new noise as the state before that step has."""
