"""onnxruntime in a stock pipeline: torch's pictures from the same seeds; and graphs that are not what they should."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import SanaPipeline

from sanac.core.errors import InvalidInput
from sanac.nn.onnx_files import GRAPH
from sanac.runtime.onnx_session import OnnxSession
from sanac.runtime.pipeline_parts import Autoencoder, TextEncoder, Transformer

PROMPTS = ["a red circle", "two blue squares", "a green triangle left of a yellow circle"]


def test_the_same_pictures(tiny_graphs: Path) -> None:
    pipeline = SanaPipeline.from_pretrained(tiny_graphs, torch_dtype=torch.float32)
    settings = {"num_inference_steps": 12, "use_resolution_binning": False, "output_type": "np"}

    def painted(side: int) -> np.ndarray:
        pipeline.set_progress_bar_config(disable=True)
        seeds = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
        return pipeline(PROMPTS, generator=seeds, height=side, width=side, **settings).images

    wanted = [painted(side) for side in (512, 1024)]
    for part, kind in (("transformer", Transformer), ("text_encoder", TextEncoder), ("vae", Autoencoder)):
        graph = tiny_graphs / ("vae_decoder" if part == "vae" else part) / GRAPH
        setattr(pipeline, part, kind(OnnxSession(graph), getattr(pipeline, part).config))
    for side, before in zip((512, 1024), wanted, strict=True):
        found = painted(side)
        assert found.shape == before.shape
        error = np.square(found - before).mean(axis=(1, 2, 3)).max()
        assert -10 * np.log10(max(error, 1e-12)) > 60, "decibels; forty are asked for"


@pytest.fixture
def copy(tiny_graphs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_graphs / "vae_decoder", tmp_path / "vae"))


def test_weights_that_moved(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "elsewhere.safetensors")
    with pytest.raises(InvalidInput, match="is missing"):
        OnnxSession(copy / GRAPH)


def test_weights_that_were_cut_off(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500_000])
    with pytest.raises(InvalidInput, match="is truncated"):
        OnnxSession(copy / GRAPH)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "", "sub/weights.safetensors", "link"])
def test_weights_outside_the_folder(copy: Path, place: str) -> None:
    (copy / "link").symlink_to(copy / "model.safetensors")
    model = onnx.load(copy / GRAPH, load_external_data=False)
    first = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in first.external_data if entry.key == "location").value = place
    (copy / GRAPH).write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match="refers to"):
        OnnxSession(copy / GRAPH)


@pytest.mark.parametrize("change", [("offset", "-8"), ("offset", "x"), ("length", "99999999999")])
def test_references_that_make_no_sense(copy: Path, change: tuple[str, str]) -> None:
    model = onnx.load(copy / GRAPH, load_external_data=False)
    first = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in first.external_data if entry.key == change[0]).value = change[1]
    (copy / GRAPH).write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput):
        OnnxSession(copy / GRAPH)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", None])
def test_what_is_no_graph(copy: Path, content: bytes | None) -> None:
    data = (copy / GRAPH).read_bytes()
    (copy / GRAPH).write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(InvalidInput):
        OnnxSession(copy / GRAPH)
