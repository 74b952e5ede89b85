"""Links a graph's weights to the checkpoint's files as external data, with casts where the compute dtype differs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import TensorRef

QUANTIZED = {ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN}
DTYPES = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
}


def link_external_data(model: ir.Model, tensors: Mapping[str, TensorRef], folder: Path) -> None:
    """Link each initializer without a value to its tensor in `folder`, where the graph will be written."""
    graph, order = model.graph, {node: place for place, node in enumerate(model.graph)}
    for name, value in list(graph.initializers.items()):
        if value.const_value is None:
            first = min((node for node, _ in value.uses()), key=lambda node: order[node])
            _refer(graph, value, tensors[name], folder, first)


def external_weights(model: ir.Model) -> list[str]:
    """Names of the graph's initializers without values."""
    return [name for name, value in model.graph.initializers.items() if value.const_value is None]


def _refer(graph: ir.Graph, value: ir.Value, ref: TensorRef, folder: Path, first: ir.Node) -> None:
    name, dtype, shape = value.name, _dtype(value, ref), value.shape
    assert name is not None
    assert isinstance(shape, ir.Shape)
    assert shape.numpy() == ref.shape or value.dtype in QUANTIZED or math.prod(shape.numpy()) == ref.count
    place = ref.path.relative_to(folder)
    assert len(place.parts) == 1, "runtimes refuse weights outside the graph's folder"
    kept = ir.ExternalTensor(str(place), ref.start, ref.size, dtype, shape=shape, name=name, base_dir=folder)
    if value.dtype == dtype:
        value.const_value = kept
        return
    dtype_wanted, uses = value.dtype, list(value.uses())
    assert dtype_wanted is not None
    stored = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=kept)
    graph.initializers.pop(name)
    graph.register_initializer(stored)
    if all(user.op_type == "Gather" and place_of == 0 for user, place_of in uses):
        _cast_rows(graph, stored, dtype_wanted, [user for user, _ in uses])
        return
    cast = ir.node("Cast", [stored], {"to": dtype_wanted}, name=f"/{name.replace('.', '/')}/Cast")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = cast.name, value.shape, value.type
    for user, place_of in uses:
        user.replace_input_with(place_of, cast.outputs[0])
    graph.insert_before(first, cast)


def _cast_rows(graph: ir.Graph, stored: ir.Value, dtype: ir.DataType, users: Sequence[ir.Node]) -> None:
    """Cast the rows that are looked up in a table, not the whole table."""
    for user in users:
        user.replace_input_with(0, stored)
        rows = user.outputs[0]
        cast = ir.node("Cast", [rows], {"to": dtype}, name=f"{user.name}/Cast")
        ir.convenience.replace_all_uses_with(rows, cast.outputs[0], replace_graph_outputs=True)
        cast.replace_input_with(0, rows)
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = cast.name, rows.shape, rows.type
        rows.type = ir.TensorType(stored.dtype) if stored.dtype else None
        graph.insert_after(user, cast)


def _dtype(value: ir.Value, ref: TensorRef) -> ir.DataType:
    """Dtype of the stored bytes; quantized weights have the dtype that the graph declares."""
    if value.dtype in QUANTIZED:
        return value.dtype
    if ref.dtype not in DTYPES:
        raise InvalidInput(f"{ref.name} is stored as {ref.dtype}", why="ONNX export doesn't support that dtype")
    return DTYPES[ref.dtype]
