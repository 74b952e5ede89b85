"""Estimates the memory of training before it starts.

Activations are counted by running autograd on fake tensors: the tensors it saves for the backward pass are the peak of
a step. Weights, gradients, optimizer state and EMA follow from the tensor sizes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sanac.core.units import bytes_text
from sanac.nn.guidance import guidance_of
from sanac.train.optimizers import OPTIMIZERS

BASE = 600_000_000  # bytes of imported torch, diffusers and transformers


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of training memory by purpose."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    largest: int  # largest temporary: a tensor's update, a block's gradients
    base: int = BASE

    @property
    def total(self) -> int:
        """Peak bytes of a step: the backward pass frees activations as it allocates gradients."""
        steady = self.weights + self.optimizer + self.average + self.base
        return steady + max(self.activations, self.gradients) + self.largest

    def __str__(self) -> str:
        """The total and its parts, readable."""
        parts = {name: size for name, size in asdict(self).items() if name not in {"base", "largest"} and size}
        named = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items())
        return f"{bytes_text(self.total)} of memory ({named})"


@dataclass(frozen=True, slots=True)
class Load:
    """Size and options of a training step."""

    batch: int
    height: int  # of the latents
    width: int
    caption: int  # tokens
    checkpointing: bool = False
    precision: str = "fp32"
    lora: int | None = None


def estimate_memory(config: Mapping[str, Any], load: Load, optimizer: str, *, average: bool) -> Memory:
    """Memory of training a transformer with this config."""
    blocks = int(config["num_layers"])
    one, two = (_saved(dict(config) | {"num_layers": depth}, load) for depth in (1, 2))
    each, outside = two.saved - one.saved, 2 * one.saved - two.saved
    weights = one.weights + (blocks - 1) * (two.weights - one.weights)
    activations = outside + blocks * each
    if load.checkpointing:  # stores each block's input and recomputes one block at a time
        activations = outside + blocks * one.stream + each
    trained = weights if load.lora is None else 4 * load.lora * blocks * one.edges
    return Memory(
        weights=weights + (trained if load.lora else 0),
        gradients=trained,
        optimizer=int(trained / 4 * OPTIMIZERS[optimizer]),
        average=trained if average else 0,
        activations=activations,
        largest=2 * (two.weights - one.weights) // 4,
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    weights: int
    saved: int
    stream: int
    edges: int  # rows plus columns of all matrices in the blocks: parameters of a rank-1 LoRA


def _saved(config: dict[str, Any], load: Load) -> _Counted:
    """Bytes of the weights, and of the tensors that autograd saves in a forward pass, for a config."""
    from diffusers import SanaTransformer2DModel

    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # noqa: SLF001 (identity: fake tensors have no address)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        transformer: nn.Module = SanaTransformer2DModel.from_config(config)
        matrices = [weight.squeeze() for weight in transformer.transformer_blocks.parameters()]
        edges = sum(sum(weight.shape) for weight in matrices if weight.dim() == 2 and min(weight.shape) > 6)
        own = {weight.untyped_storage()._cdata for weight in transformer.parameters()}  # noqa: SLF001
        size = sum(weight.numel() * weight.element_size() for weight in transformer.parameters())
        latents = torch.empty(load.batch, config["in_channels"], load.height, load.width)
        caption = torch.empty(load.batch, load.caption, config["caption_channels"])
        mask = torch.ones(load.batch, load.caption)
        timestep = torch.empty(load.batch)
        guidance = guidance_of(config).embedded(load.batch, timestep.device)
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=load.precision == "bf16"),
        ):
            loss = transformer(latents, caption, timestep, guidance, encoder_attention_mask=mask, return_dict=False)[0]
            loss = loss.float().square().mean()
        saved = sum(storage.nbytes() for identity, storage in storages.items() if identity not in own)
    tokens = load.height * load.width // int(config["patch_size"]) ** 2
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return _Counted(size, saved, 4 * load.batch * tokens * width, edges)
