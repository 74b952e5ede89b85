"""The available optimizers, and their per-weight state as plain tensors for checkpoints."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sanac.nn.silence_libraries import silent
from sanac.train.came import Came

OPTIMIZERS = {  # approximate bytes of optimizer state per parameter
    "came8bit": 1.02,
    "came": 4.01,
    "adamw": 8.0,
    "adamw8bit": 2.03,
}


def make_optimizer(
    name: str, weights: list[nn.Parameter], betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """Create an optimizer; its learning rate is set at every step. `betas` are for AdamW; CAME uses the paper's."""
    if name in {"came8bit", "came"}:
        bits = 8 if name == "came8bit" else 32
        return Came(weights, lr=0.0, weight_decay=weight_decay, bits=bits, correct_bias=True)
    if name == "adamw8bit":
        with silent():
            from torchao.optim import AdamW8bit
        warnings.filterwarnings("ignore", "OptimState8bit does not implement")  # its compiled step is the same

        rounding = any(weight.dtype == torch.bfloat16 for weight in weights)
        found: torch.optim.Optimizer = AdamW8bit(
            weights, lr=0.0, betas=betas, weight_decay=weight_decay, bf16_stochastic_round=rounding
        )
        return found
    assert name == "adamw", name
    return torch.optim.AdamW(weights, lr=0.0, betas=betas, weight_decay=weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def remembered(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> dict[str, Tensor]:
    """Optimizer state of a weight as plain tensors; torchao's 8-bit tensors are split into their parts."""
    found: dict[str, Tensor] = {}
    for entry, value in optimizer.state[weight].items():
        if hasattr(value, "__tensor_flatten__"):
            found |= {f"{entry}.{part}": getattr(value, part) for part in value.__tensor_flatten__()[0]}
        else:
            found[entry] = value
    return found


def recall(optimizer: torch.optim.Optimizer, weight: nn.Parameter, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimizer state of a weight from the output of `remembered`."""
    state: dict[str, Any] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        entry, _, part = name.partition(".")
        here = tensor if entry == "step" else tensor.to(weight.device)
        if part:
            parts.setdefault(entry, {})[part] = here
        else:
            state[entry] = here
    for entry, found in parts.items():
        with silent():
            from torchao.optim.subclass_8bit import OptimState8bit

        signed = entry == "exp_avg"
        state[entry] = OptimState8bit(found["codes"], found["scale"], found["qmap"], signed, weight.dtype)
    optimizer.state[weight] = state
