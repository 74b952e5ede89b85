"""Weights by the block: read when their turn comes, the next block ahead of it, dropped behind."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sanac.core.errors import BadInput, Misuse
from sanac.core.family import block_name, split_block
from sanac.core.header import TensorRef
from sanac.core.model import Model

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_tensor(ref: TensorRef, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One tensor from its file."""
    if ref.dtype not in DTYPES:
        raise BadInput(f"{ref.name} is stored as {ref.dtype}", why="that can't be computed with")
    if not ref.size:
        return torch.empty(ref.shape, device=device, dtype=dtype)
    data = bytearray(ref.size)
    with ref.path.open("rb", buffering=0) as file:
        file.seek(ref.start)
        view = memoryview(data)
        while view:
            got = file.readinto(view)
            if not got:
                raise BadInput(f"{ref.path} ended early", why=f"{len(view):,} bytes of {ref.name} are missing")
            view = view[got:]
    return torch.frombuffer(data, dtype=DTYPES[ref.dtype]).reshape(ref.shape).to(device, dtype)


@dataclass
class Blocks:
    """A transformer's weights in the dtype to compute in; `resident` ones are read once and stay."""

    model: Model
    device: torch.device
    dtype: torch.dtype
    resident: bool = False
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """LoRAs are merged when weights are written, not when they are read here."""
        if self.model.patches:
            raise Misuse("a LoRA can't be looked at while it is merged", hint="sanac convert --lora first")

    def __len__(self) -> int:
        """How many blocks there are."""
        return self.model.architecture.blocks

    def outside(self) -> dict[str, Tensor]:
        """The tensors that belong to no block."""
        names = [name for name in self.model.architecture.tensors() if split_block(name) is None]
        return {name: self._read(name) for name in names}

    def block(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of one block, under the names that `sanac.nn.block` knows."""
        if index in self._kept:
            return self._kept[index]
        found = {rest: self._read(block_name(index, rest)) for rest in self.model.architecture.block_tensors()}
        if self.resident:
            self._kept[index] = found
        return found

    def sweep(self, first: int = 0) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """The blocks in order from `first`. While one is worked with, the next is read."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self.block, first) if first < len(self) else None
            for index in range(first, len(self)):
                assert ahead is not None
                tensors = ahead.result()
                ahead = reader.submit(self.block, index + 1) if index + 1 < len(self) else None
                yield index, tensors
                del tensors

    def _read(self, name: str) -> Tensor:
        return read_tensor(self.model.weights.tensors[name], self.device, self.dtype)
