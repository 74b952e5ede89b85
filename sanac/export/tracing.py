"""A program as torch traces it, and modules whose parameters take no memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram

OWN = "sanac"  # a domain of operators that no finished graph has
Axes = Mapping[int, str]  # of a tensor, by dimension: what its size is called


@dataclass(frozen=True, slots=True)
class Traced:
    """A program, and what its inputs, sizes and weights are called outside."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    axes: tuple[Axes, ...]  # of each input
    output: str
    prefix: str = ""  # of the program's weights, before the names that the checkpoint has for them
    blocks: int = 1  # how often what stands between its edges is to be repeated


def without_storage(module: nn.Module, dtype: torch.dtype, mode: FakeTensorMode) -> nn.Module:
    """The module with parameters and stored buffers of shape and dtype only; what it computed itself stays."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_fake(parameter, dtype, mode), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            if name not in part._non_persistent_buffers_set:  # noqa: SLF001 (torch has no other way to ask)
                setattr(part, name, _fake(buffer, dtype if buffer.is_floating_point() else buffer.dtype, mode))
    return module.eval().requires_grad_(requires_grad=False)


def _fake(like: torch.Tensor, dtype: torch.dtype, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        return torch.empty(like.shape, dtype=dtype)
