"""Counts what passes a network and its blocks, in samples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sanac.nn.stepwise import Spent


@contextmanager
def counted(entry: nn.Module, blocks: Iterable[nn.Module], spent: Spent) -> Iterator[None]:
    """Count the samples that pass the network's entry and its blocks within the context."""

    def forward(_module: Any, inputs: Any) -> None:
        spent.forwards += len(inputs[0])

    def through_block(_module: Any, inputs: Any) -> None:
        spent.block_forwards += len(inputs[0])

    hooks = [entry.register_forward_pre_hook(forward)]
    hooks += [block.register_forward_pre_hook(through_block) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
