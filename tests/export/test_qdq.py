"""Graphs of quantized weights: what the simulator computes, from values that are stored in the bits they have."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from sanac.core.safetensors_header import read_header
from tests.conftest import Sanac

KINDS = {"int8": onnx.TensorProto.INT8, "int4": onnx.TensorProto.INT4, "fp8": onnx.TensorProto.FLOAT8E4M3FN}
WEIGHTS_ONLY = ("int8-wo", "int4-wo", "fp8-wo")
GIVEN = ("int8", "fp8", "int8-dynamic", "fp8-dynamic")


def made(sanac: Sanac, *how: str) -> Path:
    """Two blocks of sanac:tiny in int8, without graphs."""
    assert sanac("prune", "sanac:tiny", "--keep", "3,7", "--out", "two").code == 0
    few = ("--include", "ends", "--num-prompts", "3", "--timesteps", "4")
    ran = sanac("quantize", "two", "--scheme", "int8", *few, *how, "--out", "quantized")
    assert ran.code == 0, ran.err
    return Path("quantized")


def opened(folder: Path, part: str = "transformer") -> onnx.GraphProto:
    return onnx.load(folder / part / "model.onnx", load_external_data=False).graph


@pytest.mark.parametrize("scheme", [*WEIGHTS_ONLY, *GIVEN])
def test_it_is_what_the_simulator_computes(sanac: Sanac, quantized: Callable[[str], Path], scheme: str) -> None:
    """In bits that are really stored, and with nothing between dequantizing and the product."""
    folder = quantized(scheme)
    found = sanac("verify", folder, "--against", folder, "--pictures", "0", "--json")
    assert found.code == 0, "pictures of two blocks show nothing that could be compared"
    figures = {figure["name"]: figure["value"] for figure in found.json["figures"]}
    alike = "" if scheme in WEIGHTS_ONLY else ", rounded alike"
    assert figures[f"relative error, at worst{alike}"] < 2e-5
    assert any("replays the candidate's rounding" in note for note in found.json["notes"]) == (scheme in GIVEN)
    graph, form = opened(folder), scheme.partition("-")[0]
    onnx.checker.check_model(folder / "transformer" / "model.onnx", full_check=True)
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == KINDS[form] and tensor.dims}
    content = json.loads((folder / "transformer" / "quant.json").read_text())["weights"]
    assert len(stored) == len(content) == 16, "of each block: eight of ten, without the caption's keys and values"
    numbers = sum(int(np.prod(packing["shape"])) for packing in content.values())
    size = sum(int(next(e.value for e in one.external_data if e.key == "length")) for one in stored.values())
    assert size == numbers * (0.5 if form == "int4" else 1)
    users = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            assert users[node.output[0]].op_type == "MatMul"
            assert users[node.output[0]].input[1] == node.output[0]
    laid = read_header(folder / "transformer" / "graph.safetensors")
    assert sum(ref.size for ref in laid.tensors.values()) < 1.3 * size, "values, and scales of blocks: nothing wider"
    made_of = {node.op_type for node in graph.node}
    assert ("QuantizeLinear" in made_of) == (scheme in {"int8", "fp8"})
    assert ("ReduceMax" in made_of) == scheme.endswith("-dynamic")
    how = ("--component", "transformer", "--precision", "fp32", "--no-verify", "--json")
    assert sanac("export", folder, "--in-place", *how).json["status"] == "cached"


def test_scales_are_of_the_dtype_that_is_computed_in(sanac: Sanac) -> None:
    """No cast stands between a value and its product; in bf16 none before the scale either."""
    folder = made(sanac, "--include", "kv")
    ran = sanac("export", "quantized", "--in-place", "--component", "transformer", "--no-verify", "--json")
    assert ran.code == 0, ran.err
    found = sanac("verify", "quantized", "--against", "quantized", "--pictures", "0", "--json")
    assert (found.code, any("converted to fp32" in note for note in found.json["notes"])) == (0, True), found.out
    figures = {figure["name"]: figure for figure in found.json["figures"]}
    farthest = figures["rounded otherwise, farthest"]
    assert farthest["value"] < 1e-3 < farthest["limit"] < 0.009, "a scale that is 1 % off reaches 0.009"
    graph = opened(folder)
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    scales = [node.input[1] for node in graph.node if node.op_type in {"DequantizeLinear", "QuantizeLinear"}]
    assert len(scales) == 3 * 20
    assert {kinds[name] for name in scales} == {onnx.TensorProto.BFLOAT16}
    zeros = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and not t.dims]
    assert [int(onnx.numpy_helper.to_array(zero)) for zero in zeros] == [0]


@pytest.mark.parametrize("blocks", ["--keep 0,4,10", pytest.param("--target-blocks 8", marks=pytest.mark.slow)])
def test_a_pruned_model_in_int8_as_it_is_stored(sanac: Sanac, blocks: str) -> None:
    """With nothing but defaults the graphs are in bf16, and the same function."""
    few = ("--num-prompts", "3", "--timesteps", "4") if "keep" in blocks else ()
    assert sanac("prune", "sanac:tiny", *blocks.split(), "--out", "pruned").code == 0
    assert sanac("quantize", "pruned", "--scheme", "int8", *few, "--out", "int8").code == 0
    ran = sanac("export", "int8", "--component", "transformer", "--out", "exported", "--json")
    assert ran.code == 0, ran.err
    assert {f["name"]: f["value"] for f in ran.json["verify"]["figures"]}["rounded otherwise, farthest"] < 1e-3


@pytest.mark.parametrize("scheme", ["int8-wo", pytest.param("int4-wo", marks=pytest.mark.slow)])
def test_other_parts(sanac: Sanac, scheme: str) -> None:
    """Layers of the text encoder are products, kernels of the autoencoder are taken from where they lie."""
    ran = sanac("quantize", "sanac:tiny", "--scheme", scheme, "--component", "text-encoder", "--out", "words")
    assert ran.code == 0, ran.err
    ran = sanac("quantize", "words", "--scheme", scheme, "--component", "vae", "--out", "quantized")
    assert ran.code == 0, ran.err
    parts = ("--component", "text-encoder", "--component", "vae")
    ran = sanac("export", "quantized", "--in-place", *parts, "--precision", "fp32", "--json")
    assert ran.code == 0, ran.err
    assert all(figure["passed"] for figure in ran.json["verify"]["figures"])
    for part in ("text_encoder", "vae_decoder", "vae_encoder"):
        kinds = {tensor.data_type for tensor in opened(Path("quantized"), part).initializer}
        assert KINDS[scheme.partition("-")[0]] in kinds
        onnxruntime.InferenceSession(f"quantized/{part}/model.onnx")


def test_fp16_that_can_not_hold_it_is_refused(sanac: Sanac) -> None:
    folder = made(sanac)
    text = (folder / "transformer" / "quant.json").read_text()
    from sanac.core import json_files
    from sanac.core.checkpoint.quant_json import _digest

    content = json.loads(text)
    del content["seal"]
    name = next(iter(content["weights"]))
    content["weights"][name]["given"]["scale"] = 1000.0
    content["seal"] = _digest(json_files.canonical(content))
    (folder / "transformer" / "quant.json").write_text(json.dumps(content))
    (folder / "sanac.json").unlink()
    ran = sanac("export", "quantized", "--precision", "fp16", "--component", "transformer", "--out", "half")
    assert (ran.code, "can't be computed in fp16" in ran.err) == (2, True), ran.err
    assert not Path("half").exists()
