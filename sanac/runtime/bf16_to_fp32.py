"""Converts a bf16 or fp16 graph to compute in fp32, for CPUs without bf16 matrix products; values stay the same."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sanac.core.errors import InvalidInput

BF16 = TensorProto.BFLOAT16
HALVES = {TensorProto.BFLOAT16, TensorProto.FLOAT16}


def widened(model: ModelProto) -> ModelProto:
    """The graph with fp32 computation and constants; external weights stay stored as they are and are cast."""
    found = ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    casts = list(_widen_initializers(graph))
    names = {cast.input[0]: cast.output[0] for cast in casts}
    tables = names.keys() & looked_up(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        _widen_attributes(node)
        if node.op_type == "Gather" and node.input[0] in tables:
            nodes += _rows_widened(node)
            continue
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend([*(cast for cast in casts if cast.input[0] not in tables), *nodes])
    return found


def looked_up(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers that are only used as tables to look up rows in."""
    rows = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    others = {name for node in graph.node for name in (node.input[1:] if node.op_type == "Gather" else node.input)}
    return {tensor.name for tensor in graph.initializer if tensor.name in rows - others}


def _rows_widened(node: NodeProto) -> tuple[NodeProto, NodeProto]:
    """A lookup whose rows, not the whole table, are cast to fp32."""
    found, stored = node.output[0], f"{node.output[0]}/stored"
    node.output[0] = stored
    return node, onnx.helper.make_node("Cast", [stored], [found], to=TensorProto.FLOAT)


def _widen_initializers(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Convert inline initializers in place; yield a Cast node for each external one."""
    for tensor in graph.initializer:
        if tensor.data_type not in HALVES:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            yield onnx.helper.make_node("Cast", [tensor.name], [f"{tensor.name}/widened"], to=TensorProto.FLOAT)
        else:
            tensor.CopyFrom(_wide(tensor))


def _widen_attributes(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
            raise InvalidInput(
                f"{node.name or node.op_type} contains subgraphs",
                why="graphs exported by sanac contain none",
                hint="export the model again with sanac export",
            )
        if attribute.name in {"to", "output_dtype"} and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(_wide(attribute.t))


def _wide(tensor: TensorProto) -> TensorProto:
    found: TensorProto = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
    return found
