"""The same function, or not: faults that are planted are found, and the block that they are in."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from sanac.core.artifact.model import open_model
from sanac.core.check import Check
from sanac.core.checkpoint.locate import locate
from sanac.export.graph import serialized
from sanac.export.plan import graphs_of
from sanac.export.settings import ExportSettings
from sanac.runtime.onnx_session import OnnxSession
from sanac.verify.parity import HOSTILE, USUAL, Case, Parity, compare, first_jump
from sanac.verify.parity_backends import OnnxBackend, TorchBackend

FILE = "diffusion_pytorch_model.safetensors"
LIMIT = 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sanac:tiny's transformer with its graph in fp32."""
    source = locate("sanac:tiny").path / "transformer"
    return with_graph(Path(shutil.copytree(source, tmp_path_factory.mktemp("models") / "transformer")))


def with_graph(folder: Path) -> Path:
    (component,) = graphs_of(open_model(locate(str(folder))), ExportSettings(precision="fp32"))
    graph, _ = component.traced(folder, "fp32")
    component.link_weights(graph, folder)
    (folder / "model.onnx").write_bytes(serialized(graph))
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def parity(candidate: TorchBackend | OnnxBackend, reference: Path) -> Parity:
    model = open_model(locate(str(reference)))
    return compare(candidate, TorchBackend(model), model.architecture, LIMIT)


def test_the_graph_is_the_same_function(exported: Path) -> None:
    found = parity(OnnxBackend(exported / "model.onnx"), exported)
    assert found.passed
    assert found.first_bad_block is None
    assert max(one.error for one in found.results) < 1e-5
    assert all(len(one.blocks) == 12 and one.sqnr > 100 for one in found.results)
    assert json.loads(json.dumps(found.to_json()))["passed"] is True


def test_a_thousand_inputs_give_numbers(exported: Path, copy: Path) -> None:
    """Half of them hostile, to a model of which a head in each block asks for nothing."""
    tensors = load_file(copy / FILE)
    for name, tensor in tensors.items():
        if name.endswith("attn1.to_q.weight"):
            tensor[:32] = 0
    save_file(tensors, copy / FILE)
    with_graph(copy)
    draw = random.Random(0)
    for folder, kinds in ((exported, [USUAL]), (copy, HOSTILE)):
        graph, architecture = OnnxSession(folder / "model.onnx"), open_model(locate(str(folder))).architecture
        for seed in range(500):
            sizes = draw.randint(1, 4), draw.randint(1, 8), draw.randint(1, 8), draw.choice((1, 2, 7, 40, 300))
            case = Case(kinds[seed % len(kinds)], *sizes, seed)
            (velocity,) = graph(**case.inputs(architecture))
            assert torch.isfinite(velocity).all(), case.name


def edited(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> TorchBackend:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    return TorchBackend(open_model(locate(str(folder))))


def test_keys_and_values_swapped(copy: Path, exported: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        key, value = (f"transformer_blocks.5.attn1.to_{name}.weight" for name in "kv")
        tensors[key], tensors[value] = tensors[value].clone(), tensors[key].clone()

    found = parity(edited(copy, swap), exported)
    assert (found.passed, found.first_bad_block) == (False, 5)
    worst = found.figures[1]
    assert not worst.passed
    assert Check(worst.name, worst.value, worst.to_json()["would pass"]).passed


def test_a_block_that_got_lost(exported: Path, tmp_path: Path) -> None:
    model = SanaTransformer2DModel.from_pretrained(exported, torch_dtype=torch.float32)
    del model.transformer_blocks[7]
    model.register_to_config(num_layers=11)
    model.save_pretrained(tmp_path / "less")
    found = parity(TorchBackend(open_model(locate(str(tmp_path / "less")))), exported)
    assert (found.passed, found.first_bad_block) == (False, 7)


def changed(folder: Path, change: Callable[[onnx.GraphProto], int]) -> OnnxBackend:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert change(model.graph) == 1
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxBackend(folder / "model.onnx")


def test_another_epsilon(copy: Path, exported: Path) -> None:
    def widen(graph: onnx.GraphProto) -> int:
        hits = [n for n in graph.node if n.op_type == "LayerNormalization" and "blocks/3/" in n.name][:1]
        for node in hits:
            next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 0.1
        return len(hits)

    found = parity(changed(copy, widen), exported)
    assert (found.passed, found.first_bad_block) == (False, 3)


def test_a_mask_that_is_ignored(copy: Path, exported: Path) -> None:
    def ignore(graph: onnx.GraphProto) -> int:
        softmax = next(node for node in graph.node if node.op_type == "Softmax" and "blocks/0/" in node.name)
        add = next(node for node in graph.node if softmax.input[0] in node.output)
        softmax.input[0] = add.input[0]
        return 1

    found = parity(changed(copy, ignore), exported)
    assert (found.passed, found.first_bad_block) == (False, 0)
    assert [one.case.kind for one in found.results if one.error <= LIMIT] != []


def test_a_divisor_without_its_floor(copy: Path, exported: Path) -> None:
    """Nothing but zeros for a head: its queries are made so in the weights of both."""
    for folder in (copy, reference := Path(shutil.copytree(copy, copy.parent / "reference"))):
        weight = open_model(locate(str(folder))).weights.tensors["transformer_blocks.4.attn1.to_q.weight"]
        with (folder / FILE).open("r+b") as file:
            file.seek(weight.start)
            file.write(bytes(weight.size // 3))  # the first of three heads
    assert parity(OnnxBackend(copy / "model.onnx"), reference).passed

    def drop(graph: onnx.GraphProto) -> int:
        floor = next(node for node in graph.node if node.op_type == "Clip" and "blocks/4/" in node.name)
        floor.op_type = "Identity"
        del floor.input[1:]
        return 1

    found = parity(changed(copy, drop), reference)
    assert (found.passed, found.first_bad_block) == (False, 4)
    assert not found.figures[0].passed, "not finite"


def test_where_errors_jump() -> None:
    assert first_jump([1e-7, 2e-7, 0.2, 0.3], 1e-4) == 2
    assert first_jump([1e-7, 2e-7, 4e-7], 1e-4) is None
    assert first_jump([2e-5, 8e-5, 2e-4, 3e-4], 1e-4) is None, "grows slowly: no block's fault"
    assert first_jump([0.5], 1e-4) == 0


def test_what_is_no_number_passes_no_limit() -> None:
    assert not Check("x", float("nan"), 1.0).passed
    assert not Check("x", float("nan"), 1.0, most=False).passed
    assert Check("x", 1.0, 1.0).passed
