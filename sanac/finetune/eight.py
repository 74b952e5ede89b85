"""Eight bits for what an optimizer remembers: a scale and a zero for each block of 2048 elements.

The range of a block, min to max and always with zero in it, is cut into 255 steps, and one of the codes is exactly
zero: what is zero stays zero. A block of nothing but zeros has the scale 0.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

BLOCK = 2048  # elements, counted through the flattened tensor


class Packed(NamedTuple):
    """Codes, and how to read them."""

    codes: Tensor  # int8, (elements,)
    scale: Tensor  # fp32, (blocks,)
    zero: Tensor  # int8, (blocks,): the code of zero


def pack(values: Tensor) -> Packed:
    """Fp32 values, one dimension, to codes; the last block may be shorter."""
    blocks = _blocks(values)
    low, high = blocks.amin(dim=1).clamp_(max=0), blocks.amax(dim=1).clamp_(min=0)
    scale = (high - low) / 255
    inverse = torch.where(scale > 0, 1 / scale, 0)
    zero = (-low * inverse).round_() - 128
    codes = (blocks * inverse[:, None]).add_(zero[:, None]).round_().clamp_(-128, 127).to(torch.int8)
    return Packed(codes.flatten()[: len(values)], scale, zero.to(torch.int8))


def unpack(packed: Packed) -> Tensor:
    """Codes to fp32 values."""
    blocks = _blocks(packed.codes).float()
    return blocks.sub_(packed.zero[:, None]).mul_(packed.scale[:, None]).flatten()[: len(packed.codes)]


def _blocks(values: Tensor) -> Tensor:
    short = -len(values) % BLOCK
    return (F.pad(values, (0, short)) if short else values).view(-1, BLOCK)
