"""sanac:tiny with outliers planted: the same function, channels three hundred times as large on the way.

What `conv_point` is given and what both attentions give is multiplied in a few channels, by the weights before; the
weights behind divide by it. In fp32, so that nothing else changes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from sanac.nn.silence_libraries import silent

with silent():  # they warn while they load
    from diffusers import SanaPipeline

TIMES, CHANNELS = 300.0, 3


def plant(transformer: nn.Module) -> None:
    """In every block of diffusers' transformer, in place."""
    generator = torch.Generator().manual_seed(0)
    for block in transformer.transformer_blocks:
        ff = block.ff
        half = ff.conv_point.in_channels
        spread = _spread(half, generator)
        both = torch.cat((spread, torch.ones(half)))  # the first half is gated by the second
        _multiply(ff.conv_depth, both)
        ff.conv_point.weight.data.div_(spread[:, None, None])
        for attention in (block.attn1, block.attn2):
            spread = _spread(attention.to_v.out_features, generator)
            _multiply(attention.to_v, spread)
            attention.to_out[0].weight.data.div_(spread)


def _spread(count: int, generator: torch.Generator) -> Tensor:
    found = torch.ones(count)
    found[torch.randperm(count, generator=generator)[:CHANNELS]] = TIMES
    return found


def _multiply(layer: nn.Module, spread: Tensor) -> None:
    layer.weight.data.mul_(spread.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.data.mul_(spread)


def write_outliers(source: Path, folder: Path) -> None:
    """A pipeline whose transformer has them."""
    pipe = SanaPipeline.from_pretrained(source)
    plant(pipe.transformer.float())
    pipe.save_pretrained(folder)
