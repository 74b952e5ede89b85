"""The layers before and after the blocks: embeddings of latents, timestep and caption, and the output head."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.nn.blocks.block import Conditioning, layer_norm, rms_norm

Tensors = Mapping[str, Tensor]  # a transformer's tensors outside the blocks, by full name

HEAD_EPSILON = 1e-6
_FREQUENCIES = 128


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """The inputs of the first block, the conditioning of all blocks, and the timestep embedding for the head."""

    state: Tensor  # (B, N, C)
    conditioning: Conditioning
    timestep: Tensor  # (B, C)


def embed(
    tensors: Tensors,
    latents: Tensor,
    caption: Tensor,
    timestep: Tensor,
    mask: Tensor | None = None,
    guidance: Tensor | None = None,
    positions: Tensor | None = None,
) -> BlockInputs:
    """Block inputs from latents (B, channels, height, width), captions (B, S, width), timesteps (B,) and mask (B, S).

    `guidance` is for guidance-distilled models; `positions` (1, N, C) for models of 2K and 4K images.
    """
    weight = tensors["patch_embed.proj.weight"]
    patches = F.conv2d(latents, weight, tensors["patch_embed.proj.bias"], stride=weight.shape[-1])
    state = patches.flatten(2).transpose(1, 2)
    if positions is not None:
        state = (state + positions).to(state.dtype)
    prefix = "time_embed." if guidance is not None else "time_embed.emb."
    embedded = _embedded(tensors, f"{prefix}timestep_embedder", timestep, state.dtype)
    if guidance is not None:
        embedded = embedded + _embedded(tensors, "time_embed.guidance_embedder", guidance, state.dtype)
    modulation = _linear(tensors, "time_embed.linear", F.silu(embedded))
    bias = None if mask is None else ((1 - mask.to(latents.dtype)) * -10000.0).unsqueeze(1)
    conditioning = Conditioning(modulation, project_caption(tensors, caption), bias, patches.shape[2], patches.shape[3])
    return BlockInputs(state, conditioning, embedded)


def embed_inputs(
    config: Mapping[str, Any],
    tensors: Tensors,
    latents: Tensor,
    caption: Tensor,
    timestep: Tensor,
    mask: Tensor | None = None,
    guidance: Tensor | None = None,
) -> BlockInputs:
    """`embed`, with the position embedding that the transformer's config asks for, as models of 2K and 4K images do."""
    scale, where = config.get("interpolation_scale"), None
    if scale is not None:
        patch = config["patch_size"]
        rows, columns = (side // patch for side in latents.shape[2:])
        width = len(tensors["patch_embed.proj.bias"])
        where = positions(rows, columns, config["sample_size"] // patch, scale, width).to(latents.device)
    return embed(tensors, latents, caption, timestep, mask, guidance, where)


def project_caption(tensors: Tensors, caption: Tensor) -> Tensor:
    """Caption embeddings projected to the blocks' width: (B, S, C)."""
    wide = F.gelu(_linear(tensors, "caption_projection.linear_1", caption), approximate="tanh")
    return rms_norm(_linear(tensors, "caption_projection.linear_2", wide), tensors["caption_norm.weight"])


def head(tensors: Tensors, state: Tensor, inputs: BlockInputs) -> Tensor:
    """The velocity (B, channels, height, width) from the last block's output `state`."""
    shift, scale = (tensors["scale_shift_table"][None] + inputs.timestep[:, None]).chunk(2, dim=1)
    values = _linear(tensors, "proj_out", layer_norm(state, HEAD_EPSILON) * (1 + scale) + shift)
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    height, width = inputs.conditioning.height, inputs.conditioning.width
    values = values.reshape(values.shape[0], height, width, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return values.reshape(values.shape[0], -1, height * patch, width * patch)


def _embedded(tensors: Tensors, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Sinusoidal embedding of one number per sample, through a two-layer MLP."""
    waves = sinusoidal(value).to(dtype)
    return _linear(tensors, f"{name}.linear_2", F.silu(_linear(tensors, f"{name}.linear_1", waves)))


def positions(rows: int, columns: int, base: int, scale: float, width: int) -> Tensor:
    """Sinusoidal position embedding (1, rows x columns, width), fp32: columns, then rows; a side spans `base` steps."""
    steps = torch.arange(width // 4, dtype=torch.float64) / (width / 4)
    omega = (1.0 / 10000**steps).float()
    sides = []
    for count, shape in ((columns, (1, columns, -1)), (rows, (rows, 1, -1))):
        angle = torch.arange(count, dtype=torch.float32)[:, None] / (count / base) / scale * omega
        waves = torch.cat((angle.sin(), angle.cos()), dim=1)
        sides.append(waves.view(shape).expand(rows, columns, -1))
    return torch.cat(sides, dim=2).flatten(0, 1)[None]


def sinusoidal(value: Tensor) -> Tensor:
    """(B,) -> (B, 256): cosines, then sines, of 128 frequencies from 1 down to nearly 1 / 10000."""
    exponent = -math.log(10000) * torch.arange(0, _FREQUENCIES, dtype=torch.float32, device=value.device)
    angle = value[:, None].float() * torch.exp(exponent / _FREQUENCIES)[None, :]
    return torch.cat((torch.cos(angle), torch.sin(angle)), dim=-1)


def _linear(tensors: Tensors, name: str, values: Tensor) -> Tensor:
    return F.linear(values, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
