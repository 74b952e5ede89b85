"""Cuts an ONNX graph at its hidden states into pieces that run one after the other, and proves that none is missing.

What comes before the first hidden state is in the first piece, what follows the last one in the last. Nodes that only
depend on weights are placed where their result is used first, so that a piece holds the weights of its own block only.
Values that several blocks use are computed once and passed on: no node is in two pieces.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

_SUBGRAPHS = {AttributeProto.GRAPH, AttributeProto.GRAPHS}


@dataclass(frozen=True, slots=True)
class GraphPiece:
    """A part of a graph that runs on its own."""

    nodes: tuple[int, ...]  # places in the graph's list of nodes
    inputs: tuple[str, ...]  # inputs of the graph, and outputs of earlier pieces
    outputs: tuple[str, ...]  # outputs of the graph, cut values, and what later pieces use
    initializers: tuple[str, ...]


def why_uncut(model: ModelProto, states: Sequence[str]) -> str:
    """Why a graph can't be cut at the values `states`; '' if it can."""
    graph = model.graph
    if not states:
        return "it names no hidden states"
    if nested := [node for node in graph.node if any(one.type in _SUBGRAPHS for one in node.attribute)]:
        return f"its node {nested[0].name or nested[0].op_type} contains a subgraph"
    if model.functions or graph.sparse_initializer:
        return "it has functions or sparse weights"
    computed = {name for node in graph.node for name in node.output}
    missing = [name for name in (*states, *(value.name for value in graph.output)) if name not in computed]
    return f"no node computes {missing[0]}" if missing else ""


def cut_graph(graph: GraphProto, states: Collection[str]) -> list[GraphPiece]:
    """The pieces of a graph, cut behind each of its values `states`, in the order in which they run."""
    results = {value.name for value in graph.output}
    places = _places(graph.node, set(states), results)
    last: dict[str, int] = {}  # value -> the last piece that reads it
    for place, node in zip(places, graph.node, strict=True):
        last.update({name: max(place, last.get(name, 0)) for name in node.input})
    last.update(dict.fromkeys((*states, *results), len(graph.node)))  # outputs of their piece, whoever reads them
    stored = {tensor.name for tensor in graph.initializer}
    found = []
    for place in sorted(set(places)):
        inside = [number for number, where in enumerate(places) if where == place]
        made = [name for number in inside for name in graph.node[number].output if name]
        read = dict.fromkeys(name for number in inside for name in graph.node[number].input if name)
        outputs = [name for name in made if last.get(name, 0) > place]
        inputs = [name for name in read if name not in stored and name not in set(made)]
        weights = [name for name in read if name in stored]
        found.append(GraphPiece(tuple(inside), tuple(inputs), tuple(outputs), tuple(weights)))
    return found


def _places(nodes: Sequence[NodeProto], states: set[str], outputs: set[str]) -> list[int]:
    """The piece of each node: behind the states it depends on, and as late as the nodes that use it allow."""
    order = [name for node in nodes for name in node.output if name in states]
    rank = {name: place for place, name in enumerate(order)}
    users: dict[str, list[int]] = {}
    latest: list[int | None] = [None] * len(nodes)
    for number in reversed(range(len(nodes))):
        made = [name for name in nodes[number].output if name]
        bounds = [bound for name in made for bound in users.get(name, ())]
        bounds += [rank[name] for name in made if name in rank]
        bounds += [len(order)] if outputs.intersection(made) else []
        latest[number] = min(bounds, default=None)
        if bounds:
            for name in nodes[number].input:
                users.setdefault(name, []).append(min(bounds))
    places: list[int] = []
    behind: dict[str, int] = {}  # value -> the first piece that can use it
    for node, bound in zip(nodes, latest, strict=True):
        earliest = max((behind.get(name, 0) for name in node.input), default=0)
        place = earliest if bound is None else bound  # nobody uses what an unbounded node computes
        places.append(place)
        behind.update({name: max(place, rank[name] + 1) if name in rank else place for name in node.output})
    return places


def cut_problems(graph: GraphProto, pieces: Sequence[GraphPiece]) -> list[str]:
    """What keeps the pieces from computing, one after the other, exactly what the graph does; empty if nothing does.

    Doesn't rely on how they were cut: every node is in exactly one piece, and every value that a node reads is a weight
    of its piece, computed before it in its piece, or passed from an earlier piece or the graph's inputs.
    """
    given = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    stored = {tensor.name for tensor in graph.initializer}
    problems, counts, passed = [], [0] * len(graph.node), set(given)
    for place, piece in enumerate(pieces):
        known = {*piece.inputs, *piece.initializers, ""}
        problems += [f"piece {place} has no input {name}" for name in piece.inputs if name not in passed]
        problems += [f"piece {place} has no weight {name}" for name in piece.initializers if name not in stored]
        for number in piece.nodes:
            counts[number] += 1
            node = graph.node[number]
            problems += [f"{node.name} reads {name}, which is not there" for name in node.input if name not in known]
            problems += [f"{name} is computed twice" for name in node.output if name and name in known | passed]
            known.update(node.output)
        problems += [f"piece {place} doesn't compute {name}" for name in piece.outputs if name not in known]
        passed.update(piece.outputs)
    names = (node.name or node.op_type for node in graph.node)
    problems += [f"{name} is in {count} pieces" for name, count in zip(names, counts, strict=True) if count != 1]
    return problems + [f"no piece gives {value.name}" for value in graph.output if value.name not in passed]


def piece_model(model: ModelProto, piece: GraphPiece, inputs: Mapping[str, tuple[int, int]]) -> ModelProto:
    """A piece as a graph of its own; `inputs`: (dtype, number of dimensions) of the values that are passed to it."""
    whole = model.graph
    known = {value.name: value for value in (*whole.input, *whole.output)}
    kept = {name for number in piece.nodes for name in whole.node[number].output}
    weights = set(piece.initializers)
    found = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = found.graph
    graph.name = whole.name
    graph.node.extend(whole.node[number] for number in piece.nodes)
    graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in weights)
    graph.input.extend(known.get(name) or _value(name, *inputs[name]) for name in piece.inputs)
    graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in piece.outputs)
    graph.value_info.extend(value for value in whole.value_info if value.name in kept)
    return found


def _value(name: str, dtype: int, dimensions: int) -> ValueInfoProto:
    value = ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = dtype
    value.type.tensor_type.shape.SetInParent()
    for _ in range(dimensions):
        value.type.tensor_type.shape.dim.add()
    return value


def weight_sizes(graph: GraphProto, tables: Collection[str], names: Collection[str] | None = None) -> tuple[int, int]:
    """(numbers, stored bytes) of a graph's external weights, or of those in `names`, without `tables`."""
    outside = [
        tensor
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        and tensor.name not in tables
        and (names is None or tensor.name in names)
    ]
    return sum(math.prod(tensor.dims) for tensor in outside), sum(map(_stored_bytes, outside))


def _stored_bytes(tensor: TensorProto) -> int:
    return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), 0)


def hidden_states(graph: GraphProto, prefix: str) -> list[str]:
    """The names of a graph's hidden states 'PREFIX.0', 'PREFIX.1', ... by number."""
    return [name for _, name in sorted(_numbered(graph, f"{prefix}."))]


def _numbered(graph: GraphProto, prefix: str) -> Iterator[tuple[int, str]]:
    for node in graph.node:
        for name in node.output:
            if name.startswith(prefix) and name.removeprefix(prefix).isdecimal():
                yield int(name.removeprefix(prefix)), name
