"""Adapters that let graphs and engines replace the models of a stock diffusers pipeline."""

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
    """A module without weights that runs a graph and has the config of the class it replaces."""

    def __init__(self, graph: OnnxRunner, config: Any) -> None:
        """Wrap a graph; `config` is the config object of the replaced diffusers or transformers class."""
        super().__init__()
        self.graph, self.config = graph, config
        self.dtype, self.device = torch.float32, graph.device

    def to(self, *_: Any, **__: Any) -> "Part":
        """Do nothing: the session's device is fixed."""
        return self


class Transformer(Part):
    """Replacement for SanaTransformer2DModel."""

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
        """The velocity, in the dtype and on the device of the latents."""
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
    """Replacement for Gemma2Model."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> tuple[Tensor, ...]:
        """The last hidden state, on the device of the token ids."""
        return tuple(
            found.to(input_ids.device) for found in self.graph(input_ids=input_ids, attention_mask=attention_mask)
        )


class Autoencoder(Part):
    """Replacement for AutoencoderDC: `decode` and its tiling."""

    def __init__(self, graph: OnnxRunner, config: Any) -> None:
        """Wrap a decoder graph; tiling is off."""
        super().__init__(graph, config)
        self.side: int | None = None  # of a tile, in latents; None: no tiling

    def enable_tiling(
        self, tile_sample_min_height: int | None = None, tile_sample_min_width: int | None = None
    ) -> None:
        """Enable tiling as in diffusers, with sizes in pixels; tiles are square."""
        requested = [side for side in (tile_sample_min_height, tile_sample_min_width) if side]
        self.side = latents_of(min(requested, default=512), self.config)

    def disable_tiling(self) -> None:
        """Disable tiling."""
        self.side = None

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:  # noqa: FBT001, FBT002 (diffusers' own)
        """Decode unscaled latents to images."""

        def one(part: Tensor) -> Tensor:
            return self.graph(latent_sample=part)[0].to(latents)

        found = tiled(one, latents, self.side) if self.side else one(latents)
        return SimpleNamespace(sample=found) if return_dict else (found,)


def latents_of(pixels: int, config: Any) -> int:
    """Side in latents of `pixels` pixels, at least 1."""
    return max(1, pixels // shrinkage(config.encoder_layers_per_block))


@contextmanager
def tiled_decoder(pipeline: "SanaPipeline", pixels: int | None) -> Iterator[None]:
    """Decode in tiles of `pixels` pixels within the context, with torch or a graph; without tiling if None.

    diffusers' own tiling assumes that every autoencoder stage halves the size, which is wrong for some autoencoders.
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
