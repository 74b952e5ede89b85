"""Prompts as a transformer gets them: embeddings and masks, by the pipeline's own text encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput, UsageError
from sanac.nn.component_loading import quantized_parts
from sanac.nn.silence_libraries import quiet

LONGEST = 300  # tokens of a caption, as the pipeline cuts it


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Both branches of guidance: the prompts', and the empty prompt's. Padding that no prompt needs is cut off."""

    embeddings: Tensor  # (prompts, S, width)
    mask: Tensor  # (prompts, S)
    empty: Tensor  # (1, S', width)
    empty_mask: Tensor  # (1, S')

    def __len__(self) -> int:
        """How many prompts."""
        return len(self.embeddings)

    def part(self, start: int, stop: int) -> "EncodedPrompts":
        """Some of the prompts."""
        return EncodedPrompts(self.embeddings[start:stop], self.mask[start:stop], self.empty, self.empty_mask)

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedPrompts":
        """Elsewhere."""
        embeddings, empty = (part.to(device, dtype) for part in (self.embeddings, self.empty))
        return EncodedPrompts(embeddings, self.mask.to(device), empty, self.empty_mask.to(device))


def has_encoder(model: Model) -> bool:
    """Whether a model brings its text encoder along."""
    return model.model_index is not None and "text_encoder" in {part.name for part in model.others}


def encode(model: Model, prompts: Sequence[str], device: torch.device, batch: int = 16) -> EncodedPrompts:
    """Encode prompts with the model's text encoder, as its pipeline does; the encoder is dropped afterwards."""
    return open_encoder(model, device)(prompts, batch)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What turns prompts into captions; it holds the text encoder."""

    pipeline: Any
    device: torch.device

    @property
    def module(self) -> nn.Module:
        """The text encoder itself."""
        found: nn.Module = self.pipeline.text_encoder
        return found

    def __call__(self, prompts: Sequence[str], batch: int = 16) -> EncodedPrompts:
        """So many prompts at a time."""
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
    """The model's own."""
    if not has_encoder(model):
        raise UsageError(
            f"{model.located.name} has no text encoder",
            why="prompts can't be encoded without one",
            hint="give the pipeline's folder, or --embeddings FILE (sanac analyze PIPELINE --save-embeddings FILE)",
        )
    try:
        with quiet():
            from diffusers import SanaPipeline

            pipeline = SanaPipeline.from_pretrained(
                model.located.path,
                **quantized_parts(model, torch.float32, {"text_encoder"}),
                transformer=None,
                vae=None,
                local_files_only=True,
                use_safetensors=True,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"diffusers can't open {model.located.name}", why=str(error).splitlines()[0][:300]
        ) from error
    pipeline.text_encoder.to(device)
    return Encoder(pipeline, device)


def _instruction() -> list[str]:
    """What the pipeline puts in front of prompts unless told otherwise."""
    import inspect

    from diffusers import SanaPipeline

    default: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return default


def trimmed(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the padding at the end that no prompt needs."""
    used = int(mask.any(dim=0).nonzero().max()) + 1
    return embeddings[:, :used].contiguous(), mask[:, :used].contiguous()
