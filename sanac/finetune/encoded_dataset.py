"""What a run learns from: latents and caption embeddings that were prepared once, read where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture
from sanac.nn.calibration.latents import LatentFolder, open_latents
from sanac.nn.calibration.tensor_files import TensorFile, open_tensor_file
from sanac.nn.streaming import map_tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """Some of them: latents (B, channels, height, width), embeddings (B, S, width), mask (B, S)."""

    latents: Tensor
    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Prepared:
    """A folder of parts; each holds latents, their captions, and the empty caption."""

    folder: Path
    latents: LatentFolder
    first: TensorFile  # the part whose empty caption counts

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.latents)

    @cached_property
    def identity(self) -> str:
        """What the parts hold, whatever the folder is called."""
        return self.latents.digest()

    @property
    def longest(self) -> int:
        """Tokens of the longest caption, or a few more."""
        return max(part.tensors["embeddings"].shape[1] for part in self.latents.files)

    @cached_property
    def _parts(self) -> list[Mapping[str, Tensor]]:
        return [{name: map_tensor(ref) for name, ref in part.tensors.items()} for part in self.latents.files]

    @cached_property
    def empty(self) -> tuple[Tensor, Tensor]:
        """The empty caption: (1, S, width) and its mask."""
        return self.first.read("empty").float(), self.first.read("empty_mask")

    def pick(self, numbers: Sequence[int], dropped: Sequence[bool]) -> Samples:
        """These samples, in fp32; those that are `dropped` have the empty caption."""
        latents, captions = [], []
        for number, drop in zip(numbers, dropped, strict=True):
            part, place = self._place(number)
            latents.append(part["latents"][place].float())
            captions.append(
                tuple(found[0] for found in self.empty)
                if drop
                else (part["embeddings"][place].float(), part["mask"][place].long())
            )
        longest = max(int(mask.nonzero().max()) + 1 for _, mask in captions)
        embeddings = torch.stack([_fitted(embedding, longest) for embedding, _ in captions])
        mask = torch.stack([_fitted(mask[:, None], longest)[:, 0] for _, mask in captions])
        samples = Samples(torch.stack(latents), embeddings, mask)
        for values in (samples.latents, samples.embeddings):
            finite = torch.isfinite(values.flatten(1)).all(dim=1)
            if not finite.all():
                number = numbers[int((~finite).nonzero()[0])]
                raise InvalidInput(f"sample {number} of {self.folder} holds NaN or infinity", hint="prepare it again")
        return samples

    def _place(self, number: int) -> tuple[Mapping[str, Tensor], int]:
        for part in self._parts:
            if number < len(part["latents"]):
                return part, number
            number -= len(part["latents"])
        raise AssertionError("there are not so many samples")


def _fitted(values: Tensor, length: int) -> Tensor:
    """Cut or padded to `length` tokens; what is cut off is masked."""
    return F.pad(values[:length], (0, 0, 0, max(0, length - len(values))))


def open_prepared(folder: Path, architecture: Architecture) -> Prepared:
    """The parts in a folder, for a model of this architecture."""
    latents = open_latents(folder, architecture)
    if not latents.captioned:
        raise InvalidInput(f"{folder} brings no captions", why="its files lack `embeddings` and `mask`")
    shapes = {"empty": (1, None, architecture.caption_channels), "empty_mask": (1, None)}
    first = open_tensor_file(latents.files[0].path, shapes, "the empty caption")
    return Prepared(folder, latents, first)
