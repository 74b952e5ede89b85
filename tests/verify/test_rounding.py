"""Graphs that round what weights are multiplied by: a tipped number is no fault, and each fault is one all the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.verify.end_to_end import VerifyReport
from sanac.verify.onnx_candidates import UNSEEN
from sanac.verify.parity import Inputs, Outputs, Parity, compare
from sanac.verify.parity_backends import OnnxBackend, TorchBackend
from sanac.verify.show import _why

LIMIT = 1e-4
LAYER = "/transformer_blocks/1/attn1/to_v"  # queries are normed: their scale is nothing to them
Change = Callable[[onnx.GraphProto], None]
Quantized = Callable[[str], Path]


def model_of(folder: Path) -> Model:
    return open_model(locate(str(folder)))


def verified(folder: Path, change: Change, reference: Model | None = None, limit: float = LIMIT) -> Parity:
    """An edited graph beside the model that it was made of."""
    path, model = folder / "transformer" / "model.onnx", reference or model_of(folder)
    graph = onnx.load(path, load_external_data=False)
    change(graph.graph)
    del graph.graph.value_info[:]
    side = OnnxBackend(path, content=graph.SerializeToString())
    return compare(side, TorchBackend(model), model.architecture, limit, median_limit=max(limit, UNSEEN))


def node(graph: onnx.GraphProto, name: str, layer: str = LAYER) -> onnx.NodeProto:
    return next(one for one in graph.node if one.name == f"{layer}/{name}")


def scaled(graph: onnx.GraphProto, name: str, by: float) -> str:
    """Another initializer, so much larger."""
    found = next(one for one in graph.initializer if one.name == name)
    new = numpy_helper.from_array((numpy_helper.to_array(found) * by).astype(np.float32), f"{name}.scaled")
    graph.initializer.append(new)
    return new.name


def unchanged(_graph: onnx.GraphProto) -> None:
    """Nothing."""


def quantized_by_another_scale(graph: onnx.GraphProto, by: float = 1.05) -> None:
    quantizing = node(graph, "QuantizeLinear")
    quantizing.input[1] = scaled(graph, quantizing.input[1], by)


def quantized_by_one_percent(graph: onnx.GraphProto) -> None:
    quantized_by_another_scale(graph, 1.01)


def restored_by_another_scale(graph: onnx.GraphProto, layer: str = LAYER) -> None:
    restoring = node(graph, "DequantizeLinear/given", layer)
    restoring.input[1] = scaled(graph, restoring.input[1], 1.01)


def restored_so_at_the_end(graph: onnx.GraphProto) -> None:
    """Behind which nothing is rounded."""
    restored_by_another_scale(graph, "/transformer_blocks/1/ff/conv_point")


def not_rounded(graph: onnx.GraphProto) -> None:
    product = next(one for one in graph.node if node(graph, "DequantizeLinear/given").output[0] in one.input)
    product.input[0] = node(graph, "QuantizeLinear").input[0]


def never_cut_off(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.int16(0), "wide"))
    for one in graph.node:
        if "zero_int8" in one.input:
            one.input[2] = "wide"


def never_in_eight_bits(graph: onnx.GraphProto) -> None:
    for one in graph.node:
        if one.name.endswith("/Cast/fp8"):
            next(attribute for attribute in one.attribute if attribute.name == "to").i = onnx.TensorProto.FLOAT16


def not_whole(graph: onnx.GraphProto) -> None:
    node(graph, "Round").op_type = "Identity"


def rounded_down(graph: onnx.GraphProto) -> None:
    for one in graph.node:
        if one.op_type == "Round":
            one.op_type = "Floor"


def fewer_bits(graph: onnx.GraphProto) -> None:
    """Whole numbers, of which only each eighth is used."""
    graph.initializer.append(numpy_helper.from_array(np.float32(8), "eight"))
    for one in [one for one in graph.node if one.op_type == "Round"]:
        value, place = one.output[0], list(graph.node).index(one)
        graph.node.insert(place, onnx.helper.make_node("Div", [one.input[0], "eight"], [f"{value}/less"]))
        graph.node.insert(place + 2, onnx.helper.make_node("Mul", [f"{value}/few", "eight"], [value]))
        one.input[0], one.output[0] = f"{value}/less", f"{value}/few"


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "fp8-dynamic"])
def test_it_is_the_same_function_in_every_case(quantized: Quantized, scheme: str) -> None:
    found = verified(quantized(scheme), unchanged)
    assert found.passed
    assert max(one.error for one in found.results) < 2e-5
    assert max(off.farthest for one in found.results for off in one.replay_errors.values()) < 1e-4
    assert [figure.name for figure in found.figures][1] == "relative error, at worst, rounded alike"
    assert found.unreplayed_errors
    assert found.unreplayed_errors[0] <= found.unreplayed_errors[1]
    assert {"edge", "steps", "alone"} <= found.to_json()["cases"][0].keys()


FP16, BF16 = 2e-2, 5e-3


@pytest.mark.parametrize(
    ("scheme", "fault", "limit"),
    [
        ("int8", quantized_by_another_scale, LIMIT),
        ("int8", restored_by_another_scale, LIMIT),
        ("int8", restored_so_at_the_end, LIMIT),
        ("int8", quantized_by_one_percent, BF16),
        ("int8", not_rounded, LIMIT),
        ("int8", never_cut_off, FP16),
        ("int8-dynamic", not_whole, FP16),
        ("int8-dynamic", rounded_down, BF16),
        ("int8-dynamic", fewer_bits, FP16),
        ("fp8-dynamic", never_in_eight_bits, FP16),
    ],
)
def test_faults_are_found(quantized: Quantized, scheme: str, fault: Change, limit: float) -> None:
    """Also where limits are wide; in the block, and what is multiplied by what was rounded otherwise."""
    found = verified(quantized(scheme), fault, limit=limit)
    assert not found.passed
    in_one_layer = limit == LIMIT or fault in {not_whole, quantized_by_one_percent}
    assert found.first_bad_block == (1 if in_one_layer else 0)
    if fault is restored_so_at_the_end:
        assert not found.figures[1].passed
        assert not found.misrounded
    elif in_one_layer:
        assert found.misrounded[0].removeprefix("transformer_blocks.1.attn1.") in {"to_v.weight", "to_out.0.weight"}


def test_people_are_told_where(quantized: Quantized) -> None:
    found = _why(VerifyReport(verified(quantized("int8"), restored_by_another_scale), (), (), {}))
    layer = "transformer_blocks.1.attn1.to_out.0.weight"
    assert found == f"they differ from block 1 on; the inputs of {layer} are rounded differently"


def test_a_limit_that_would_pass(quantized: Quantized) -> None:
    def nearly(graph: onnx.GraphProto) -> None:
        restoring = node(graph, "DequantizeLinear/given")
        restoring.input[1] = scaled(graph, restoring.input[1], 1.0025)

    found = verified(quantized("int8"), nearly)
    assert found.passing
    assert verified(quantized("int8"), nearly, limit=found.passing).passed
    assert not verified(quantized("int8"), nearly, limit=0.9 * found.passing).passed
    assert verified(quantized("int8-dynamic"), rounded_down).passing is None, "no limit is about steps"


def test_a_tipped_number_is_followed(quantized: Quantized) -> None:
    """By itself the reference is off as by a fault; told of it, it is not."""

    def nudged(graph: onnx.GraphProto) -> None:
        quantizing = node(graph, "QuantizeLinear")
        quantizing.input[1] = scaled(graph, quantizing.input[1], 1 + 2e-4)

    found = verified(quantized("int8"), nudged)
    assert found.unreplayed_errors
    assert found.unreplayed_errors[1] > 10 * LIMIT > 100 * max(one.error for one in found.results)
    assert found.passed


def test_where_not_all_is_seen_nobody_is_followed(quantized: Quantized) -> None:
    def renamed(graph: onnx.GraphProto) -> None:
        quantizing = node(graph, "QuantizeLinear")
        restoring = node(graph, "DequantizeLinear/given")
        quantizing.output[0] = restoring.input[0] = "hidden"

    found = verified(quantized("int8"), renamed)
    assert (found.unreplayed_errors, found.passed) == (None, True)
    assert any(figure.name == "relative error, median" for figure in found.figures)


class Unseen:
    """A graph as an engine is: nobody sees inside."""

    name = "unseen"

    def __init__(self, side: OnnxBackend, noise: Sequence[float]) -> None:
        self.side, self.noise = side, noise

    def run(self, cases: Sequence[Inputs]) -> list[Outputs]:
        answers = zip(self.side.run(cases), self.noise, strict=True)
        return [Outputs(gave.velocity * (1 + noise), ()) for gave, noise in answers]


@pytest.mark.parametrize(("off", "passes"), [(1, True), (5, True), (6, False)])
def test_medians_are_judged_where_nobody_sees_how_it_rounds(quantized: Quantized, off: int, passes: bool) -> None:
    model = model_of(quantized("int8"))
    side = OnnxBackend(quantized("int8") / "transformer" / "model.onnx")
    noise = [5 * UNSEEN if number < off else 0.0 for number in range(11)]
    found = compare(Unseen(side, noise), TorchBackend(model), model.architecture, LIMIT, median_limit=UNSEEN)
    assert found.unreplayed_errors is None
    assert found.passed is passes
    assert any(figure.name == "relative error, median" for figure in found.figures)


def test_a_reference_that_does_not_round_follows_nobody(quantized: Quantized) -> None:
    found = verified(quantized("int8"), unchanged, model_of(quantized("int8").parent / "two"))
    assert (found.unreplayed_errors, found.passed) == (None, False)
    assert replace(found, median_limit=None).figures[1].name == "relative error, at worst"
