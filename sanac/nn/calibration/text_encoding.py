"""Text encoding: prompts to embeddings and masks, with the pipeline's own text encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError
from sanac.nn.guidance import Caption, Guidance
from sanac.nn.silence_libraries import silent
from sanac.nn.stock_loading import load_pipeline

LONGEST = 300  # maximum caption tokens, as in the pipeline


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Caption embeddings of the prompts and of the empty prompt (for guidance), without common padding."""

    embeddings: Tensor  # (prompts, S, width)
    mask: Tensor  # (prompts, S)
    empty: Tensor  # (1, S', width)
    empty_mask: Tensor  # (1, S')

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.embeddings)

    def part(self, start: int, stop: int) -> "EncodedPrompts":
        """The captions of prompts start..stop."""
        return EncodedPrompts(self.embeddings[start:stop], self.mask[start:stop], self.empty, self.empty_mask)

    def branches(self, guidance: Guidance) -> tuple[Caption, ...]:
        """The captions and masks of all prompts on each branch of guidance."""
        return guidance.captions((self.embeddings, self.mask), (self.empty, self.empty_mask))

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedPrompts":
        """A copy on `device`, with embeddings in `dtype`."""
        embeddings, empty = (part.to(device, dtype) for part in (self.embeddings, self.empty))
        return EncodedPrompts(embeddings, self.mask.to(device), empty, self.empty_mask.to(device))


def has_encoder(model: Model) -> bool:
    """Whether `model` includes a text encoder."""
    return model.model_index is not None and "text_encoder" in {part.name for part in model.others}


def encode(model: Model, prompts: Sequence[str], device: torch.device, batch: int = 16) -> EncodedPrompts:
    """Encode prompts as the model's pipeline does; the text encoder is released afterwards."""
    return open_encoder(model, device)(prompts, batch)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes prompts; holds the pipeline's text encoder in memory."""

    pipeline: Any
    device: torch.device

    @property
    def module(self) -> nn.Module:
        """The text encoder module."""
        found: nn.Module = self.pipeline.text_encoder
        return found

    def __call__(self, prompts: Sequence[str], batch: int = 16) -> EncodedPrompts:
        """Encode `prompts` in batches of `batch`."""
        instruction, found = _instruction(), list[tuple[Tensor, Tensor]]()
        with torch.no_grad():
            for start in range(0, len(prompts), batch):
                part = list(prompts[start : start + batch])
                how = {"complex_human_instruction": instruction, "device": self.device}
                found.append(self.pipeline.encode_prompt(part, do_classifier_free_guidance=False, **how)[:2])
            *_, empty, empty_mask = self.pipeline.encode_prompt("", device=self.device)
        embeddings, mask = (torch.cat(parts) for parts in zip(*found, strict=True))
        return EncodedPrompts(*trimmed(embeddings, mask), *trimmed(empty[:1], empty_mask[:1]))


def open_encoder(model: Model, device: torch.device) -> Encoder:
    """The encoder with the model's own text encoder; UsageError if it has none."""
    if not has_encoder(model):
        raise UsageError(
            f"{model.located.name} has no text encoder",
            why="prompts can't be encoded without one",
            hint="pass the pipeline's folder, or --embeddings FILE (sanac analyze PIPELINE --save-embeddings FILE)",
        )
    pipeline = load_pipeline(model, {"transformer": None, "vae": None})
    pipeline.text_encoder.to(device)
    return Encoder(pipeline, device)


def _instruction() -> list[str]:
    """The instruction that the pipeline prepends to prompts by default."""
    import inspect

    with silent():
        from diffusers import SanaPipeline

    default: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return default


def trimmed(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and mask without trailing padding that all prompts share."""
    used = int(mask.any(dim=0).nonzero().max()) + 1
    return embeddings[:, :used].contiguous(), mask[:, :used].contiguous()
