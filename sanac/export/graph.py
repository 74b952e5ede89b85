"""Converts a traced program to an ONNX graph: translates, simplifies, unrolls the block, names nodes by module."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from sanac.core.family.architecture import block_name, split_block
from sanac.export.attention_scale import correct_attention_scales
from sanac.export.tracing import OWN, SAME, Traced

_SCOPES = "pkg.torch.onnx.name_scopes"
_MODULE = "module"  # metadata: dotted path of the module that a node was traced in
BLOCKS = "transformer_blocks"
TOKENS = "embed_tokens"
_LAYER = re.compile(rf"({TOKENS}|layers\.\d+)(?:\.|$)")
OPSET = 22  # below, Conv knows no bf16; above, runtimes fail on attention with masks


def graph_of(traced: Traced) -> ir.Model:
    """The ONNX graph of a traced program; weights are initializers without values under the checkpoint's names."""
    return completed(translated(traced), range(traced.blocks))


def translated(traced: Traced) -> ir.Model:
    """The traced program in ONNX operators, tidied; one block between its edges, nodes not yet named."""
    names = {"input_names": list(traced.inputs), "output_names": [traced.output]}
    made = torch.onnx.export(traced.program, (), optimize=False, opset_version=OPSET, verbose=False, **names)
    model: ir.Model = made.model
    weights = [value for name in traced.program.state_dict if (value := model.graph.initializers.get(name))]
    for value in weights:
        value.const_value = None  # prevents constant folding of weights
    _remove_same(model.graph)
    tidy(model)
    correct_attention_scales(model.graph)
    for value in weights:
        value.name = (value.name or "").removeprefix(traced.prefix)
    name_axes(model, traced)
    for about in (model.metadata_props, model.graph.metadata_props):
        about.clear()  # exporter metadata, whose order differs between runs
    for node in model.graph:
        scope = _scope(node, traced.prefix)
        node.metadata_props.clear()
        node.metadata_props.update({_MODULE: scope} if scope else {})
    return model


def completed(model: ir.Model, blocks: Sequence[int]) -> ir.Model:
    """A translated graph with these blocks unrolled, and its nodes and values named."""
    stream = unroll_blocks(model, blocks)
    states = {f"{BLOCKS}.{index}": value for index, value in zip(blocks, stream, strict=False)}
    states = states or _layer_outputs(model.graph)
    name_nodes(model.graph)
    for name, value in states.items():
        value.name = name
    return model


def _layer_outputs(graph: ir.Graph) -> dict[str, ir.Value]:
    """What a text encoder's token embedding and each of its layers compute last: its hidden states, by module."""
    found: dict[str, ir.Value] = {}
    for node in graph:
        if hit := _LAYER.match(node.metadata_props.get(_MODULE, "")):
            found[hit[1]] = node.outputs[0]
    return found if TOKENS in found else {}


def _remove_same(graph: ir.Graph) -> None:
    """Remove the marks of tensors whose sizes tracing knew more about."""
    for node in [node for node in graph if f"{node.domain}::{node.op_type}" == SAME]:
        (marked,) = node.inputs
        assert marked is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], marked)
        graph.remove(node, safe=True)


def tidy(model: ir.Model) -> None:
    """Fold and share constants and remove unused nodes, without rewriting any node."""
    for _ in range(2):
        optimizer.fold_constants(model)
        passes.CommonSubexpressionEliminationPass()(model)
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedOpsetsPass()(model)


def unroll_blocks(model: ir.Model, blocks: Sequence[int]) -> list[ir.Value]:
    """Repeat the traced block between the edge nodes for each of `blocks`; returns the hidden states after each block.

    Nodes that don't depend on the block's weights or input are shared by all blocks.
    """
    graph = model.graph
    edges = [node for node in graph if node.domain == OWN]
    if not edges:
        return []
    first, last = edges
    weights = [value for name, value in graph.initializers.items() if split_block(name)]
    inside = _between(graph, {first.outputs[0], *weights}, last)
    for node in inside:
        node.metadata_props[BLOCKS] = str(blocks[0])
    begin, end = first.inputs[0], last.inputs[0]
    assert begin is not None
    assert end is not None
    stream = [end]
    for index in blocks[1:]:
        known = {first.outputs[0]: stream[-1], **{value: _weight(value, index, graph) for value in weights}}
        copies = [_copy(node, known, index) for node in inside]
        graph.insert_before(last, copies)
        stream.append(known[end])
    if blocks[0]:
        for value in weights:
            _rename(value, blocks[0], graph)
    ir.convenience.replace_all_uses_with(first.outputs[0], begin)
    ir.convenience.replace_all_uses_with(last.outputs[0], stream[-1])
    graph.remove((first, last), safe=True)
    model.opset_imports.pop(OWN, None)
    return stream


def _between(graph: ir.Graph, begin: set[ir.Value], last: ir.Node) -> list[ir.Node]:
    """Nodes that depend on these values, excluding `last`."""
    reached, found = set(begin), []
    for node in graph:
        if node is not last and any(value in reached for value in node.inputs):
            reached.update(node.outputs)
            found.append(node)
    return found


def _weight(first: ir.Value, index: int, graph: ir.Graph) -> ir.Value:
    """A new initializer: the weight of block `index` that corresponds to the first block's."""
    place = split_block(first.name or "")
    assert place
    value = ir.Value(name=block_name(index, place[1]), shape=first.shape, type=first.type)
    graph.initializers.add(value)
    return value


def _rename(weight: ir.Value, index: int, graph: ir.Graph) -> None:
    """Give the traced block's weight the name that it has in block `index`."""
    place = split_block(weight.name or "")
    assert place
    graph.initializers.pop(weight.name or "")
    weight.name = block_name(index, place[1])
    graph.initializers.add(weight)


def _copy(node: ir.Node, known: dict[ir.Value, ir.Value], index: int) -> ir.Node:
    """Copy a node for another block and add its outputs to `known`."""
    inputs = [known.get(value, value) if value is not None else None for value in node.inputs]
    found = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        num_outputs=len(node.outputs),
        metadata_props={**node.metadata_props, BLOCKS: str(index)},
    )
    for old, new in zip(node.outputs, found.outputs, strict=True):
        new.shape, new.type = old.shape, old.type
        known[old] = new
    return found


def name_axes(model: ir.Model, traced: Traced) -> None:
    """Rename the symbolic dimensions in all shapes: batch, rows, columns, sequence_length."""
    words: dict[str, str] = {}
    for value, axes in zip(model.graph.inputs, traced.axes, strict=True):
        assert value.shape is not None
        for place, name in axes.items():
            words.setdefault(str(value.shape[place]), name)
        value.shape = ir.Shape([axes.get(place, size) for place, size in enumerate(value.shape)])
    every = (value for node in model.graph for value in node.outputs)
    for value in every:
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else _said(str(size), words) for size in value.shape])


def _said(expression: str, words: Mapping[str, str]) -> str:
    return re.sub(r"s\d+", lambda found: words.get(found[0], found[0]), expression)


def name_nodes(graph: ir.Graph) -> None:
    """Name nodes by module and operator (/transformer_blocks/7/attn1/to_q/MatMul), values by their node."""
    taken: dict[str, int] = {}
    outputs = set(graph.outputs)
    for node in graph:
        place = "/".join(("", *_module(node), node.op_type))
        taken[place] = count = taken.get(place, -1) + 1
        node.name = f"{place}_{count}" if count else place
        for number, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}:{number}" if number else node.name
        node.metadata_props.clear()


def _module(node: ir.Node) -> tuple[str, ...]:
    """Module path of a node: of the weight it uses, else of its block, else of its torch scope."""
    for name in _weights_of((node,)):
        return tuple(name.split(".")[:-1])
    if BLOCKS in node.metadata_props:
        return (BLOCKS, node.metadata_props[BLOCKS])
    return tuple(filter(None, node.metadata_props.get(_MODULE, "").split(".")))


def _scope(node: ir.Node, prefix: str) -> str:
    """Dotted path of the module that a node was traced in; '' outside all named ones."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    place: str = scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_") else ""
    return place.removeprefix(prefix) if place.startswith(prefix) else ""


def _weights_of(nodes: Iterable[ir.Node]) -> Iterable[str]:
    """Names of the weights that nodes use, directly or through Transpose, Cast or DequantizeLinear."""
    for node in nodes:
        for value in node.inputs:
            if value is None:
                continue
            before = value.producer()
            if value.is_initializer() and value.const_value is None:
                yield value.name or ""
            elif before is not None and before.op_type in {"Transpose", "Cast", "DequantizeLinear"}:
                yield from _weights_of((before,))


def serialized(model: ir.Model) -> bytes:
    """The graph as ONNX bytes, without its weights."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data
