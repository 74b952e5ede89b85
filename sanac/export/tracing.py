"""A traced program with its input, axis and weight names, and modules whose parameters take no memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram

OWN = "sanac"  # operator domain of markers, removed from the finished graph
EDGE, SAME = f"{OWN}::Edge", f"{OWN}::Same"  # a block boundary; a tensor whose sizes tracing knows more about
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


@contextmanager
def light_tracing() -> Iterator[None]:
    """Trace without what takes time and doesn't change the graph.

    With symbolic sizes, torch's cache of operator shapes costs more than it saves; nobody reads a stack trace for each
    node; and the exporter parses the sources of all its operators again for each program.
    """
    from torch._dynamo import config as dynamo
    from torch.fx import config as fx

    with ExitStack() as stack:
        stack.enter_context(_replaced(dynamo, "fake_tensor_cache_enabled", new=False))
        stack.enter_context(_replaced(fx, "do_not_emit_stack_traces", new=True))
        with suppress(ImportError):  # inside of torch.onnx: where it isn't found, export takes longer
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            if isinstance(build := vars(ONNXRegistry).get("from_torchlib"), classmethod):
                once = staticmethod(_once(build.__get__(None, ONNXRegistry)))
                stack.enter_context(_replaced(ONNXRegistry, "from_torchlib", new=once, old=build))
        yield


@contextmanager
def _replaced(place: Any, name: str, *, new: object, old: object = None) -> Iterator[None]:
    """Another value of an attribute, where there is one; afterwards the old one."""
    if not hasattr(place, name):
        yield
        return
    old = old if old is not None else getattr(place, name)
    setattr(place, name, new)
    try:
        yield
    finally:
        setattr(place, name, old)


@cache
def _once(build: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns the first result again, for the same arguments."""
    return cache(build)


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
