"""NVlabs' checkpoint layout: fused qkv and kv, other names, and a few tensors that diffusers doesn't have.

Conversion works on byte ranges in both directions: a split along the rows of a fused matrix is a range of its bytes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture, block_name, split_block
from sanac.core.safetensors_header import TensorRef

_BLOCK = re.compile(r"blocks\.(0|[1-9]\d{0,5})\.(.+)")
_PREFIX = "model.diffusion_model."
# NVlabs' module -> diffusers' modules; more than one means that the rows are fused in this order.
_OUTSIDE: dict[str, tuple[str, ...]] = {
    "x_embedder.proj": ("patch_embed.proj",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    "attention_y_norm": ("caption_norm",),
    "t_block.1": ("time_embed.linear",),
    "final_layer.linear": ("proj_out",),
}
_TIME = {
    "t_embedder.mlp.0": ("time_embed.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_embed.emb.timestep_embedder.linear_2",),
}
_TIME_WITH_GUIDANCE = {
    "t_embedder.mlp.0": ("time_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_embed.timestep_embedder.linear_2",),
    "cfg_embedder.mlp.0": ("time_embed.guidance_embedder.linear_1",),
    "cfg_embedder.mlp.2": ("time_embed.guidance_embedder.linear_2",),
}
_INSIDE: dict[str, tuple[str, ...]] = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.q_norm": ("attn1.norm_q",),
    "attn.k_norm": ("attn1.norm_k",),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.q_norm": ("attn2.norm_q",),
    "cross_attn.k_norm": ("attn2.norm_k",),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.inverted_conv.conv": ("ff.conv_inverted",),
    "mlp.depth_conv.conv": ("ff.conv_depth",),
    "mlp.point_conv.conv": ("ff.conv_point",),
}
_INTERPOLATION = {16: None, 32: None, 64: 1.0, 128: 2.0}  # by latent side: images of 512 to 4096 px
_TABLES = {"final_layer.scale_shift_table": "scale_shift_table"}
_ONLY_HERE = re.compile(r"y_embedder\.y_embedding|pos_embed|logvar_linear\.(weight|bias)")


def is_nvlabs(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether `tensors` has NVlabs' names."""
    return any(
        (match := _BLOCK.fullmatch(name.removeprefix(_PREFIX))) and match[2].startswith("mlp.inverted_conv.")
        for name in tensors
    )


def to_diffusers(tensors: Mapping[str, TensorRef], where: str) -> tuple[dict[str, TensorRef], dict[str, TensorRef]]:
    """(the weights under diffusers' names, tensors that only NVlabs' layout has). Unknown names are kept unchanged."""
    plain = {name.removeprefix(_PREFIX): ref for name, ref in tensors.items()}
    if len(plain) != len(tensors):
        raise InvalidInput(f"{where} has tensors twice", why=f"with and without the prefix {_PREFIX}")
    guidance = any(name.startswith("cfg_embedder.") for name in plain)
    outside = _OUTSIDE | (_TIME_WITH_GUIDANCE if guidance else _TIME)
    extras = {name: replace(ref, name=name) for name, ref in plain.items() if _ONLY_HERE.fullmatch(name)}
    found: dict[str, TensorRef] = {}
    problems: list[str] = []
    for name, ref in plain.items():
        if name in extras:
            continue
        targets = _targets(name, outside)
        if ref.shape and ref.shape[0] % len(targets) == 0:
            found |= {part.name: part for part in _split(ref, targets)}
        else:
            problems.append(f"{name} has shape {list(ref.shape)}: its rows don't split into {len(targets)} equal parts")
    if problems:
        raise InvalidInput(f"{where} is not a complete SANA", why=problems[0], problems=problems)
    return found, extras


def _targets(name: str, outside: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names in diffusers of an NVlabs tensor (several if it is fused); the name itself if it is unknown."""
    if name in _TABLES:
        return (_TABLES[name],)
    block = _BLOCK.fullmatch(name)
    module, _, leaf = (block[2] if block else name).rpartition(".")
    table = _INSIDE if block else outside
    if block and not module:  # scale_shift_table
        return (block_name(int(block[1]), leaf),)
    if module not in table:
        return (name,)
    rests = [f"{target}.{leaf}" for target in table[module]]
    return tuple(block_name(int(block[1]), rest) for rest in rests) if block else tuple(rests)


def _split(ref: TensorRef, targets: tuple[str, ...]) -> list[TensorRef]:
    rows, size = ref.shape[0] // len(targets), ref.size // len(targets)
    shape = (rows, *ref.shape[1:])
    return [TensorRef(name, ref.dtype, shape, ref.path, ref.start + n * size, size) for n, name in enumerate(targets)]


def sources(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """For each NVlabs tensor, in NVlabs' order, the diffusers tensors whose rows it concatenates."""
    tensors = architecture.tensors()
    outside = _OUTSIDE | (_TIME_WITH_GUIDANCE if architecture.guidance else _TIME)
    named = _with_leaves(outside, {name for name in tensors if split_block(name) is None})
    named |= {new: (old,) for new, old in _TABLES.items()}
    block = {"scale_shift_table": ("scale_shift_table",)} | _with_leaves(_INSIDE, set(architecture.block_tensors()))
    for index in range(architecture.blocks):
        named |= {
            f"blocks.{index}.{rest}": tuple(block_name(index, source) for source in sources)
            for rest, sources in block.items()
        }
    return named


def _with_leaves(table: Mapping[str, tuple[str, ...]], present: set[str]) -> dict[str, tuple[str, ...]]:
    return {
        f"{module}.{leaf}": tuple(f"{target}.{leaf}" for target in targets)
        for module, targets in table.items()
        for leaf in ("weight", "bias")
        if f"{targets[0]}.{leaf}" in present
    }


def image_size(extras: Mapping[str, TensorRef]) -> dict[str, Any]:
    """Config keys for the image size, from the position embedding; {} without one (diffusers uses one from 2K on)."""
    found = extras.get("pos_embed")
    side = math.isqrt(found.shape[1]) if found and len(found.shape) == 3 else 0
    if side not in _INTERPOLATION:
        return {}
    return {"sample_size": side, "interpolation_scale": _INTERPOLATION[side]}


def own_tensors(architecture: Architecture, tokens: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that only NVlabs' layout has, for a model whose latent has `tokens` positions.

    300 is the caption length of every released configuration. `logvar_linear` only exists where learned variance was
    trained, so it is copied if present and never created.
    """
    return {
        "pos_embed": (1, tokens, architecture.width),
        "y_embedder.y_embedding": (300, architecture.caption_channels),
    }
