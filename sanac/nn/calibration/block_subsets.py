"""Velocities of a model without some of its blocks: many block subsets in one sweep over the weights.

Subsets with a common prefix share its computation: each distinct prefix of kept blocks is computed once. Leaving out
each block in turn thus reads the weights once for all inputs passed together, and computes about half as many blocks as
one forward pass per subset.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import BlockInputs, head
from sanac.nn.streaming import Blocks

BlockSubset = tuple[int, ...]  # indices of the kept blocks, ascending


def velocities(
    blocks: Blocks,
    outside: Mapping[str, Tensor],
    geometry: Geometry,
    starts: Sequence[BlockInputs],
    choices: Iterable[BlockSubset],
) -> dict[BlockSubset, list[Tensor]]:
    """For each block subset of `choices`, the velocity of each of `starts`."""
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
        kept: [head(outside, state, start).float() for state, start in zip(states[kept], starts, strict=True)]
        for kept in open_choices
    }


def _prefixes(choices: Iterable[BlockSubset], stop: int) -> dict[BlockSubset, None]:
    """The distinct prefixes of `choices`, restricted to blocks before `stop`."""
    return dict.fromkeys(tuple(index for index in kept if index < stop) for kept in choices)


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of each sample, in fp32."""
    found, expected = found.float().flatten(1), expected.float().flatten(1)
    tiny = torch.finfo(torch.float32).tiny
    return (found - expected).square().sum(dim=1) / expected.square().sum(dim=1).clamp_min(tiny)
