"""The transformer's graph: what onnxruntime computes with it is what diffusers does, whatever the sizes and inputs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import SanaTransformer2DModel

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.export.external_data import link_external_data
from sanac.export.graph import serialized
from sanac.export.tracing import Traced
from sanac.export.transformer import GUIDANCE, transformer
from tests.export.graphs import checked_graph, checked_once
from tests.nn.blocks.test_forward import BASE

MEMBERS: dict[str, dict[str, Any]] = {
    "SANA-1.0": {},
    "SANA-1.5": {"qk_norm": "rms_norm_across_heads"},
    "SANA-Sprint": {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True},
    "large pictures": {"interpolation_scale": 1.0},
    "patches of two": {"patch_size": 2},
    "biases": {"attention_bias": True},
}
SHAPES = ((1, 16, 16, 300), (2, 6, 10, 7), (4, 2, 12, 1), (3, 14, 2, 33), (1, 2, 2, 2))  # batch, height, width, length
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def built(folder: Path, **options: Any) -> SanaTransformer2DModel:
    """A small member of the family, and its files."""
    torch.manual_seed(0)
    model = SanaTransformer2DModel(**BASE | options).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def exported(
    folder: Path, dtype: torch.dtype = torch.float32, island: torch.dtype | None = None, *, again: bool = False
) -> Path:
    """A model's graph; one of the same config and precision is traced once, or `again`."""
    model = open_model(locate(str(folder)))
    config = model.transformer.config
    key = (json.dumps(config, sort_keys=True), dtype, island)

    def trace() -> Traced:
        return transformer(model.architecture, config, dtype, island)

    graph = checked_graph(trace()) if again else checked_once(key, trace)
    link_external_data(graph, model.weights.tensors, folder)
    (folder / "model.onnx").write_bytes(serialized(graph))
    return folder / "model.onnx"


def given(shape: tuple[int, int, int, int], *, guidance: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    batch, height, width, length = shape
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 + 1 :] = 0
    found = {
        "hidden_states": torch.randn(batch, 4, height, width, generator=generator),
        "encoder_hidden_states": torch.randn(batch, length, 24, generator=generator),
        "encoder_attention_mask": mask,
        "timestep": 1000 * torch.rand(batch, generator=generator),
    }
    return found | ({GUIDANCE: torch.rand(batch, generator=generator)} if guidance else {})


def ran(session: onnxruntime.InferenceSession, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def apart(found: np.ndarray, wanted: torch.Tensor) -> float:
    return float(np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted.numpy()))


@pytest.mark.parametrize("member", MEMBERS)
@torch.no_grad()
def test_onnxruntime_computes_what_diffusers_does(member: str, tmp_path: Path) -> None:
    options = MEMBERS[member]
    model = built(tmp_path, **options)
    session = onnxruntime.InferenceSession(exported(tmp_path))
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    for seed, shape in enumerate(SHAPES):
        inputs = given(shape, guidance=options.get("guidance_embeds", False), seed=seed)
        found, wanted = ran(session, inputs), model(**inputs).sample
        assert found.shape == tuple(wanted.shape)
        assert apart(found, wanted) < 1e-5, shape


@torch.no_grad()
def test_a_head_that_asks_for_nothing(tmp_path: Path) -> None:
    """Divisors of zero: optimizers delete a sum with 1e-15, and the graph gives NaN."""
    model = built(tmp_path, attention_bias=True)
    for block in model.transformer_blocks:
        block.attn1.to_q.bias.data[:32] = -1e6
    model.save_pretrained(tmp_path)
    path = exported(tmp_path)
    floors = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "Clip"]
    assert len(floors) == 3, "one for each block"
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        inputs = given(SHAPES[1])
        found = ran(onnxruntime.InferenceSession(path, options), inputs)
        assert np.isfinite(found).all()
        assert apart(found, model(**inputs).sample) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_stay_where_they_are(dtype: str, tmp_path: Path) -> None:
    """Whatever they are computed in: cast in the graph, which has no copy of them."""
    built(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    path = exported(tmp_path, DTYPES[dtype])
    onnx.checker.check_model(path, full_check=True)
    refs = open_model(locate(str(tmp_path))).weights.tensors
    graph = onnx.load(path, load_external_data=False).graph
    outside = {tensor.name: tensor for tensor in graph.initializer if tensor.external_data}
    assert outside.keys() == refs.keys()
    for name, tensor in outside.items():
        about = {entry.key: entry.value for entry in tensor.external_data}
        assert about["location"] == "diffusion_pytorch_model.safetensors"
        assert (int(about["offset"]), int(about["length"])) == (refs[name].start, refs[name].size)
        assert tensor.data_type == onnx.TensorProto.BFLOAT16
    assert sum(len(tensor.raw_data) for tensor in graph.initializer) < 4096
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    wanted = {"fp32": onnx.TensorProto.FLOAT, "bf16": onnx.TensorProto.BFLOAT16, "fp16": onnx.TensorProto.FLOAT16}
    assert kinds["hidden_states"] == kinds["out_hidden_states"] == wanted[dtype]
    assert kinds["timestep"] == onnx.TensorProto.FLOAT, "sixteen bits have not all of a thousand steps"
    if dtype != "bf16":
        onnxruntime.InferenceSession(path)  # its processor provider has no products of bf16


def test_sums_of_the_linear_attention_are_in_fp32(tmp_path: Path) -> None:
    built(tmp_path)
    path = exported(tmp_path, torch.float16)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    divisions = [node for node in inferred.graph.node if node.op_type == "Div" and "transformer_blocks" in node.name]
    assert len(divisions) == 3
    assert all(kinds[name] == onnx.TensorProto.FLOAT for node in divisions for name in node.input)


def test_an_island_around_the_depthwise_convolution(tmp_path: Path) -> None:
    built(tmp_path)
    for island, wanted in ((None, onnx.TensorProto.BFLOAT16), (torch.float16, onnx.TensorProto.FLOAT16)):
        path = exported(tmp_path, torch.bfloat16, island)
        onnx.checker.check_model(path, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
        kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        found = {node.name: kinds[node.output[0]] for node in inferred.graph.node if node.op_type == "Conv"}
        deep = {kind for name, kind in found.items() if "conv_depth" in name}
        assert deep == {wanted}
        assert {kind for name, kind in found.items() if "conv_point" in name} == {onnx.TensorProto.BFLOAT16}


def test_nodes_are_named_by_module(tmp_path: Path) -> None:
    built(tmp_path, qk_norm="rms_norm_across_heads")
    graph = onnx.load(exported(tmp_path), load_external_data=False).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for index in range(3):
        for module in ("attn1/to_q/MatMul", "attn2/to_out/0/MatMul", "ff/conv_inverted/Conv", "ff/conv_depth/Conv"):
            assert f"/transformer_blocks/{index}/{module}" in names
        assert f"/transformer_blocks/{index}/Softmax" in names
    blocks = [[name for name in names if name.startswith(f"/transformer_blocks/{index}/")] for index in range(3)]
    assert len(blocks[1]) > 60
    assert [name.replace("blocks/2", "blocks/1") for name in blocks[2]] == blocks[1]
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 4, "rows", "columns"]
    assert not re.search(r"\bs\d+\b", str(graph.value_info))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    built(tmp_path)
    assert exported(tmp_path).read_bytes() == exported(tmp_path, again=True).read_bytes()
