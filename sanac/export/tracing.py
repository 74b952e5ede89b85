"""A traced program with its input, axis and weight names, and modules whose parameters take no memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram

OWN = "sanac"  # operator domain of edge markers, removed from the finished graph
Axes = Mapping[int, str]  # dimension of a tensor -> name of its symbolic size


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced program, and the names of its inputs, axes, output and weights in the graph."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    axes: tuple[Axes, ...]  # of each input
    output: str
    prefix: str = ""  # of the program's weight names, absent in the checkpoint
    blocks: int = 1  # number of copies of the traced block


def without_storage(module: nn.Module, dtype: torch.dtype, mode: FakeTensorMode) -> nn.Module:
    """Replace parameters and persistent buffers of a module by fake tensors; computed buffers keep their values."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_fake(parameter, dtype, mode), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            if name not in part._non_persistent_buffers_set:  # noqa: SLF001 (torch has no public API for it)
                setattr(part, name, _fake(buffer, dtype if buffer.is_floating_point() else buffer.dtype, mode))
    return module.eval().requires_grad_(requires_grad=False)


def _fake(like: torch.Tensor, dtype: torch.dtype, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        return torch.empty(like.shape, dtype=dtype)
