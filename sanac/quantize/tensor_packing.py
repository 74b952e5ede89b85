"""Packs a quantized component for writing: each tensor is quantized from the checkpoint when it is written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sanac.core.checkpoint.quant_json import PACKED, QUANT_DTYPES, TORCHAO, WeightSpec, part_name
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import GeneratedBytes
from sanac.core.safetensors_header import TensorRef
from sanac.core.write.safetensors_writer import TensorSource, computed_tensor, copied_tensor
from sanac.nn.quant.weights import ROUNDINGS, pack, quantize_values
from sanac.nn.streaming import DTYPES, map_tensor, read_rows
from sanac.quantize.activation_scales import smoothed_weight

TOGETHER = 1 << 20  # values read and written at a time


@dataclass(frozen=True, slots=True)
class CalibratedWeight:
    """Calibration result of one weight, as stored in files."""

    stored: TensorRef | None = None  # GPTQ values; None: rounded from the weight
    smooth: TensorRef | None = None
    scale: float | None = None  # static activation scale

    def applied_to(self, spec: WeightSpec) -> WeightSpec:
        """The weight's spec with the calibrated activation scale, for quant.json."""
        return replace(spec, activations=replace(spec.activations, scale=self.scale)) if spec.activations else spec


@dataclass
class WeightQuantizer:
    """Quantizes one weight, some rows at a time. Its scale is computed once and kept until the last row."""

    ref: TensorRef
    spec: WeightSpec
    layout: str
    dtype: str  # of the scale
    calibrated: CalibratedWeight = CalibratedWeight()
    _scale: Tensor | None = None

    @property
    def rows_at_once(self) -> int:
        """Number of rows processed at a time."""
        return max(1, TOGETHER // self.spec.columns)

    def scale(self) -> Tensor:
        """The stored scale: (rows, groups)."""
        if self._scale is None:
            rounding, dtype, rows = ROUNDINGS[self.spec.rounding], DTYPES[self.dtype], self.spec.shape[0]
            step = rows if self.spec.rounding == "tensor" else self.rows_at_once
            pieces = (self._read(start, min(start + step, rows)) for start in range(0, rows, step))
            found = torch.cat([rounding(piece, self.spec, dtype) for piece in pieces])
            if not torch.isfinite(found).all():
                raise InvalidInput(f"{self.ref.name} holds NaN or infinity", hint="sanac inspect MODEL --scan")
            self._scale = found
        return self._scale

    def _read(self, start: int, stop: int) -> Tensor:
        rows = read_rows(self.ref, start, stop)
        return smoothed_weight(rows, map_tensor(self.calibrated.smooth)) if self.calibrated.smooth else rows

    def stored(self, start: int, stop: int) -> Tensor:
        """The stored quantized values of rows `start` to `stop`."""
        spec, scale = self.spec, self.scale()
        values = quantize_values(self._read(start, stop), scale[start:stop], spec.width, spec.dtype)
        if stop == len(scale):
            self._scale = None  # scales of all weights would take hundreds of megabytes
        return pack(values) if self.layout == PACKED and spec.dtype == "int4" else values

    def tensors(self) -> tuple[TensorSource, ...]:
        """The tensors to write for this weight; they stay in one shard."""
        spec, name = self.spec, self.ref.name
        few, many = spec.scale_shape(self.layout), spec.stored_shape(self.layout)
        scales = math.prod(few)
        size = scales * DTYPES[self.dtype].itemsize
        found = [computed_tensor(part_name(name, "scale"), self.dtype, few, size, lambda: _bytes(self.scale()))]
        if self.layout == TORCHAO:  # torchao requires zero points; symmetric schemes have zeros
            found.append(computed_tensor(part_name(name, "zero_point"), "I8", few, scales, lambda: bytes(scales)))
        if spec.activations and spec.activations.smooth:
            found.append(self._smooth())
        row = math.prod(many[1:])  # bytes per row: a stored element takes one byte

        def some(start: int, count: int) -> memoryview:
            return _bytes(self.stored(start // row, (start + count) // row))

        name = part_name(name, "qdata")
        values = TensorSource(
            name,
            QUANT_DTYPES[spec.dtype][0],
            many,
            (GeneratedBytes(name, many[0] * row, some, self.rows_at_once * row),),
        )
        values = copied_tensor(name, self.calibrated.stored) if self.calibrated.stored else values
        return (*(replace(p, with_next=True) for p in found), values)

    def _smooth(self) -> TensorSource:
        name, columns = part_name(self.ref.name, "smooth"), self.spec.columns
        if self.calibrated.smooth:
            return copied_tensor(name, self.calibrated.smooth)
        return computed_tensor(name, "I8", (columns,), columns, lambda: _never(name))


def _never(name: str) -> bytes:
    raise AssertionError(f"{name} is written before calibration")


def _bytes(values: Tensor) -> memoryview:
    return memoryview(values.contiguous().view(torch.uint8).numpy()).cast("B")


def pieces_of(tensors: Mapping[str, TensorRef], quantizers: Mapping[str, WeightQuantizer]) -> tuple[TensorSource, ...]:
    """Tensors of a component in the order of their names, quantized or copied."""
    found: list[TensorSource] = []
    for name, ref in sorted(tensors.items()):
        found += quantizers[name].tensors() if name in quantizers else [copied_tensor(name, ref)]
    return tuple(found)


def torchao_metadata(tensors: Mapping[str, TensorRef], specs: Mapping[str, WeightSpec], dtype: str) -> dict[str, str]:
    """The safetensors metadata that torchao reads: for each weight, its tensors and its quantization parameters."""
    found = {name: json.dumps({"_type": "Tensor"}) for name in tensors if name not in specs}
    for name, spec in specs.items():
        rest = spec.shape[1:]
        group_shape = [1, spec.width, *rest[1:]] if spec.group_size else [1, *rest]
        about = {
            "target_dtype": {"_type": "torch.dtype", "_data": spec.dtype},
            "block_size": group_shape,
            "dtype": {"_type": "torch.dtype", "_data": str(DTYPES[dtype]).removeprefix("torch.")},
            "activation_quantization": None,
        }
        entry = {"_type": "IntxUnpackedToInt8Tensor", "_data": about}
        found[name] = json.dumps(entry | {"_tensor_data_names": ["qdata", "scale", "zero_point"]})
    return found | {"tensor_names": json.dumps(sorted(tensors))}
