"""Graphs that run piece by piece give what they give as a whole, and faults are found both ways."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.runtime.bf16_to_fp32 import widened
from sanac.verify import streamed_graph
from sanac.verify.graph_cut import GraphPiece
from sanac.verify.parity import Outputs, cases, compare, relative_error
from sanac.verify.parity_backends import OnnxBackend, TorchBackend
from sanac.verify.streamed_graph import plan_run
from tests.conftest import Sanac
from tests.export.test_transformer import DTYPES, built
from tests.export.test_transformer import exported as exported_graph

Change = Callable[[onnx.GraphProto], None]
LIMIT = 1e-4


def pieces_of(path: Path, content: bytes | None = None) -> tuple[GraphPiece, ...]:
    return plan_run(path, content, small=0).pieces


def assert_alike(path: Path, content: bytes | None = None, most: float = 1e-6) -> None:
    """Velocity, hidden states and codes of all cases, as a whole and in pieces."""
    model = open_model(locate(str(path.parent)))
    inputs = [case.inputs(model.architecture) for case in cases()]
    pieces = pieces_of(path, content)
    assert len(pieces) == model.architecture.blocks + 1
    whole = OnnxBackend(path, content=content).run(inputs)
    for one, other in zip(OnnxBackend(path, content=content, pieces=pieces).run(inputs), whole, strict=True):
        assert_same(one, other, most)


def assert_same(one: Outputs, other: Outputs, most: float) -> None:
    assert relative_error(one.velocity, other.velocity) < most
    assert len(one.streams) == len(other.streams) > 0
    assert all(relative_error(*pair) < most for pair in zip(one.streams, other.streams, strict=True))
    assert one.codes.keys() == other.codes.keys()
    for name, codes in one.codes.items():
        assert (codes != other.codes[name]).float().mean() < 1e-3, "a last bit can flip a rounding"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_same_results_in_half_precision(dtype: str, tmp_path: Path) -> None:
    built(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    path = exported_graph(tmp_path, DTYPES[dtype])
    graph = onnx.load(path, load_external_data=False)
    content = widened(graph).SerializeToString() if dtype == "bf16" else None
    assert_alike(path, content, 2e-3 if dtype == "fp16" else 2e-6)


@pytest.mark.parametrize("scheme", ["int8-wo", "int4-wo", "fp8-wo"])
def test_the_same_results_with_quantized_weights(quantized: Callable[[str], Path], scheme: str) -> None:
    assert_alike(quantized(scheme) / "transformer" / "model.onnx", most=2e-6)


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "fp8-dynamic"])
def test_rounding_is_replayed_through_pieces(quantized: Callable[[str], Path], scheme: str) -> None:
    path = quantized(scheme) / "transformer" / "model.onnx"
    model = open_model(locate(str(quantized(scheme))))
    side = OnnxBackend(path, pieces=pieces_of(path))
    found = compare(side, TorchBackend(model), model.architecture, LIMIT, median_limit=2e-3)
    assert found.passed
    assert found.unreplayed_errors
    assert max(one.error for one in found.results) < 2e-5


def another_block_s_weight(graph: onnx.GraphProto) -> None:
    """Block 5 multiplies by block 6's weight."""
    name = "transformer_blocks.{}.attn1.to_q.weight"
    for node in graph.node:
        node.input[:] = [name.format(6) if one == name.format(5) else one for one in node.input]


def a_dropped_node(graph: onnx.GraphProto) -> None:
    """The residual addition at the end of block 5."""
    node = next(one for one in graph.node if "transformer_blocks.5" in one.output)
    node.op_type = "Identity"
    del node.input[1:]


def swapped_blocks(graph: onnx.GraphProto) -> None:
    """Block 6 runs before block 5."""
    names = {5: "transformer_blocks.5", 6: "transformer_blocks.6", 4: "transformer_blocks.4"}
    reads = {5: names[6], 6: names[4]}
    inside = {number: [n for n in graph.node if f"transformer_blocks/{number}/" in n.name] for number in (5, 6)}
    for number, nodes in inside.items():
        before = names[number - 1]
        for node in nodes:
            node.input[:] = [reads[number] if one == before else one for one in node.input]
    for node in graph.node:
        if "transformer_blocks/7/" in node.name:
            node.input[:] = [names[5] if one == names[6] else one for one in node.input]
    first = min(list(graph.node).index(node) for node in inside[5])
    order = [node for node in graph.node if node not in inside[5] and node not in inside[6]]
    moved = [*order[:first], *inside[6], *inside[5], *order[first:]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in moved]
    del graph.node[:]
    graph.node.extend(copies)


@pytest.mark.parametrize("fault", [another_block_s_weight, a_dropped_node, swapped_blocks])
def test_faults_are_found_both_ways(tiny_graphs: Path, tmp_path: Path, fault: Change) -> None:
    path = Path(shutil.copytree(tiny_graphs / "transformer", tmp_path / "copy")) / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    fault(model.graph)
    path.write_bytes(model.SerializeToString())
    reference = open_model(locate(str(tiny_graphs)))
    few = cases()[:2]
    pieces = pieces_of(path)
    assert len(pieces) == 13
    for how in (pieces, ()):
        found = compare(OnnxBackend(path, pieces=how), TorchBackend(reference), reference.architecture, LIMIT, few)
        assert (found.passed, found.first_bad_block) == (False, 5)


def test_the_command_runs_pieces(
    sanac: Sanac, tiny_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the transformer and the text encoder: the same function, and not where a weight is another block's."""
    monkeypatch.setattr(streamed_graph, "_SMALL", 0)
    folder = Path(shutil.copytree(tiny_graphs, tmp_path / "copy"))
    (folder / "sanac.json").unlink()
    how = ("verify", folder, "--against", "sanac:tiny", "--pictures", "0")
    right = sanac(*how)
    assert (right.code, "the same function" in right.out) == (0, True), right.out + right.err
    path = folder / "transformer" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    another_block_s_weight(model.graph)
    path.write_bytes(model.SerializeToString())
    wrong = sanac(*how)
    assert (wrong.code, "they differ from block 5 on" in wrong.out) == (5, True), wrong.out + wrong.err


def test_a_graph_without_names_runs_as_a_whole(tiny_graphs: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_graphs / "transformer", tmp_path / "copy")) / "model.onnx"
    assert plan_run(path).pieces == (), "small"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("transformer_blocks.", "hidden.") if "/" not in name else name for name in names]
    path.write_bytes(model.SerializeToString())
    assert plan_run(path, small=0).why_whole == "it names no hidden states"


def test_a_value_that_is_computed_twice(tiny_graphs: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_graphs / "transformer", tmp_path / "copy")) / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(model.graph.node[0])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match="not a valid graph"):
        plan_run(path, small=0)
