"""Inserts quantized weights into a graph: DequantizeLinear right before each MatMul or Conv, QDQ for activations.

MatMul expects (inputs, outputs): transposed weights are written to a sidecar file, so that no Transpose separates
DequantizeLinear from MatMul, which would prevent fusion in engines. Conv weights are used from the checkpoint's files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from sanac.core.checkpoint.quant_json import STATIC, QuantizedTensor, WeightSpec
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.write.safetensors_writer import TensorSource, computed_tensor
from sanac.nn.quant.activations import factors
from sanac.nn.quant.weights import QMAX, pack, unpack
from sanac.nn.streaming import map_quantized, map_tensor

KINDS = {"int8": ir.DataType.INT8, "int4": ir.DataType.INT4, "fp8": ir.DataType.FLOAT8E4M3FN}
_PASSED = {"Transpose", "Reshape", "Flatten", "Identity"}  # operators allowed between a weight and its MatMul or Conv
Array = np.ndarray[Any, Any]
_LARGEST_HALF = 65504.0


def insert_qdq(model: ir.Model, parts: Mapping[str, QuantizedTensor]) -> list[TensorSource]:
    """Replace plain weights by their quantized form; returns the tensors of the graph's sidecar file."""
    graph, tensors = model.graph, []
    for name, value in list(graph.initializers.items()):
        if value.const_value is None and name in parts:
            tensors += _QdqRewriter(graph, value, parts[name]).rewrite()
    passes.RemoveUnusedNodesPass()(model)
    return tensors


@dataclass(frozen=True)
class _QdqRewriter:
    """Rewrites the use of one weight."""

    graph: ir.Graph
    weight: ir.Value
    parts: QuantizedTensor

    def rewrite(self) -> list[TensorSource]:
        """Replace the plain weight by DequantizeLinear; returns tensors for the sidecar file."""
        user = self._user()
        if user.op_type == "MatMul":
            restored, tensors = self._transposed(user)
        else:
            restored, tensors = self._as_stored(user)
        user.replace_input_with(1, restored)
        if self.parts.spec.activations:
            if user.op_type != "MatMul":
                raise UsageError(
                    f"{self.name} is not used by a MatMul", why="only activations of a MatMul can be quantized"
                )
            activations = user.inputs[0]
            assert activations is not None
            user.replace_input_with(0, self._quantized_input(activations, user))
        self.graph.initializers.pop(self.name)
        return tensors

    @property
    def name(self) -> str:
        """Name of the plain weight."""
        return self.weight.name or ""

    @property
    def path(self) -> str:
        """Node name prefix of the weight's layer."""
        return "/" + "/".join(self.name.split(".")[:-1])

    def _user(self) -> ir.Node:
        """The MatMul or Conv that uses the weight."""
        value = self.weight
        while True:
            users = [node for node, _ in value.uses()]
            if len(users) != 1 or users[0].op_type not in {*_PASSED, "MatMul", "Conv"}:
                raise InvalidInput(
                    f"the quantized weight {self.name} can't be exported",
                    why="it is not used by exactly one MatMul or Conv",
                )
            if users[0].op_type not in _PASSED:
                return users[0]
            value = users[0].outputs[0]

    def _transposed(self, user: ir.Node) -> tuple[ir.Value, list[TensorSource]]:
        """Transposed weight (inputs, outputs) in the sidecar file."""
        spec, parts = self.parts.spec, self.parts
        shape = (spec.columns, spec.shape[0])
        tensors = [_turned_values(f"{self.name}.turned", parts)]
        values = self._external(tensors[0].name, KINDS[spec.dtype], shape)
        if spec.group_size is None:
            return self._dequantized(user, values, self._scale(parts.scale.name, shape[1:]), {"axis": 1}), tensors
        tensors.append(_turned_scale(f"{self.name}.turned_scale", parts))
        scale = self._scale(tensors[1].name, (spec.groups, spec.shape[0]))
        return self._dequantized(user, values, scale, {"axis": 0, "block_size": spec.group_size}), tensors

    def _as_stored(self, user: ir.Node) -> tuple[ir.Value, list[TensorSource]]:
        """Weight with output channels first, used from the checkpoint's file."""
        spec, parts = self.parts.spec, self.parts
        matrix = (spec.shape[0], spec.columns)
        if spec.dtype == "int4" and spec.columns % 2:
            raise UsageError(
                f"{self.name} has {spec.columns} inputs per output",
                why="ONNX packs int4 rows without padding, so their length must be even",
            )
        if spec.group_size is None:
            values = self._external(parts.stored.name, KINDS[spec.dtype], spec.shape)
            return self._dequantized(user, values, self._scale(parts.scale.name, matrix[:1]), {"axis": 0}), []
        values = self._external(parts.stored.name, KINDS[spec.dtype], matrix)
        scale = self._scale(parts.scale.name, (matrix[0], spec.groups))
        flat = self._dequantized(user, values, scale, {"axis": 1, "block_size": spec.group_size})
        shape = self._constant(f"{self.name}.shape", np.array(spec.shape, np.int64))
        return self._added(user, "Reshape", [flat, shape], {}, self.weight.dtype), []

    def _dequantized(self, user: ir.Node, values: ir.Value, scale: ir.Value, how: Mapping[str, int]) -> ir.Value:
        return self._added(user, "DequantizeLinear", [values, scale], how, self.weight.dtype)

    def _quantized_input(self, activations: ir.Value, user: ir.Node) -> ir.Value:
        """The weight's activations, quantized as its layer does."""
        spec, floats = self.parts.spec, self.weight.dtype
        assert spec.activations is not None
        assert floats is not None
        smooth = map_quantized(self.parts).smooth
        if floats == ir.DataType.FLOAT16:
            self._refuse_beyond_half(spec, smooth)
        if spec.activations.kind != STATIC:
            return self._by_token(activations, user, smooth)
        if smooth is not None:
            factor = self._constant(f"{self.name}.smooth", factors(-smooth, torch.float32).numpy(), floats)
            activations = self._added(user, "Mul", [activations, factor], {}, floats)
        scale = self._constant(f"{self.name}.given_scale", np.array(spec.activations.scale, np.float32), floats)
        kind = KINDS[spec.dtype]
        zero = self._constant(f"zero_{spec.dtype}", np.zeros((), np.float32), kind)
        stored = self._added(user, "QuantizeLinear", [activations, scale, zero], {}, kind)
        return self._added(user, "DequantizeLinear", [stored, scale, zero], {}, floats, "given")

    def _by_token(self, activations: ir.Value, user: ir.Node, smooth: torch.Tensor | None) -> ir.Value:
        """Dynamic quantization per token with basic fp32 operators: QuantizeLinear supports no scale per token."""
        spec, floats, full = self.parts.spec, self.weight.dtype, ir.DataType.FLOAT
        assert floats is not None
        if floats != full:
            activations = self._added(user, "Cast", [activations], {"to": full}, full)
        if smooth is not None:
            factor = self._constant(f"{self.name}.smooth", factors(-smooth, torch.float32).numpy())
            activations = self._added(user, "Mul", [activations, factor], {}, full)
        last = self._constant("last_axis", np.array([-1], np.int64))
        most = self._constant(f"largest_{spec.dtype}", np.array(QMAX[spec.dtype], np.float32))
        one, none = (self._constant(f"{name}_fp32", np.array(n, np.float32)) for name, n in (("one", 1), ("zero", 0)))
        largest = self._added(user, "ReduceMax", [self._added(user, "Abs", [activations], {}, full), last], {}, full)
        nothing = self._added(user, "Equal", [largest, none], {}, ir.DataType.BOOL)
        scale = self._added(
            user, "Where", [nothing, one, self._added(user, "Div", [largest, most], {}, full)], {}, full
        )
        scaled = self._added(user, "Div", [activations, scale], {}, full, "given")
        if spec.dtype == "fp8":
            stored = self._added(user, "Cast", [scaled], {"to": KINDS["fp8"]}, KINDS["fp8"], "fp8")
            whole = self._added(user, "Cast", [stored], {"to": full}, full, "fp32")
        else:
            whole = self._added(user, "Round", [scaled], {}, full)
        found = self._added(user, "Mul", [whole, scale], {}, full, "given")
        return found if floats == full else self._added(user, "Cast", [found], {"to": floats}, floats, "given")

    def _refuse_beyond_half(self, spec: WeightSpec, smooth: torch.Tensor | None) -> None:
        scale = spec.activations.scale if spec.activations and spec.activations.scale else 0.0
        steepest = int(smooth.short().abs().max()) if smooth is not None else 0
        if scale * QMAX[spec.dtype] > _LARGEST_HALF or steepest > 14:
            why = "its smoothed activations exceed the fp16 range"
            raise UsageError(f"{self.name} can't be computed in fp16", why=why, hint="--precision bf16 or fp32")

    def _external(self, name: str, kind: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """An initializer with external data."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
        self.graph.initializers.add(value)
        return value

    def _scale(self, name: str, shape: Sequence[int]) -> ir.Value:
        """A scale initializer in the compute dtype."""
        assert self.weight.dtype is not None
        return self._external(name, self.weight.dtype, shape)

    def _constant(self, name: str, array: Array, kind: ir.DataType | None = None) -> ir.Value:
        """A small initializer with a value; reused if the name exists."""
        known = self.graph.initializers.get(name)
        if known is not None:
            return known
        tensor = ir.tensor(array if kind is None else array.astype(kind.numpy()), dtype=kind, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        self.graph.initializers.add(value)
        return value

    def _added(
        self,
        user: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value],
        how: Mapping[str, int],
        kind: ir.DataType | None,
        mark: str = "",
    ) -> ir.Value:
        """Insert a node before `user`; returns its output."""
        node = ir.node(operator, inputs, how, name="/".join(filter(None, (self.path, operator, mark))))
        value = node.outputs[0]
        value.name, value.type = node.name, ir.TensorType(kind) if kind else None
        self.graph.insert_before(user, node)
        return value


def _turned_values(name: str, parts: QuantizedTensor) -> TensorSource:
    """Transposed quantized values (inputs, outputs); int4 packs two per byte without padding between rows."""
    spec = parts.spec
    rows, columns = spec.shape[0], spec.columns

    def make() -> memoryview:
        stored = map_tensor(parts.stored)
        if stored.dtype != torch.uint8:
            return memoryview(stored.view(torch.uint8).reshape(rows, columns).t().contiguous().numpy().reshape(-1))
        return memoryview(pack(unpack(stored, columns).t().reshape(1, -1)).numpy().reshape(-1))

    if spec.dtype == "int4":
        size = -(-rows * columns // 2)
        return computed_tensor(name, "U8", (size,), size, make)
    return computed_tensor(name, parts.stored.dtype, (columns, rows), rows * columns, make)


def _turned_scale(name: str, parts: QuantizedTensor) -> TensorSource:
    spec, scale = parts.spec, parts.scale

    def make() -> memoryview:
        found = map_tensor(scale).reshape(spec.shape[0], spec.groups).t().contiguous()
        return memoryview(found.view(torch.uint8).numpy().reshape(-1))

    return computed_tensor(name, scale.dtype, (spec.groups, spec.shape[0]), scale.size, make)
