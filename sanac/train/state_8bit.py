"""8-bit optimizer state: codes from -127 to 127, and one scale per block of 2048 elements.

The scale is absmax / 127. So zero is exact, a block of zeros has the scale 0, and a constant block is exact.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

BLOCK = 2048  # elements of the flattened tensor
CODES = 127


class Packed(NamedTuple):
    """A block-quantized tensor: codes and scales."""

    codes: Tensor  # int8, (elements,)
    scale: Tensor  # fp32, (blocks,)


def pack(values: Tensor, into: Packed, scratch: Tensor | None = None) -> None:
    """Quantize 1-D fp32 values into `into`; the last block may be shorter. `scratch` is as long as the values."""
    blocks = _blocks(values)
    scale = torch.maximum(blocks.amax(dim=1), -blocks.amin(dim=1)) / CODES  # four times as fast as an infinity norm
    inverse = torch.where(scale > 0, 1 / scale, 0)
    room = None if scratch is None or len(values) % BLOCK else scratch.view(-1, BLOCK)
    into.codes.copy_(torch.mul(blocks, inverse[:, None], out=room).round_().view(-1)[: len(values)])
    into.scale.copy_(scale)


def unpack(packed: Packed, out: Tensor) -> Tensor:
    """Dequantize into `out`, fp32."""
    count = len(packed.codes)
    whole = count - count % BLOCK
    out[:whole].view(-1, BLOCK).copy_(packed.codes[:whole].view(-1, BLOCK)).mul_(packed.scale[: whole // BLOCK, None])
    out[whole:].copy_(packed.codes[whole:]).mul_(packed.scale[whole // BLOCK :].sum())
    return out


def _blocks(values: Tensor) -> Tensor:
    short = -len(values) % BLOCK
    return (F.pad(values, (0, short)) if short else values).view(-1, BLOCK)
