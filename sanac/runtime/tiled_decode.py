"""Decodes large images tile by tile, with the peak memory of one tile plus the image."""

from collections.abc import Callable

import torch
from torch import Tensor

OVERLAP = 0.25  # share of a tile's side that overlaps with its neighbour


def tiled(decode: Callable[[Tensor], Tensor], latents: Tensor, side: int) -> Tensor:
    """Decode latents in overlapping tiles of `side` latents and blend them linearly."""
    rows, columns = (_starts(size, side) for size in latents.shape[2:])
    if len(rows) == len(columns) == 1:
        return decode(latents)
    found = weights = None
    for top in rows:
        for left in columns:
            part = decode(latents[:, :, top : top + side, left : left + side])
            factor = part.shape[2] // min(side, latents.shape[2])
            if found is None or weights is None:
                whole = [size * factor for size in latents.shape[2:]]
                found, weights = part.new_zeros((*part.shape[:2], *whole)), part.new_zeros(whole)
            height, width = part.shape[2:]
            share = _ramp(height, part)[:, None] * _ramp(width, part)[None, :]
            place = (slice(top * factor, top * factor + height), slice(left * factor, left * factor + width))
            found[:, :, *place] += part * share
            weights[place] += share
    assert found is not None
    assert weights is not None
    return found.div_(weights)


def _starts(size: int, side: int) -> list[int]:
    """Evenly spaced starts of tiles; the last tile ends at the edge."""
    if size <= side:
        return [0]
    step = max(1, int(side * (1 - OVERLAP)))
    count = -(-(size - side) // step) + 1
    return [round(number * (size - side) / (count - 1)) for number in range(count)]


def _ramp(length: int, like: Tensor) -> Tensor:
    """Blending weights of a tile: 1 in the middle, falling towards 0 at both ends."""
    fading = max(1, int(length * OVERLAP))
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    edge = torch.minimum(place, length - 1 - place) + 1
    return (edge / fading).clamp(max=1)
