"""The user's own images as latents: a folder of .safetensors files with `latents`, with or without captions."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core import json_files
from sanac.core.checkpoint.locate import inside
from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture
from sanac.core.file_copy import digest_file
from sanac.core.safetensors_header import read_header
from sanac.nn.calibration.tensor_files import Shape, TensorFile, open_tensor_file
from sanac.nn.calibration.text_encoding import EncodedPrompts, trimmed


@dataclass(frozen=True)
class LatentFolder:
    """A folder of latent files with checked headers, in the order of their names."""

    files: tuple[TensorFile, ...]

    def __len__(self) -> int:
        """Number of images."""
        return sum(map(len, self.files))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents, equal for all images."""
        height, width = self.files[0].tensors["latents"].shape[2:]
        return height, width

    @property
    def captioned(self) -> bool:
        """Whether the files contain caption embeddings."""
        return "embeddings" in self.files[0].tensors

    def digest(self) -> str:
        """One digest of the files' contents, independent of their names."""
        return json_files.key_of([digest_file(file.path) for file in self.files])

    def read(self, count: int) -> Tensor:
        """The latents of the first `count` images, in fp32."""
        return self._first("latents", count)

    def captions(self, empty: EncodedPrompts, count: int) -> EncodedPrompts:
        """The captions of the first `count` images; the empty caption for all if the files have none."""
        if not self.captioned:
            return EncodedPrompts(
                empty.empty.expand(count, -1, -1), empty.empty_mask.expand(count, -1), empty.empty, empty.empty_mask
            )
        embeddings, mask = trimmed(self._first("embeddings", count), self._first("mask", count))
        return EncodedPrompts(embeddings, mask, empty.empty, empty.empty_mask)

    def _first(self, name: str, count: int) -> Tensor:
        parts: list[Tensor] = []
        for file in self.files:
            if count > 0:
                part = file.read(name, count)
                parts.append(part if name == "mask" else part.float())
                count -= len(part)
        if name == "latents":
            return torch.cat(parts)
        longest = max(part.shape[1] for part in parts)
        return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, longest - part.shape[1])) for part in parts])


def open_latents(folder: Path, architecture: Architecture) -> LatentFolder:
    """The latents in a folder, checked for a model of this architecture; InvalidInput lists all problems."""
    try:
        boundary = folder.resolve(strict=True)
        paths = sorted(path for path in boundary.iterdir() if path.suffix == ".safetensors")
    except OSError as error:
        raise InvalidInput(f"cannot read the folder {folder}", why=error.strerror or str(error)) from error
    if not paths:
        raise InvalidInput(
            f"{folder} has no .safetensors file", hint="each must contain `latents` (n, channels, height, width)"
        )
    files: list[TensorFile] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append(_open(inside(boundary, path), architecture))
        except InvalidInput as error:
            problems += [f"{path.name}: {problem}" for problem in error.problems or (error.why or error.message,)]
    problems += _disagreements(files, architecture.patch_size)
    if problems:
        raise InvalidInput(f"the latents in {folder} don't fit this model", why=problems[0], problems=problems)
    return LatentFolder(tuple(files))


def _open(path: Path, architecture: Architecture) -> TensorFile:
    shapes: dict[str, Shape] = {"latents": (None, architecture.in_channels, None, None)}
    tensors = read_header(path).tensors
    if {"embeddings", "mask"} & tensors.keys():
        count = tensors["latents"].shape[0] if "latents" in tensors and tensors["latents"].shape else None
        shapes |= {"embeddings": (count, None, architecture.caption_channels), "mask": (count, None)}
    return open_tensor_file(path, shapes, "latents")


def _disagreements(files: list[TensorFile], patch: int) -> list[str]:
    sizes = {file.tensors["latents"].shape[2:]: file.path.name for file in reversed(files)}
    named = ", ".join(f"{size[0]} x {size[1]} in {name}" for size, name in sorted(sizes.items()))
    problems = [f"latents of different sizes: {named}"] if len(sizes) > 1 else []
    problems += [f"latents of {named} can't be divided into patches of {patch}"] * any(
        side % patch for size in sizes for side in size
    )
    with_captions = {("embeddings" in file.tensors): file.path.name for file in reversed(files)}
    if len(with_captions) > 1:
        problems.append(f"{with_captions[True]} has embeddings, {with_captions[False]} has none")
    return problems
