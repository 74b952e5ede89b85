"""Estimates the memory of training before it starts.

Activations are counted by running autograd on fake tensors: the tensors it saves for the backward pass are the peak of
a step. Weights, gradients, optimizer state and EMA follow from the tensor sizes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.resources import user_cache
from sanac.core.units import bytes_text
from sanac.nn.guidance import guidance_of
from sanac.nn.silence_libraries import silent
from sanac.train.optimizers import OPTIMIZERS

_KEPT = 255  # counts in the cache
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
    accumulated: bool = False  # whether gradients wait for further passes of the same step

    @property
    def total(self) -> int:
        """Peak bytes of a step.

        The backward pass frees activations as it allocates gradients; those of earlier passes are there throughout.
        """
        steady = self.weights + self.optimizer + self.average + self.base + self.largest
        if self.accumulated:
            return steady + self.activations + self.gradients
        return steady + max(self.activations, self.gradients)

    def __str__(self) -> str:
        """The total and its parts, readable."""
        unnamed = {"base", "largest", "accumulated"}
        parts = {name: size for name, size in asdict(self).items() if name not in unnamed and size}
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
    accumulated: bool = False  # whether a step has several passes
    frozen: int = 0  # blocks at the start that are not trained
    half_weights: bool = False  # whether frozen weights are kept in bf16, as under a LoRA


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of a network of some depth, and of what autograd saves in a pass."""

    weights: int
    saved: int
    stream: int
    edges: int  # rows plus columns of all matrices in the blocks: parameters of a rank-1 LoRA


def estimate_memory(config: Mapping[str, Any], load: Load, optimizer: str, *, average: bool) -> Memory:
    """Memory of training a transformer with this config; `average`: whether the EMA is on the same device."""
    counting = partial(_saved, json.dumps(dict(config) | {"num_layers": 0}, sort_keys=True))
    return memory_of(int(config["num_layers"]), counting, load, optimizer, average=average)


def memory_of(
    blocks: int, counting: Callable[[int, Load], Counted], load: Load, optimizer: str, *, average: bool
) -> Memory:
    """Memory of training a network of `blocks` blocks, of which `counting` counts what one and two take."""
    one, two = (counting(depth, replace(load, accumulated=False, frozen=0)) for depth in (1, 2))
    each, outside = two.saved - one.saved, 2 * one.saved - two.saved
    block = two.weights - one.weights
    weights = one.weights + (blocks - 1) * block
    learning = blocks - min(load.frozen, blocks)  # frozen blocks at the start keep nothing for the backward pass
    activations = outside + learning * each
    if load.checkpointing:  # stores each block's input and recomputes one block at a time
        activations = outside + learning * one.stream + each
    trained = weights - min(load.frozen, blocks) * block if load.lora is None else 4 * load.lora * blocks * one.edges
    held = weights // 2 if load.half_weights else weights
    return Memory(
        weights=held + (trained if load.lora else 0),
        gradients=trained,
        optimizer=int(trained / 4 * OPTIMIZERS[optimizer]),
        average=trained if average else 0,
        activations=activations,
        largest=2 * block // 4,
        accumulated=load.accumulated,
    )


@lru_cache(maxsize=64)
def _saved(config_json: str, depth: int, load: Load) -> Counted:
    """What `_count` counts, kept in the user's cache: counting imports diffusers, for seconds."""
    path = user_cache() / "training-memory.json"
    versions = [version(name) for name in ("torch", "diffusers")]
    key = json_files.key_of(["saved by autograd", config_json, depth, asdict(load), versions])
    known = _known(path)
    entry = known.pop(key, None)
    if isinstance(entry, list) and len(entry) == len(fields(Counted)) and all(isinstance(one, int) for one in entry):
        return Counted(*entry)
    counted = _count(config_json, depth, load)
    entries = {**dict(list(known.items())[:_KEPT]), key: list(asdict(counted).values())}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_files.pretty(entries))
    return counted


@contextmanager
def out_of_memory(hint: str) -> Iterator[None]:
    """MissingResource with this hint where a GPU has too little memory after all."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        why = str(error).splitlines()[0][:200]
        raise MissingResource("the GPU ran out of memory during training", why=why, hint=hint) from error


def _known(path: Path) -> dict[str, object]:
    try:
        return dict(json_files.read_object(path))
    except InvalidInput:
        return {}


def _count(config_json: str, depth: int, load: Load) -> Counted:
    """Bytes of the weights, and of the tensors that autograd saves in a forward pass, for a config of this depth."""
    with silent():
        from diffusers import SanaTransformer2DModel

    config = json.loads(config_json) | {"num_layers": depth}
    with FakeTensorMode(allow_non_fake_inputs=True):
        transformer: nn.Module = SanaTransformer2DModel.from_config(config)
        latents = torch.empty(load.batch, config["in_channels"], load.height, load.width)
        caption = torch.empty(load.batch, load.caption, config["caption_channels"])
        mask = torch.ones(load.batch, load.caption)
        timestep = torch.empty(load.batch)
        guidance = guidance_of(config).embedded(load.batch, timestep.device)

        def loss() -> Tensor:
            found = transformer(latents, caption, timestep, guidance, encoder_attention_mask=mask, return_dict=False)
            return found[0].float().square().mean()

        tokens = load.height * load.width // int(config["patch_size"]) ** 2
        width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
        stream = 4 * load.batch * tokens * width
        return counted(transformer, transformer.transformer_blocks, loss, stream, load.precision)


def counted(network: nn.Module, blocks: nn.Module, loss: Callable[[], Tensor], stream: int, precision: str) -> Counted:
    """What a network on fake tensors takes, and what autograd saves while `loss` is computed."""
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # noqa: SLF001 (identity: fake tensors have no address)
        return tensor

    matrices = [weight.squeeze() for weight in blocks.parameters()]
    edges = sum(sum(weight.shape) for weight in matrices if weight.dim() == 2 and min(weight.shape) > 6)
    own = {weight.untyped_storage()._cdata for weight in network.parameters()}  # noqa: SLF001
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        _ = loss()
    saved = sum(storage.nbytes() for identity, storage in storages.items() if identity not in own)
    return Counted(size, saved, stream, edges)
