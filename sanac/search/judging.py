"""What reads previews and scores images in a search, and counts its calls.

A verifier of finished images only is asked about previews, too: a preview counts as clear, and its score as potential.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from sanac.judge.state_judge import StateReader, mean_embedding
from sanac.judge.verifier import Picture, PreviewVerifier, Reading, Request, Verifier
from sanac.nn.stepwise import ImagesInProgress
from sanac.runtime.stepwise import SanaInProgress


@runtime_checkable
class Explains(Protocol):
    """A verifier that can say what an image lacks."""

    def reasons(self, image: Picture, request: Request) -> list[str]:
        """What is missing, in words that can be added to a prompt."""


@dataclass
class SearchJudge:
    """The verifier of finished images, and what reads previews: the same, or a head on the generator's states."""

    verifier: Verifier
    reader: StateReader | None = None
    block: int = 0  # of the model at hand, that the head reads behind
    calls: int = 0

    def read(self, images: ImagesInProgress, request: Request) -> list[Reading]:
        """What is said of each image in the batch."""
        if not images.rows:
            return []
        self.calls += len(images.rows)
        if self.reader is not None:
            assert isinstance(images, SanaInProgress)
            caption = mean_embedding(*images.embeddings)
            return self.reader.readings(images.states[self.block], caption, images.before, images.columns)
        pictures, requests = list(images.preview()), [request] * len(images.rows)
        if hasattr(self.verifier, "previews"):
            return cast("PreviewVerifier", self.verifier).previews(pictures, requests, images.before)
        return [Reading(1.0, score, score) for score in self.verifier.scores(pictures, requests)]

    def score(self, pictures: Sequence[Picture], request: Request) -> list[float]:
        """The scores of finished images."""
        self.calls += len(pictures)
        return self.verifier.scores(pictures, [request] * len(pictures)) if pictures else []

    def reasons(self, picture: Picture, request: Request) -> list[str]:
        """What an image lacks; [] where the verifier can't say."""
        if not isinstance(self.verifier, Explains):
            return []
        self.calls += 1
        return self.verifier.reasons(picture, request)
