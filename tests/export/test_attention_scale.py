"""Attention scales of half-precision graphs: as exact as two factors can be, not as one that is rounded."""

import math
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from sanac.export.attention_scale import scale_factors
from sanac.runtime.bf16_to_fp32 import widened
from tests.export.test_transformer import SHAPES, apart, built, exported, given, ran

TWO_HEADS = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 32}  # whose root no half has
BITS = {torch.bfloat16: 13, torch.float16: 19}


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("channels", [8, 16, 32, 64, 72, 112, 128])
def test_the_product_of_the_factors_is_the_scale(channels: int, dtype: torch.dtype) -> None:
    factors, root = scale_factors(channels, dtype), channels**-0.25
    assert abs(math.prod(factors) / channels**-0.5 - 1) < 2.0 ** -BITS[dtype]
    for factor in factors:
        assert factor == float(torch.tensor(factor, dtype=dtype)), "nothing is left to round"
        assert 0.7 * root < factor < 1.42 * root, "neither side leaves the range that the other needs"


def factors_of(path: Path) -> list[tuple[float, ...]]:
    """The constants that queries and keys are multiplied by, of every softmax of a graph."""
    graph = onnx.load(path, load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    constants = {one.name: one for one in graph.initializer if not one.external_data}
    products = [made[made[node.input[0]].input[0]] for node in graph.node if node.op_type == "Softmax"]
    sides = [[made[name].input[1] for name in product.input] for product in products]
    return [tuple(numpy_helper.to_array(constants[name]).item() for name in pair) for pair in sides]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_has_them_in_every_block(tmp_path: Path, dtype: torch.dtype) -> None:
    channels = built(tmp_path, **TWO_HEADS).config.cross_attention_head_dim
    root = pytest.approx(channels**-0.25, rel=1e-6)
    wanted = (root, root) if dtype == torch.float32 else scale_factors(channels, dtype)
    assert factors_of(exported(tmp_path, dtype)) == [wanted] * 3


def session_of(graph: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """A graph in bf16 whose constants stay as they are, computed in fp32."""
    (folder / "wide.onnx").write_bytes(widened(graph).SerializeToString())
    return onnxruntime.InferenceSession(folder / "wide.onnx")


@torch.no_grad()
def test_a_graph_in_bf16_computes_what_diffusers_does(tmp_path: Path) -> None:
    """With two rounded roots it is off by more than ten times as much."""
    model = built(tmp_path, **TWO_HEADS).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    graph = onnx.load(exported(tmp_path, torch.bfloat16), load_external_data=False)
    session, wide = session_of(graph, tmp_path), model.float()
    for seed, shape in enumerate(SHAPES):
        inputs = given(shape, seed=seed)
        assert apart(ran(session, inputs), wide(**inputs).sample) < 3e-5, shape
    for one in graph.graph.initializer:
        if one.name.endswith(".factor"):
            root = numpy_helper.to_array(one).copy()
            root[...] = 32**-0.25
            one.CopyFrom(numpy_helper.from_array(root, one.name))
    inputs = given(SHAPES[1], seed=1)
    assert apart(ran(session_of(graph, tmp_path), inputs), wide(**inputs).sample) > 3e-4
