"""The count of what training takes, against what autograd saves and the optimizers hold for real."""

from typing import Any

import pytest
import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sanac.tiny.build import transformer
from sanac.train.memory import Load, estimate_memory
from sanac.train.optimizers import OPTIMIZERS, make_optimizer, remembered

LOAD = Load(batch=3, height=4, width=4, caption=7)


def inputs() -> dict[str, Tensor]:
    return {
        "hidden_states": torch.randn(3, 16, 4, 4),
        "encoder_hidden_states": torch.randn(3, 7, 64),
        "timestep": torch.rand(3) * 1000,
        "encoder_attention_mask": torch.ones(3, 7),
    }


def really_saved(model: SanaTransformer2DModel) -> int:
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs()).sample.float().square().mean()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    assert loss.requires_grad
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_activations_are_what_autograd_saves(depth: int) -> None:
    model = transformer(depth).train()
    found = estimate_memory(dict(model.config), LOAD, "adamw", average=True)
    size = sum(weight.numel() * 4 for weight in model.parameters())
    assert found.weights == found.gradients == found.average == size
    assert found.activations == pytest.approx(really_saved(model), rel=0.02)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_hold_what_is_said_of_them(name: str) -> None:
    model = transformer(2, width=320)
    optimizer = make_optimizer(name, list(model.parameters()), (0.9, 0.99), 0.0)
    if name == "adamw8bit":  # compiling takes a minute: only the largest weight
        weight = max(model.parameters(), key=Tensor.numel)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        weights = [weight]
    else:
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        weights = list(model.parameters())
    held = sum(t.numel() * t.element_size() for weight in weights for t in remembered(optimizer, weight).values())
    assert held == pytest.approx(OPTIMIZERS[name] * sum(map(Tensor.numel, weights)), rel=0.12), "the wider, the nearer"


def test_what_saves_memory_saves_it() -> None:
    config = dict(transformer(6).config)
    plain = estimate_memory(config, LOAD, "adamw", average=True)
    assert estimate_memory(config, LOAD, "came8bit", average=True).optimizer < plain.optimizer / 7
    assert estimate_memory(config, LOAD, "adamw", average=False).average == 0
    less = estimate_memory(config, Load(3, 4, 4, 7, checkpointing=True), "adamw", average=True)
    assert less.activations < plain.activations / 3
    lora = estimate_memory(config, Load(3, 4, 4, 7, lora=4), "adamw", average=True)
    assert lora.optimizer < plain.optimizer / 5
    assert str(plain).startswith("6")
