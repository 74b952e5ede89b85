"""Pieces of a graph are together the graph: every node once, every value from where it was computed."""

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from sanac.verify.graph_cut import cut_graph, cut_problems, hidden_states, piece_model, weight_sizes, why_uncut

STATES = ("block.0", "block.1")


def small() -> onnx.ModelProto:
    """Two blocks: each adds its weight, transposed, times what both share; and a tail."""
    nodes = [
        helper.make_node("Neg", ["x"], ["start"], name="head"),
        helper.make_node("Exp", ["t"], ["shared"], name="modulation"),
        helper.make_node("Transpose", ["w.0"], ["turned.0"], name="weight of block 0"),
        helper.make_node("Transpose", ["w.1"], ["turned.1"], name="weight of block 1"),
        helper.make_node("Mul", ["turned.0", "shared"], ["scaled.0"], name="scaled 0"),
        helper.make_node("Mul", ["turned.1", "shared"], ["scaled.1"], name="scaled 1"),
        helper.make_node("Add", ["start", "scaled.0"], ["block.0"], name="block 0"),
        helper.make_node("Add", ["block.0", "scaled.1"], ["block.1"], name="block 1"),
        helper.make_node("Add", ["block.1", "w.tail"], ["y"], name="tail"),
    ]
    value = helper.make_tensor_value_info
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [2, 2], [1.0] * 4) for name in ("w.0", "w.1", "w.tail")]
    inputs = [value("x", TensorProto.FLOAT, [2, 2]), value("t", TensorProto.FLOAT, [2, 2])]
    graph = helper.make_graph(nodes, "small", inputs, [value("y", TensorProto.FLOAT, [2, 2])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def test_a_piece_holds_the_weights_of_its_block() -> None:
    graph = small().graph
    pieces = cut_graph(graph, STATES)
    assert cut_problems(graph, pieces) == []
    assert [piece.initializers for piece in pieces] == [("w.0",), ("w.1",), ("w.tail",)]
    assert [piece.inputs for piece in pieces] == [("x", "t"), ("shared", "block.0"), ("block.1",)]
    assert [piece.outputs for piece in pieces] == [("shared", "block.0"), ("block.1",), ("y",)]


def test_blocks_that_are_swapped_run_in_the_order_of_the_graph() -> None:
    graph = small().graph
    for node in graph.node:
        swap = {"block.0": "block.1", "block.1": "block.0"}
        node.input[:] = [swap.get(name, name) for name in node.input]
        node.output[:] = [swap.get(name, name) for name in node.output]
    pieces = cut_graph(graph, STATES)
    assert cut_problems(graph, pieces) == []
    assert [piece.initializers for piece in pieces] == [("w.0",), ("w.1",), ("w.tail",)]


def test_what_passes_by_a_block_is_passed_on() -> None:
    graph = small().graph
    graph.node[-1].input[1] = "block.0"
    pieces = cut_graph(graph, STATES)
    assert cut_problems(graph, pieces) == []
    assert pieces[-1].inputs == ("block.1", "block.0")


def test_what_nobody_uses_is_in_a_piece_too() -> None:
    graph = small().graph
    graph.node[7].input[1] = "w.tail"
    pieces = cut_graph(graph, STATES)
    assert cut_problems(graph, pieces) == []
    assert sum(len(piece.nodes) for piece in pieces) == len(graph.node)


def test_pieces_that_are_not_the_graph() -> None:
    graph = small().graph
    head, block, tail = cut_graph(graph, STATES)

    def problem(*pieces: object) -> str:
        return cut_problems(graph, pieces)[0]  # type: ignore[arg-type]

    assert problem(head, tail) == "piece 1 has no input block.1"
    assert problem(block, head, tail) == "piece 0 has no input shared"
    assert problem(head, replace(block, nodes=block.nodes[1:]), tail).startswith("scaled 1 reads turned.1")
    assert problem(head, replace(block, initializers=("other",)), tail) == "piece 1 has no weight other"
    assert problem(head, block, replace(tail, outputs=())) == "no piece gives y"
    assert problem(head, block, block, tail).endswith("is computed twice")


def test_graphs_that_are_not_cut() -> None:
    model = small()
    assert why_uncut(model, STATES) == ""
    assert why_uncut(model, ()) == "it names no hidden states"
    assert why_uncut(model, ("block.7",)) == "no node computes block.7"
    nested = helper.make_node("If", ["x"], ["z"], name="choice", then_branch=model.graph, else_branch=model.graph)
    model.graph.node.append(nested)
    assert why_uncut(model, STATES) == "its node choice contains a subgraph"


def test_a_piece_is_a_valid_graph() -> None:
    model = small()
    kinds = {"shared": (TensorProto.FLOAT, 2), "block.0": (TensorProto.FLOAT, 2)}
    found = piece_model(model, cut_graph(model.graph, STATES)[1], kinds)
    assert [value.name for value in found.graph.input] == ["shared", "block.0"]
    assert [tensor.name for tensor in found.graph.initializer] == ["w.1"]
    inferred = onnx.shape_inference.infer_shapes(found, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_sizes_of_external_weights() -> None:
    graph = small().graph
    for tensor in graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="length", value="8")
    assert weight_sizes(graph, ()) == (12, 24)
    assert weight_sizes(graph, {"w.tail"}) == (8, 16)
    assert weight_sizes(graph, (), {"w.0"}) == (4, 8)


@pytest.mark.parametrize("prefix", ["block", "other"])
def test_hidden_states_are_found_by_number(prefix: str) -> None:
    assert hidden_states(small().graph, prefix) == (list(STATES) if prefix == "block" else [])
