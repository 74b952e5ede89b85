"""LoRA training with peft: adds the adapter, merges it into the weights, or saves it as a file."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sanac.core.errors import MissingResource
from sanac.core.family.architecture import Architecture
from sanac.core.requirements import install_command
from sanac.finetune.settings import FinetuneSettings
from sanac.nn.save_tensors import save_tensors

_BASE = ".base_layer."


def check_installed(settings: FinetuneSettings) -> None:
    """MissingResource if the settings need peft and it isn't installed."""
    if settings.lora:
        check_peft("--lora")


def check_peft(option: str) -> None:
    """MissingResource if peft, which `option` requires, isn't installed."""
    if importlib.util.find_spec("peft") is None:
        raise MissingResource("peft is not installed", why=f"{option} requires it", hint=install_command("train"))


def add_lora(student: nn.Module, architecture: Architecture, rank: int, seed: int) -> None:
    """Freeze the model and add a LoRA of rank `rank` to every linear layer and 1x1 convolution of its blocks."""
    check_peft("--lora")
    from peft import LoraConfig

    shapes = architecture.block_tensors()
    targets = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if (len(shape) == 2 and min(shape) > 6) or (len(shape) == 4 and shape[2:] == (1, 1))
        if name.endswith(".weight")
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student.requires_grad_(requires_grad=False)
        student.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def merged(student: nn.Module) -> dict[str, Tensor]:
    """The model's weights with the trained LoRA merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in student.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return {name.replace(_BASE, "."): tensor for name, tensor in student.state_dict().items() if ".lora_" not in name}


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """The network as it was before a LoRA was added, inside."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def save_adapter(weights: Mapping[str, Tensor], file: Path) -> None:
    """Save the trained LoRA in the format read by diffusers' `load_lora_weights` and `--lora`."""
    tensors = {f"transformer.{name.replace('.default.', '.')}": tensor for name, tensor in weights.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, file)
