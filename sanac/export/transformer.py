"""Traces the transformer: our own forward with a single block, which the graph repeats, and without weights.

It avoids constructs that ONNX optimizers would fold away, and every size that can vary between calls is symbolic.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from sanac.core.family.architecture import Architecture, split_block
from sanac.export.tracing import EDGE, Traced
from sanac.nn.blocks.block import Conditioning, Geometry, block
from sanac.nn.blocks.embed_head import embed, head, positions

INPUTS = ("hidden_states", "encoder_hidden_states", "encoder_attention_mask", "timestep")
GUIDANCE, OUTPUT = "guidance", "out_hidden_states"  # names that optimum's ONNX pipelines expect
_LARGEST = {"batch": 1024, "rows": 4096, "columns": 4096, "sequence_length": 8192}


class _Named(nn.Module):  # type: ignore[misc]
    """A module that registers parameters under dotted names."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        super().__init__()
        self.names = tuple(shapes)
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            place: nn.Module = self
            for step in path:
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = place.get_submodule(step)
            place.register_parameter(leaf, nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False))

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.get_parameter(name) for name in self.names}


class _Transformer(_Named):
    """The transformer with the signature of diffusers' class and a single block."""

    def __init__(self, architecture: Architecture, config: Mapping[str, Any], geometry: Geometry, dtype: torch.dtype):
        outside = {name: shape for name, shape in architecture.tensors().items() if split_block(name) is None}
        super().__init__(outside, dtype)
        self.transformer_blocks = nn.ModuleList([_Named(architecture.block_tensors(), dtype)])
        self.geometry, self.config = geometry, config

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        tensors = self.tensors()
        where = self._positions(hidden_states)
        start = embed(tensors, hidden_states, encoder_hidden_states, timestep, encoder_attention_mask, guidance, where)
        only = self.transformer_blocks[0]
        assert isinstance(only, _Named)
        conditioning: Conditioning = start.conditioning
        state = _edge(block(only.tensors(), _edge(start.state), conditioning, self.geometry))
        return head(tensors, state, start)

    def _positions(self, latents: Tensor) -> Tensor | None:
        scale, patch = self.config.get("interpolation_scale"), self.config["patch_size"]
        if scale is None:
            return None
        rows, columns = latents.shape[2] // patch, latents.shape[3] // patch
        return positions(rows, columns, self.config["sample_size"] // patch, scale, self._width)

    @property
    def _width(self) -> int:
        return len(self.get_parameter("patch_embed.proj.bias"))


def _edge(state: Tensor) -> Tensor:
    """Mark a block boundary in the traced program; the nodes between two marks are one block."""
    return torch.onnx.ops.symbolic(EDGE, (state,), dtype=state.dtype, shape=state.shape, version=1)


def transformer(
    architecture: Architecture,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    depthwise_dtype: torch.dtype | None = None,
    *,
    pointwise_as_linear: bool = False,
) -> Traced:
    """Trace the transformer in `dtype`; `depthwise_dtype` is the dtype of the depthwise convolution if it differs."""
    geometry = replace(
        Geometry.of(config),
        clamp_denominator=True,
        depthwise_dtype=depthwise_dtype,
        pointwise_as_linear=pointwise_as_linear,
    )
    patch, sizes = architecture.patch_size, {name: Dim(name, min=1, max=most) for name, most in _LARGEST.items()}
    image = {0: sizes["batch"], 2: patch * sizes["rows"], 3: patch * sizes["columns"]}
    text = {0: sizes["batch"], 1: sizes["sequence_length"]}
    shapes = [image, text, text, {0: sizes["batch"]}]
    with FakeTensorMode():
        net = _Transformer(architecture, config, geometry, dtype)
        inputs = [
            torch.empty(2, architecture.in_channels, 6 * patch, 10 * patch, dtype=dtype),
            torch.empty(2, 7, architecture.caption_channels, dtype=dtype),
            torch.ones(2, 7, dtype=torch.int64),
            torch.empty(2),
        ]
        if architecture.guidance:
            inputs.append(torch.empty(2))
            shapes.append({0: sizes["batch"]})
        program = torch.export.export(net, tuple(inputs), dynamic_shapes=tuple(shapes))
    prefix = f"{patch}*" if patch > 1 else ""
    latents = {0: "batch", 2: f"{prefix}rows", 3: f"{prefix}columns"}
    captions = {0: "batch", 1: "sequence_length"}
    axes = (latents, captions, captions, {0: "batch"}, {0: "batch"})
    names = (*INPUTS, GUIDANCE) if architecture.guidance else INPUTS
    return Traced(program, names, axes[: len(names)], OUTPUT, blocks=architecture.blocks)
