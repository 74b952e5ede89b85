"""The encoded dataset of a training run: latents and caption embeddings, memory-mapped from their files."""

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
    """A batch of samples: latents (B, channels, height, width), embeddings (B, S, width), mask (B, S)."""

    latents: Tensor
    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Prepared:
    """A folder of encoded parts: latents, caption embeddings, and the empty caption."""

    folder: Path
    latents: LatentFolder
    first: TensorFile  # the part that the empty caption is read from

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.latents)

    @cached_property
    def identity(self) -> str:
        """Digest of the parts' content, independent of the folder's name."""
        return self.latents.digest()

    @property
    def longest(self) -> int:
        """Upper bound on the tokens of the longest caption."""
        return max(part.tensors["embeddings"].shape[1] for part in self.latents.files)

    @cached_property
    def _parts(self) -> list[Mapping[str, Tensor]]:
        return [{name: map_tensor(ref) for name, ref in part.tensors.items()} for part in self.latents.files]

    @cached_property
    def empty(self) -> tuple[Tensor, Tensor]:
        """Embedding of the empty caption (1, S, width) and its mask."""
        return self.first.read("empty").float(), self.first.read("empty_mask")

    def pick(self, numbers: Sequence[int], dropped: Sequence[bool]) -> Samples:
        """The samples with these numbers, in fp32; those marked in `dropped` get the empty caption."""
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
                raise InvalidInput(f"sample {number} of {self.folder} holds NaN or infinity", hint="encode it again")
        return samples

    def _place(self, number: int) -> tuple[Mapping[str, Tensor], int]:
        for part in self._parts:
            if number < len(part["latents"]):
                return part, number
            number -= len(part["latents"])
        raise AssertionError("sample number out of range")


def _fitted(values: Tensor, length: int) -> Tensor:
    """Crop or zero-pad to `length` tokens; cropped tokens are always masked ones."""
    return F.pad(values[:length], (0, 0, 0, max(0, length - len(values))))


def open_prepared(folder: Path, architecture: Architecture) -> Prepared:
    """Open the encoded parts in a folder and check them against the model's architecture."""
    latents = open_latents(folder, architecture)
    if not latents.captioned:
        raise InvalidInput(f"{folder} has no captions", why="its files lack `embeddings` and `mask`")
    shapes = {"empty": (1, None, architecture.caption_channels), "empty_mask": (1, None)}
    first = open_tensor_file(latents.files[0].path, shapes, "the empty caption")
    return Prepared(folder, latents, first)
