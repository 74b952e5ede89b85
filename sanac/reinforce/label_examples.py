"""Labelled images as examples for a preview judge."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sanac.core.json_files import key_of
from sanac.judge.preview_judge import HEADS
from sanac.reinforce.judge_task import Batch, from_bytes
from sanac.reinforce.labels import LabelledImage
from sanac.reinforce.previews import as_pixels


@dataclass
class LabelExamples:
    """Each labelled image is asked about its own prompt; heads without a label are left out."""

    lines: Sequence[LabelledImage]  # to train on
    back: Sequence[LabelledImage]  # to measure with
    side: int  # pixels of the judge's images
    device: str = "cpu"

    @cached_property
    def _pixels(self) -> dict[str, Tensor]:
        """The images by their digests, as bytes at the judge's size."""
        files = {one.digest: one for one in (*self.lines, *self.back)}
        return {digest: as_pixels(one.read()[None], self.side)[0] for digest, one in files.items()}

    @cached_property
    def identity(self) -> str:
        """A digest of all labels to train on."""
        return key_of([one.about for one in self.lines])[:16]

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """A random batch of labelled images."""
        return self._batch([self.lines[int(rng.integers(len(self.lines)))] for _ in range(count)])

    def held_out(self, count: int) -> Iterator[Batch]:
        """Batches of all labelled images that are kept back."""
        for start in range(0, len(self.back), count):
            yield self._batch(self.back[start : start + count])

    def _batch(self, some: Sequence[LabelledImage]) -> Batch:
        images = from_bytes(torch.stack([self._pixels[one.digest] for one in some]).to(self.device).float())
        noise = torch.tensor([one.noise for one in some])
        targets = torch.tensor([[[one.answers.get(head, 0.0) for head in HEADS]] for one in some])
        weights = torch.tensor([[[float(head in one.answers) for head in HEADS]] for one in some])
        return Batch(images, noise, [[one.prompt] for one in some], targets, weights)
