"""What training takes of memory, worked out before it starts: counted, not guessed.

Activations are counted by letting autograd run on tensors without data: what it saves for the backward pass is what a
step holds at its peak. Weights, gradients, the optimizer's state and the average follow from the tensors' sizes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sanac.core.units import bytes_text
from sanac.train.optimizers import OPTIMIZERS

BASE = 600_000_000  # torch, diffusers and transformers, imported


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    largest: int  # what is held for a moment: a tensor's change, a block's gradients
    base: int = BASE

    @property
    def total(self) -> int:
        """At the peak of a step: activations make room for gradients as the backward pass goes on."""
        steady = self.weights + self.optimizer + self.average + self.base
        return steady + max(self.activations, self.gradients) + self.largest

    def __str__(self) -> str:
        """For people."""
        parts = {name: size for name, size in asdict(self).items() if name not in {"base", "largest"} and size}
        named = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items())
        return f"{bytes_text(self.total)} of memory ({named})"


@dataclass(frozen=True, slots=True)
class Load:
    """What a step is asked to do."""

    batch: int
    height: int  # of the latents
    width: int
    caption: int  # tokens
    checkpointing: bool = False
    precision: str = "fp32"
    lora: int | None = None


def estimate_memory(config: Mapping[str, Any], load: Load, optimizer: str, *, average: bool) -> Memory:
    """For a transformer of this config."""
    blocks = int(config["num_layers"])
    one, two = (_saved(dict(config) | {"num_layers": depth}, load) for depth in (1, 2))
    each, outside = two.saved - one.saved, 2 * one.saved - two.saved
    weights = one.weights + (blocks - 1) * (two.weights - one.weights)
    activations = outside + blocks * each
    if load.checkpointing:  # a block's input is kept, its inside comes again when its turn comes
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
    edges: int  # rows and columns of all matrices in the blocks: what a LoRA of rank 1 trains


def _saved(config: dict[str, Any], load: Load) -> _Counted:
    """Bytes of the weights, and of what autograd saves in a forward pass, for a transformer of this config."""
    from diffusers import SanaTransformer2DModel

    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # noqa: SLF001 (its identity: tensors without data have no address)
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
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=load.precision == "bf16"),
        ):
            loss = transformer(latents, caption, timestep, encoder_attention_mask=mask, return_dict=False)[0]
            loss = loss.float().square().mean()
        saved = sum(storage.nbytes() for identity, storage in storages.items() if identity not in own)
    tokens = load.height * load.width // int(config["patch_size"]) ** 2
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return _Counted(size, saved, 4 * load.batch * tokens * width, edges)
