"""The flow-matching task: a transformer learns the velocity of latents, given their captions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from sanac.train.flow_matching import TIMESTEPS, Times, drop_captions, flow_loss, noised


class Data(Protocol):
    """Where batches come from."""

    @property
    def identity(self) -> str:
        """Changes when the data does."""

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Latents (count, channels, height, width) as the transformer sees them, and their captions."""


Encoder = Callable[[list[str]], tuple[Tensor, Tensor]]  # captions -> embeddings (count, length, width), mask


class TransformerTask:
    """What is trained is a transformer, compiled or not; what encodes captions stays as it is."""

    transformer: nn.Module
    compiled: bool

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The transformer alone."""
        return {"transformer": self.transformer}

    @cached_property
    def forward(self) -> Callable[..., tuple[Tensor]]:
        """What a batch goes through."""
        found: Callable[..., tuple[Tensor]] = torch.compile(self.transformer) if self.compiled else self.transformer
        return found


@dataclass
class FlowTask(TransformerTask):
    """A transformer, what encodes its captions, and the data it learns from."""

    transformer: nn.Module
    encode: Encoder
    data: Data
    batch_size: int = 64
    times: Times = field(default_factory=Times)
    caption_dropout: float = 0.1
    compiled: bool = False
    shown: str = ""

    @property
    def identity(self) -> str:
        """What the loop's settings don't say."""
        return f"{self.data.identity} {self.batch_size} {self.times} {self.caption_dropout}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """One batch: draw data, noise and noise levels; compare the predicted velocity with the true one."""
        latents, captions = self.data.batch(self.batch_size, generator)
        self.shown = f"the captions {captions[0]!r} and {len(captions) - 1} more"
        dropped = drop_captions(len(captions), self.caption_dropout, generator)
        captions = ["" if drop else caption for caption, drop in zip(captions, dropped.tolist(), strict=True)]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        levels = self.times.draw(len(captions), generator).to(latents)
        embeddings, mask = self.encode(captions)
        states = noised(latents, noise, levels)
        predicted = self.forward(
            states, embeddings, levels * TIMESTEPS, encoder_attention_mask=mask, return_dict=False
        )[0]
        return flow_loss(predicted, latents, noise)
