"""The full transformer forward pass over a dict of tensors: embeddings, blocks, head."""

from collections.abc import Callable, Mapping

from torch import Tensor

from sanac.core.family.architecture import block_name, split_block
from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import embed, head

Observer = Callable[[int, Tensor, Tensor], None]  # block, its input, its output


def forward(
    tensors: Mapping[str, Tensor],
    geometry: Geometry,
    latents: Tensor,
    caption: Tensor,
    timestep: Tensor,
    mask: Tensor | None = None,
    guidance: Tensor | None = None,
    positions: Tensor | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """The velocity predicted by a model with these tensors; `observe` receives each block's input and output."""
    start = embed(tensors, latents, caption, timestep, mask, guidance, positions)
    state = start.state
    for index, part in enumerate(blocks_of(tensors)):
        after = block(part, state, start.conditioning, geometry)
        if observe:
            observe(index, state, after)
        state = after
    return head(tensors, state, start)


def blocks_of(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of each block, under the names that `block` uses."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        inside = split_block(name)
        if inside:
            found.setdefault(inside[0], {})[inside[1]] = tensor
    assert sorted(found) == list(range(len(found))), f"no block {block_name(len(found), '')}"
    return [found[index] for index in range(len(found))]
