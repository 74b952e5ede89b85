"""Encodes image-caption pairs once into a folder of parts: latents, caption embeddings, masks, the empty caption.

Training then needs neither autoencoder nor text encoder. A stopped run continues after its last complete part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.artifact.model import Model
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.finetune.image_text_data import ImageText, SkipReport, Source
from sanac.nn.calibration.text_encoding import EncodedPrompts, open_encoder
from sanac.nn.device import shrinkage
from sanac.nn.save_tensors import save_tensors
from sanac.nn.stock_loading import load_component

SCHEMA = 1  # raised when the same pairs would give other parts
PART = 256  # samples
_ImageEncoder = Callable[[Sequence[ImageText]], Tensor]
RECORD = "prepared.json"  # progress and content key, next to the parts


@dataclass(frozen=True)
class Folder:
    """A folder of encoded parts, each written atomically."""

    path: ConfinedPath
    key: str

    def record(self) -> dict[str, Any]:
        """Progress of this key, or a new record; UsageError if the folder holds anything else."""
        file = self.path / RECORD
        if file.is_file():
            try:
                found = json_files.read_object(file)
            except InvalidInput:
                found = {}
            if found.get("key") == self.key:
                return dict(found)
            if found:
                raise UsageError(f"{self.path} holds other data", hint="choose another folder, or delete it")
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty", hint="choose another folder")
        return {"key": self.key, "seen": 0, "parts": 0, "skipped": [], "finished": False}

    def put(
        self,
        number: int,
        latents: Tensor,
        captions: EncodedPrompts,
        record: dict[str, Any],
        more: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Write part `number`, with `more` tensors, then the updated record."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"part-{number:05d}.safetensors"
        tensors = {
            "latents": latents,
            "embeddings": captions.embeddings,
            "mask": captions.mask,
            "empty": captions.empty,
            "empty_mask": captions.empty_mask,
            **more,
        }
        save_tensors(tensors, part)
        self.note(record)

    def note(self, record: dict[str, Any]) -> None:
        """Write the progress record atomically."""
        write_atomically(self.path / RECORD, json_files.pretty(record))


def pixels(model: Model, side: int) -> int:
    """Side in pixels of the images that the model generates from latents `side` wide."""
    vae = next((part for part in model.others if part.name == "vae"), None)
    if vae is None:
        raise UsageError(
            f"{model.located.name} has no autoencoder", why="images can't be encoded", hint="use a complete pipeline"
        )
    layers = vae.config.get("encoder_layers_per_block")
    if not isinstance(layers, list) or not all(type(count) is int for count in layers):
        raise InvalidInput(f"the config in {vae.folder} is not of an AutoencoderDC")
    return side * shrinkage(layers)


def key_of(model: Model, source: Source, side: int) -> str:
    """Content key: equal for sources that are encoded to the same parts."""
    return json_files.key_of(["prepare", SCHEMA, source.identity, pixels(model, side), encoders(model)])


@dataclass(frozen=True)
class EncodingJob(CachedStep[Path]):
    """A job that encodes all pairs of a source with the model's autoencoder and text encoder; returns the folder."""

    model: Model
    source: Source
    side: int  # width of the latents
    workspace: ConfinedPath
    device: torch.device

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return f"data in {self.path}"

    @cached_property
    def key(self) -> str:
        """Content key: equal for sources that are encoded to the same parts."""
        return key_of(self.model, self.source, self.side)

    @property
    def path(self) -> ConfinedPath:
        """Folder of the parts in the workspace."""
        return self.workspace / f"data-{self.key[:8]}"

    def check_budget(self, reporter: Reporter) -> None:  # noqa: ARG002
        """Look for captions first: encoding takes long."""
        self.source.check_captions()

    def load(self) -> Path | None:
        """The folder, if all pairs are encoded."""
        return Path(self.path) if Folder(self.path, self.key).record()["finished"] else None

    def compute(self, reporter: Reporter) -> Path:
        """Encode the pairs that an earlier run left."""
        folder = Folder(self.path, self.key)
        record, size, source = folder.record(), pixels(self.model, self.side), self.source
        skip_report = SkipReport(record["seen"], list(record["skipped"]))
        encode: tuple[_ImageEncoder, Callable[[Sequence[str], int], EncodedPrompts]] | None = None
        reporter.begin("preparing", source.count(), "samples")
        reporter.advance(record["seen"])
        try:
            for found, many in _groups(source.pairs(skip_report, size, record["seen"])):
                encode = encode or (open_autoencoder(self.model, self.device), open_encoder(self.model, self.device))
                record = {**record, "seen": record["seen"] + many, "skipped": skip_report.skipped}
                if found:
                    captions = encode[1]([pair.caption for pair in found], 32)
                    record["parts"] += 1
                    folder.put(record["parts"] - 1, encode[0](found), captions, record)
                reporter.advance(many)
        finally:
            reporter.end()
        skip_report.seen = record["seen"]
        skip_report.check(source.name, reporter)
        if not record["parts"]:
            raise InvalidInput(f"{source.name} contains no samples")
        folder.note({**record, "finished": True})
        return Path(self.path)


def _groups(pairs: Iterator[ImageText | None]) -> Iterator[tuple[list[ImageText], int]]:
    """Yield the pairs of each part, and the number of samples read for it including skipped ones."""
    group: list[ImageText] = []
    many = 0
    for pair in pairs:
        many += 1
        group += [pair] if pair else []
        if many == PART:
            yield group, many
            group, many = [], 0
    if many:
        yield group, many


def encoders(model: Model) -> list[Any]:
    """Identity of the pipeline components that encode images and captions."""
    names = {"vae", "text_encoder", "tokenizer"}
    return [
        [part.name, [part.config, part.weights.identity() if part.weights else []]]
        for part in model.others
        if part.name in names
    ]


def open_autoencoder(model: Model, device: torch.device) -> _ImageEncoder:
    """Open the model's autoencoder; returns a function from pairs to scaled latents."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    vae: Any = load_component(model, "vae", dtype)
    vae.to(device)

    def latents(pairs: Sequence[ImageText]) -> Tensor:
        found = []
        with torch.no_grad():
            for first in range(0, len(pairs), 8):
                drawn = np.stack([np.asarray(pair.image) for pair in pairs[first : first + 8]])
                shown = torch.from_numpy(drawn).permute(0, 3, 1, 2).to(device, dtype) / 127.5 - 1
                found.append(vae.encode(shown).latent.float() * vae.config.scaling_factor)
        return torch.cat(found)

    return latents
