"""Graphs that round what weights are multiplied by: a tipped number is no fault, and each fault is one all the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sanac.core.locate import locate
from sanac.core.model import Model, open_model
from sanac.verify.graphs import ROUNDED
from sanac.verify.parity import Gave, Inputs, Parity, compare
from sanac.verify.sides import OnnxSide, TorchSide

LIMIT = 1e-4
LAYER = "/transformer_blocks/1/attn1/to_v"  # queries are normed: their scale is nothing to them
Change = Callable[[onnx.GraphProto], None]
Quantized = Callable[[str], Path]


def model_of(folder: Path) -> Model:
    return open_model(locate(str(folder)))


def verified(folder: Path, change: Change, reference: Model | None = None) -> Parity:
    """An edited graph beside the model that it was made of."""
    path, model = folder / "transformer" / "model.onnx", reference or model_of(folder)
    graph = onnx.load(path, load_external_data=False)
    change(graph.graph)
    side = OnnxSide(path, content=graph.SerializeToString())
    return compare(side, TorchSide(model), model.architecture, LIMIT, tipping=ROUNDED)


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(one for one in graph.node if one.name == f"{LAYER}/{name}")


def scaled(graph: onnx.GraphProto, name: str, by: float) -> str:
    """Another initializer, so much larger."""
    found = next(one for one in graph.initializer if one.name == name)
    new = numpy_helper.from_array((numpy_helper.to_array(found) * by).astype(np.float32), f"{name}.scaled")
    graph.initializer.append(new)
    return new.name


def unchanged(_graph: onnx.GraphProto) -> None:
    """Nothing."""


def quantized_by_another_scale(graph: onnx.GraphProto) -> None:
    quantizing = node(graph, "QuantizeLinear")
    quantizing.input[1] = scaled(graph, quantizing.input[1], 1.05)


def restored_by_another_scale(graph: onnx.GraphProto) -> None:
    restoring = node(graph, "DequantizeLinear/given")
    restoring.input[1] = scaled(graph, restoring.input[1], 1.01)


def not_rounded(graph: onnx.GraphProto) -> None:
    product = next(one for one in graph.node if node(graph, "DequantizeLinear/given").output[0] in one.input)
    product.input[0] = node(graph, "QuantizeLinear").input[0]


def rounded_down(graph: onnx.GraphProto) -> None:
    """By half a step, before it is rounded."""
    rounding = node(graph, "Cast/fp8")
    graph.initializer.append(numpy_helper.from_array(np.float32(0.93), "nearly"))
    graph.node.insert(
        list(graph.node).index(rounding), onnx.helper.make_node("Mul", [rounding.input[0], "nearly"], ["less"])
    )
    rounding.input[0] = "less"


@pytest.mark.parametrize("scheme", ["int8", "fp8-dynamic"])
def test_it_is_the_same_function_in_every_case(quantized: Quantized, scheme: str) -> None:
    found = verified(quantized(scheme), unchanged)
    assert found.passed
    assert max(one.error for one in found.compared) < 2e-5
    assert [figure.name for figure in found.figures][1:3] == [
        "relative error, at worst, rounded alike",
        "rounded otherwise, off an edge at most",
    ]
    assert found.alone
    assert found.alone[0] <= found.alone[1]
    assert {"edge", "alone"} <= found.to_json()["cases"][0].keys()


@pytest.mark.parametrize(
    ("scheme", "fault"),
    [
        ("int8", quantized_by_another_scale),
        ("int8", restored_by_another_scale),
        ("int8", not_rounded),
        ("fp8-dynamic", rounded_down),
    ],
)
def test_a_fault_in_one_layer_is_found(quantized: Quantized, scheme: str, fault: Change) -> None:
    found = verified(quantized(scheme), fault)
    assert (found.passed, found.culprit) == (False, 1)
    assert not found.figures[2].passed, "there or behind it, values that are near no edge are rounded over it"
    farthest = {one["farthest"].rpartition(".attn1.")[2] for one in found.to_json()["cases"] if one["edge"] > ROUNDED}
    assert farthest <= {"to_v.weight", "to_out.0.weight"}


def test_a_tipped_number_is_followed(quantized: Quantized) -> None:
    """By itself the reference is off as by a fault; told of it, it is not."""

    def nudged(graph: onnx.GraphProto) -> None:
        quantizing = node(graph, "QuantizeLinear")
        quantizing.input[1] = scaled(graph, quantizing.input[1], 1 + 2e-4)

    found = verified(quantized("int8"), nudged)
    assert found.alone
    assert found.alone[1] > 10 * LIMIT > 100 * max(one.error for one in found.compared)
    assert found.passed


class Unseen:
    """A graph as an engine is: nobody sees inside."""

    name = "unseen"

    def __init__(self, side: OnnxSide, noise: Sequence[float]) -> None:
        self.side, self.noise = side, noise

    def ask(self, cases: Sequence[Inputs]) -> list[Gave]:
        answers = zip(self.side.ask(cases), self.noise, strict=True)
        return [Gave(gave.velocity * (1 + noise), ()) for gave, noise in answers]


@pytest.mark.parametrize(("off", "passes"), [(1, True), (5, True), (6, False)])
def test_medians_are_judged_where_nobody_sees_how_it_rounds(quantized: Quantized, off: int, passes: bool) -> None:
    model = model_of(quantized("int8"))
    side = OnnxSide(quantized("int8") / "transformer" / "model.onnx")
    noise = [5 * ROUNDED if number < off else 0.0 for number in range(11)]
    found = compare(Unseen(side, noise), TorchSide(model), model.architecture, LIMIT, tipping=ROUNDED)
    assert found.alone is None
    assert found.passed is passes
    assert any(figure.name == "relative error, median" for figure in found.figures)


def test_a_reference_that_does_not_round_follows_nobody(quantized: Quantized) -> None:
    found = verified(quantized("int8"), unchanged, model_of(quantized("int8").parent / "two"))
    assert (found.alone, found.passed) == (None, False)
    assert replace(found, tipping=None).figures[1].name == "relative error, at worst"
