"""Block-wise weight streaming: each block is read when needed, the next one ahead of it, and dropped after use."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sanac.core.artifact.model import Model
from sanac.core.checkpoint.quant_json import QuantizedTensor
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import block_name, split_block
from sanac.core.safetensors_header import TensorRef
from sanac.nn.blocks.block import QuantizedBlock
from sanac.nn.quant.activations import STEEPEST, ActivationQuantizer
from sanac.nn.quant.weights import QuantizedWeight, dequantize_weight

_ALIGNED = 64  # elements: alignment for vector instructions in any dtype
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORED = DTYPES | {"BOOL": torch.bool, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64}
_STORED |= {"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}


def read_tensor(ref: TensorRef, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor `ref`, read from its file to `device` in `dtype`."""
    return read_tensors({"": ref}, device, dtype)[""]


def read_tensors(refs: Mapping[str, TensorRef], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors read into one allocation: a large allocation is returned to the system as soon as it is freed."""
    places, end = {}, 0
    for name, ref in refs.items():
        places[name], end = end, end + -(-ref.count // _ALIGNED) * _ALIGNED
    memory = torch.empty(end, device=device, dtype=dtype)
    raw = memoryview(bytearray(max((ref.size for ref in refs.values()), default=0)))
    found = {name: memory[place : place + refs[name].count].view(refs[name].shape) for name, place in places.items()}
    for name, ref in refs.items():
        _read(ref, raw[: ref.size], found[name])
    return found


def read_rows(ref: TensorRef, start: int, stop: int) -> Tensor:
    """Rows start..stop of a tensor in their stored dtype, flattened to a matrix."""
    row = ref.size // ref.shape[0]
    raw = torch.empty((stop - start) * row, dtype=torch.uint8)  # reuses memory cached by torch's allocator
    _fill(memoryview(raw.numpy()), ref, ref.start + start * row)
    return raw.view(DTYPES[ref.dtype]).view(stop - start, -1)


def map_tensor(ref: TensorRef) -> Tensor:
    """A memory-mapped tensor: bytes are read on access. Writes don't reach the file."""
    if not ref.size:
        return torch.empty(ref.shape, dtype=_STORED[ref.dtype])
    raw = np.memmap(ref.path, np.uint8, mode="c", offset=ref.start, shape=(ref.size,))
    return torch.from_numpy(raw).view(_STORED[ref.dtype]).view(ref.shape)


def read_quantized(parts: QuantizedTensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A quantized weight, dequantized to `dtype`."""
    values = map_quantized(parts)
    return dequantize_weight(values.stored.to(device), values.scale.to(device), parts.spec, dtype)


def map_quantized(parts: QuantizedTensor) -> QuantizedWeight:
    """The memory-mapped parts of a quantized weight; InvalidInput if they break the scheme's rules."""
    if parts.zero_point and map_tensor(parts.zero_point).any():
        raise InvalidInput(f"{parts.zero_point.name} is not zero", why="sanac's schemes are symmetric")
    smooth = None
    if parts.smooth:
        smooth = map_tensor(parts.smooth)
        if smooth.short().abs().max() > STEEPEST:
            raise InvalidInput(
                f"{parts.smooth.name} has invalid exponents", why=f"smoothing exponents are at most {STEEPEST}"
            )
    stored, scale, spec = map_tensor(parts.stored), map_tensor(parts.scale), parts.spec
    if spec.rounding == "tensor" and (scale != scale[:1]).any():
        raise InvalidInput(f"{parts.scale.name} differs from row to row", why="quant.json says that all rows share it")
    return QuantizedWeight(stored, scale, smooth)


def _read(ref: TensorRef, raw: memoryview, tensor: Tensor) -> None:
    """Fill `tensor` from the file, through the buffer `raw`."""
    if ref.dtype not in DTYPES:
        raise InvalidInput(f"{ref.name} is stored as {ref.dtype}", why="sanac can't compute with that dtype")
    if not ref.size:
        return
    _fill(raw, ref, ref.start)
    tensor.copy_(torch.frombuffer(raw, dtype=DTYPES[ref.dtype]).view(ref.shape))


def _fill(raw: memoryview | bytearray, ref: TensorRef, place: int) -> None:
    left = memoryview(raw)
    with ref.path.open("rb", buffering=0) as file:
        file.seek(place)
        while left:
            got = file.readinto(left)
            if not got:
                raise InvalidInput(f"{ref.path} is truncated", why=f"{len(left):,} bytes of {ref.name} are missing")
            left = left[got:]


def refuse_loras(model: Model) -> None:
    """UsageError for unmerged LoRAs: they are merged when weights are written, not when they are streamed."""
    if model.patches:
        raise UsageError(
            "--lora doesn't work with this command",
            why="it computes with the model, and LoRAs are merged only when weights are written",
            hint="merge it first: sanac convert --lora",
        )


@dataclass
class Blocks:
    """A transformer's weights by block, in the compute dtype; if `resident`, each block is read once and kept.

    `changes` (by the model's tensor names) are added to the weights that are read.
    """

    model: Model
    device: torch.device
    dtype: torch.dtype
    resident: bool = False
    changes: Mapping[str, Tensor] = field(default_factory=dict)
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse models with unmerged LoRAs."""
        refuse_loras(self.model)

    def changed(self, changes: Mapping[str, Tensor]) -> "Blocks":
        """The same weights with `changes` instead of the current ones."""
        return Blocks(self.model, self.device, self.dtype, self.resident, changes)

    def __len__(self) -> int:
        """Number of blocks."""
        return self.model.architecture.blocks

    def outside(self) -> dict[str, Tensor]:
        """The tensors outside the blocks, by full name."""
        return self._read({name: name for name in self.model.architecture.tensors() if split_block(name) is None})

    def block(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of one block, under the names that `sanac.nn.blocks.block` uses."""
        if index in self._kept:
            return self._kept[index]
        found = self._read({rest: block_name(index, rest) for rest in self.model.architecture.block_tensors()})
        if self.resident:
            self._kept[index] = found
        return found

    def sweep(self, indices: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Yields (index, tensors) for `indices` in order; the next block is read while the caller uses this one."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self.block, index) for index in indices[:1]]
            for place, index in enumerate(indices):
                tensors = ahead.pop().result()
                ahead += [reader.submit(self.block, following) for following in indices[place + 1 : place + 2]]
                yield index, tensors
                del tensors

    def _read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        refs, parts = self.model.weights.tensors, self.model.weights.parts
        plain = {name: refs[full] for name, full in names.items() if full not in parts}
        found = read_tensors(plain, self.device, self.dtype)
        for name, full in names.items():
            if full in parts:
                found[name] = read_quantized(parts[full], self.device, self.dtype)
        changed = {name: found[name] + self.changes[full] for name, full in names.items() if full in self.changes}
        transforms = {
            name: self._quantizer_of(parts[full])
            for name, full in names.items()
            if full in parts and parts[full].spec.activations
        }
        return QuantizedBlock(found | changed, transforms)

    def _quantizer_of(self, parts: QuantizedTensor) -> ActivationQuantizer:
        smooth = map_quantized(parts).smooth
        smooth = None if smooth is None else smooth.to(self.device)
        return ActivationQuantizer(parts.spec, smooth)
