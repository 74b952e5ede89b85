"""What a model predicts without some of its blocks: many choices of blocks in one sweep over the weights.

Choices that begin alike share their way: at every block those that keep it part from those that drop it, and each
distinct beginning is computed once. So leaving out each block in turn costs one reading of the weights for all starts
that are given together, and about half as many blocks as one forward per choice.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import BlockInputs, head
from sanac.nn.streaming import Blocks

BlockSubset = tuple[int, ...]  # blocks that stay, ascending


def velocities(
    blocks: Blocks,
    outside: Mapping[str, Tensor],
    geometry: Geometry,
    starts: Sequence[BlockInputs],
    choices: Iterable[BlockSubset],
) -> dict[BlockSubset, list[Tensor]]:
    """The velocity of every start under every choice of blocks."""
    open_choices = dict.fromkeys(choices)
    states: dict[BlockSubset, list[Tensor]] = {(): [start.state for start in starts]}
    needed = sorted({index for kept in open_choices for index in kept})
    for index, tensors in blocks.sweep(needed):
        following: dict[BlockSubset, list[Tensor]] = {}
        for kept in _prefixes(open_choices, index + 1):
            if kept and kept[-1] == index:
                pairs = zip(states[kept[:-1]], starts, strict=True)
                following[kept] = [block(tensors, state, start.conditioning, geometry) for state, start in pairs]
            else:
                following[kept] = states[kept]
        states = following
    return {
        kept: [head(outside, state, start) for state, start in zip(states[kept], starts, strict=True)]
        for kept in open_choices
    }


def _prefixes(choices: Iterable[BlockSubset], stop: int) -> dict[BlockSubset, None]:
    """The distinct beginnings of choices, as far as blocks before `stop` go."""
    return dict.fromkeys(tuple(index for index in kept if index < stop) for kept in choices)


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of each sample, in fp32."""
    found, expected = found.float().flatten(1), expected.float().flatten(1)
    tiny = torch.finfo(torch.float32).tiny
    return (found - expected).square().sum(dim=1) / expected.square().sum(dim=1).clamp_min(tiny)
