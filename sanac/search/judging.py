"""What reads previews and scores images in a search, and counts its calls.

A verifier of finished images only is asked about previews, too: a preview counts as clear, and its score as potential.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sanac.core.errors import InvalidInput
from sanac.judge.state_judge import StateReader, mean_embedding
from sanac.judge.verifier import (
    Explains,
    Picture,
    PreviewVerifier,
    RankEnsemble,
    Reading,
    Request,
    Verifier,
    innermost,
)
from sanac.nn.stepwise import ImagesInProgress
from sanac.runtime.stepwise import SanaInProgress
from sanac.search.pool import Candidate


@dataclass
class SearchJudge:
    """The verifier of finished images, and what reads previews: a verifier, or a head on the generator's states."""

    verifier: Verifier
    reader: Verifier | StateReader | None = None  # None: the verifier
    block: int = 0  # of the model at hand, that a head reads behind
    calls: int = 0

    @property
    def relative(self) -> bool:
        """Whether scores are ranks among the images that are scored together."""
        return isinstance(self.verifier, RankEnsemble)

    def read(self, batches: Sequence[ImagesInProgress], request: Request) -> list[Reading]:
        """What is said of each image of some batches that took the same steps."""
        count = sum(len(images.rows) for images in batches)
        self.calls += count
        if not count:
            return []
        if isinstance(self.reader, StateReader):
            return [reading for images in batches for reading in self._state_readings(self.reader, images)]
        reader = self.reader or self.verifier
        pictures = [picture for images in batches for picture in images.preview()]
        inner = innermost(reader)
        if isinstance(inner, PreviewVerifier):
            return inner.previews(pictures, [request] * count, batches[0].guess_noise)
        return [Reading(1.0, score, score) for score in reader.scores(pictures, [request] * count)]

    def _state_readings(self, reader: StateReader, images: ImagesInProgress) -> list[Reading]:
        assert isinstance(images, SanaInProgress)
        caption = mean_embedding(*images.embeddings)
        return reader.readings(images.states[self.block], caption, images.guess_noise, images.columns)

    def score(self, pictures: Sequence[Picture], request: Request) -> list[float]:
        """The scores of finished images."""
        self.calls += len(pictures)
        found = self.verifier.scores(pictures, [request] * len(pictures)) if pictures else []
        if not all(map(math.isfinite, found)):
            raise InvalidInput(f"the verifier {self.verifier.id} scores NaN", hint="fetch it again, or use another one")
        return found

    def rescored(self, candidates: Sequence[Candidate], request: Request) -> list[Candidate]:
        """Candidates with scores that are ranks among all of them; the members' own scores are known already."""
        pictures = [one.picture for one in candidates if one.picture is not None]
        scores = self.verifier.scores(pictures, [request] * len(pictures))
        return [replace(one, score=score) for one, score in zip(candidates, scores, strict=True)]

    def reasons(self, picture: Picture, request: Request) -> list[str]:
        """What an image lacks; [] where the verifier can't say."""
        inner = innermost(self.verifier)
        if not isinstance(inner, Explains):
            return []
        self.calls += 1
        return inner.reasons(picture, request)
