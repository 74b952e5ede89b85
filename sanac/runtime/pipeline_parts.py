"""What a stock diffusers pipeline asks of its models, answered by graphs and engines."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sanac.nn.device import shrinkage
from sanac.runtime.onnx_session import OnnxRunner
from sanac.runtime.tiled_decode import tiled

if TYPE_CHECKING:
    from diffusers import SanaPipeline


class Part(nn.Module):  # type: ignore[misc]
    """A graph, and the config of the class that it stands for. It has no weights of its own."""

    def __init__(self, graph: OnnxRunner, config: Any) -> None:
        """The config is the one of diffusers' or transformers' own."""
        super().__init__()
        self.graph, self.config = graph, config
        self.dtype, self.device = torch.float32, graph.device

    def to(self, *_: Any, **__: Any) -> "Part":
        """It stays where its session is."""
        return self


class Transformer(Part):
    """SanaTransformer2DModel's call."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,  # noqa: FBT001, FBT002 (diffusers' own)
        **_: Any,
    ) -> Any:
        """The velocity, as the latents are."""
        if encoder_attention_mask is None:
            encoder_attention_mask = torch.ones(encoder_hidden_states.shape[:2], dtype=torch.int64)
        inputs = {
            "hidden_states": hidden_states,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            "timestep": timestep,
        }
        (found,) = self.graph(**inputs | ({"guidance": guidance} if guidance is not None else {}))
        found = found.to(hidden_states)
        return SimpleNamespace(sample=found) if return_dict else (found,)


class TextEncoder(Part):
    """Gemma2Model's call."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> tuple[Tensor, ...]:
        """The last hidden state, where the ids are."""
        return tuple(
            found.to(input_ids.device) for found in self.graph(input_ids=input_ids, attention_mask=attention_mask)
        )


class Autoencoder(Part):
    """AutoencoderDC's `decode`, and its tiling."""

    def __init__(self, graph: OnnxRunner, config: Any) -> None:
        """As any part; it decodes in one piece until told otherwise."""
        super().__init__(graph, config)
        self.side: int | None = None  # of a tile, in latents

    def enable_tiling(
        self, tile_sample_min_height: int | None = None, tile_sample_min_width: int | None = None
    ) -> None:
        """As diffusers' own; pixels. Tiles are square."""
        requested = [side for side in (tile_sample_min_height, tile_sample_min_width) if side]
        self.side = latents_of(min(requested, default=512), self.config)

    def disable_tiling(self) -> None:
        """In one piece again."""
        self.side = None

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:  # noqa: FBT001, FBT002 (diffusers' own)
        """From latents, unscaled, to the picture."""

        def one(part: Tensor) -> Tensor:
            return self.graph(latent_sample=part)[0].to(latents)

        found = tiled(one, latents, self.side) if self.side else one(latents)
        return SimpleNamespace(sample=found) if return_dict else (found,)


def latents_of(pixels: int, config: Any) -> int:
    """How many latents these pixels are, each way."""
    return max(1, pixels // shrinkage(config.encoder_layers_per_block))


@contextmanager
def tiled_decoder(pipeline: "SanaPipeline", pixels: int | None) -> Iterator[None]:
    """Decode in tiles of so many pixels meanwhile, whoever decodes; in one piece where none are given.

    diffusers' own tiling counts every stage of an autoencoder as a halving, and is right only where each is one.
    """
    if pixels is None:
        yield
        return
    vae = pipeline.vae
    whole, side = vae.decode, latents_of(pixels, vae.config)

    def decode(latents: Tensor, return_dict: bool = True) -> Any:  # noqa: FBT001, FBT002 (diffusers' own)
        found = tiled(lambda part: whole(part, return_dict=False)[0], latents, side)
        return SimpleNamespace(sample=found) if return_dict else (found,)

    vae.decode = decode
    try:
        yield
    finally:
        vae.decode = whole
