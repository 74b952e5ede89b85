"""The count of what training takes, against what autograd saves and the optimizers hold for real."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sanac.tiny.build import transformer
from sanac.train import memory
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


@pytest.mark.parametrize("damage", ["", "no JSON", "{}", '{"KEY": [1, 2]}', '{"KEY": ["1", 2, 3, 4]}'])
def test_counts_are_kept_and_a_damaged_file_is_a_miss(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config, file = dict(transformer(2).config), tmp_path / "sanac" / "training-memory.json"
    memory._saved.cache_clear()
    counted = estimate_memory(config, LOAD, "adamw", average=True)
    kept = json.loads(file.read_text())
    if damage:
        file.write_text(damage.replace("KEY", next(iter(kept))))
    memory._saved.cache_clear()
    assert estimate_memory(config, LOAD, "adamw", average=True) == counted
    assert json.loads(file.read_text()) == kept


def test_counts_that_are_kept_need_no_diffusers(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom sanac.train.memory import Load, estimate_memory\n"
        "config = json.loads(sys.argv[1])\n"
        "print(estimate_memory(config, Load(3, 4, 4, 7), 'adamw', average=True), 'diffusers' in sys.modules)"
    )
    config = json.dumps(json.loads(transformer(2).to_json_string()))
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, config]
    first, again = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first.replace("True", "False") == again
    assert again.strip().endswith("False")


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
