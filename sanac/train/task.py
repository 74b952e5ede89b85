"""The flow-matching task: trains a transformer to predict the velocity of noised latents from their captions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from sanac.nn.guidance import TIMESTEPS
from sanac.train.flow_matching import Times, drop_captions, flow_loss, noised


class Data(Protocol):
    """A source of batches."""

    @property
    def identity(self) -> str:
        """Identity of the data; changes when the data changes."""

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Draw scaled latents (count, channels, height, width) and their captions."""


Encoder = Callable[[list[str]], tuple[Tensor, Tensor]]  # captions -> embeddings (count, length, width), mask


class WholeBatches:
    """Base of tasks that compute the loss of a batch at once."""

    def loss(self, generator: torch.Generator, number: int, /) -> Tensor:
        """The loss of batch `number`."""
        raise NotImplementedError

    def losses(self, generator: torch.Generator, number: int, /) -> Iterator[Tensor]:
        """The loss of batch `number`, in one part."""
        yield self.loss(generator, number)


class TransformerTask(WholeBatches):
    """Base of tasks that train a transformer only, compiled or not."""

    transformer: nn.Module
    compiled: bool

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Trained modules: the transformer."""
        return {"transformer": self.transformer}

    @cached_property
    def forward(self) -> Callable[..., tuple[Tensor]]:
        """The transformer, compiled if `compiled` is set."""
        found: Callable[..., tuple[Tensor]] = torch.compile(self.transformer) if self.compiled else self.transformer
        return found


@dataclass
class FlowTask(TransformerTask):
    """Flow-matching training of a transformer with a caption encoder and a data source."""

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
        """Everything that training depends on beyond the loop's settings."""
        return f"{self.data.identity} {self.batch_size} {self.times} {self.caption_dropout}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """Flow-matching loss of one batch: draws data, noise and noise levels, and compares velocities."""
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
