"""Images in the making, step by step: what search strategies need of a generator, whatever it generates with.

images = generator.start(prompts, seeds)
while images.done < images.steps:
images.advance()
pictures = images.preview()        # what the images would be if they were finished now
images.keep(good(pictures))        # the others leave the batch, and cost nothing from here on
pictures = images.finish()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (count, height, width, 3)


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

    def advance(self) -> None:
        """Take one step with all images of the batch."""

    def preview(self) -> Pictures:
        """Decode the guess of the finished images that the last step made; costs a decode per image."""

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these images in the batch, named as in `rows`."""

    def finish(self) -> Pictures:
        """Take all steps that are left, and decode."""


class StepwiseGenerator(Protocol):
    """A generator whose images can be looked at, and dropped, before they are finished."""

    @property
    def spent(self) -> Spent:
        """What was computed since it was opened."""

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> ImagesInProgress:
        """Begin an image per prompt and seed; an image depends on its own prompt and seed only."""
