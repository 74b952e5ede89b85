"""Calibration inputs: prompts to encode, precomputed embeddings, or the user's own latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError
from sanac.core.file_copy import digest_file
from sanac.nn.calibration.latents import LatentFolder, open_latents
from sanac.nn.calibration.prompts import choose_prompts
from sanac.nn.calibration.tensor_files import TensorFile, open_captions, read_captions
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode, has_encoder
from sanac.nn.pipeline_config import encoding_operations, vocabulary_of


@dataclass(frozen=True)
class Inputs:
    """Chosen and checked calibration inputs; nothing is encoded or read yet."""

    model: Model
    count: int
    source: str  # their origin, for messages
    prompts: tuple[str, ...] = ()
    embeddings: TensorFile | None = None
    latents: LatentFolder | None = None

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The input settings that results depend on, for content keys."""
        found: dict[str, Any] = {"inputs": "noised" if self.latents else "sampled", "num_prompts": self.count}
        if self.prompts:
            found["prompts"] = json_files.key_of(list(self.prompts))
        if self.embeddings:
            found["embeddings"] = digest_file(self.embeddings.path)
        if self.latents:
            found |= {"data": self.latents.digest(), "size": list(self.latents.size)}
        return found

    @property
    def needs_encoder(self) -> bool:
        """Whether prompts have to be encoded but the model has no text encoder."""
        return self.embeddings is None and not has_encoder(self.model)

    @property
    def encoding(self) -> float:
        """Estimated operations of text encoding."""
        return 0.0 if self.embeddings else encoding_operations(self.model, max(1, len(self.prompts)))

    def captions(self, device: torch.device) -> EncodedPrompts:
        """The captions on `device`: encoded from prompts, or read from files."""
        if self.latents:
            empty = read_captions(self.embeddings, 1) if self.embeddings else encode(self.model, [""], device)
            return self.latents.captions(empty, self.count)
        if self.embeddings:
            return read_captions(self.embeddings, self.count)
        return encode(self.model, self.prompts, device)

    def data(self) -> Tensor | None:
        """The user's latents for `--inputs noised`; None for sampled trajectories."""
        return self.latents.read(self.count) if self.latents else None


def choose_inputs(
    model: Model,
    *,
    prompts: Path | None = None,
    count: int | None = None,
    embeddings: Path | None = None,
    data: Path | None = None,
) -> Inputs:
    """The inputs for these command-line options; files are checked by their headers."""
    encoded = open_captions(embeddings, model.architecture.caption_channels) if embeddings else None
    if data:
        latents = open_latents(data, model.architecture)
        return Inputs(model, _first(count, len(latents), data), str(data), embeddings=encoded, latents=latents)
    if encoded:
        return Inputs(model, _first(count, len(encoded), encoded.path), str(encoded.path), embeddings=encoded)
    found, source = choose_prompts(prompts, count, vocabulary_of(model))
    return Inputs(model, len(found), source, prompts=tuple(_mixed(found)))


def _mixed(prompts: Sequence[str]) -> list[str]:
    """`prompts` in an order that depends on their texts alone.

    Position decides the noise and the split into fitting and validation prompts. This order makes both independent of
    how the file is sorted, and spreads similar prompts over the whole split.
    """
    return sorted(prompts, key=json_files.key_of)


def _first(count: int | None, available: int, path: Path) -> int:
    if count is not None and count > available:
        raise UsageError(f"--num-prompts {count}: {path} has only {available}")
    return count or available
