"""An artifact with graphs: what stock diffusers loads, what onnxruntime loads, and weights that are there once."""

import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from diffusers import SanaPipeline
from safetensors.torch import load_file

from sanac.core.artifact.manifest import check_sealed, read_manifest
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.export.plan import ExportSettings, graphs_of, plan_export
from sanac.nn.onnx_files import GRAPH
from tests.conftest import Sanac

FOLDERS = ["transformer", "text_encoder", "vae_decoder", "vae_encoder"]


def test_everything_is_there_and_sealed(tiny_graphs: Path) -> None:
    manifest = read_manifest(tiny_graphs)
    assert manifest is not None
    assert {f"{folder}/{GRAPH}" for folder in FOLDERS} <= manifest.files.keys()
    assert check_sealed(tiny_graphs, manifest) == []
    assert manifest.settings["graphs"]["precision"] == dict.fromkeys(FOLDERS, "fp32")
    assert [ancestor.stage for ancestor in manifest.lineage][-1] == "export"
    for folder in FOLDERS:
        onnx.checker.check_model(tiny_graphs / folder / GRAPH, full_check=True)
        onnxruntime.InferenceSession(tiny_graphs / folder / GRAPH)
    SanaPipeline.from_pretrained(tiny_graphs)


def test_weights_are_there_once(tiny_graphs: Path) -> None:
    """But for the autoencoder's, which clients look for in two folders: each has its half."""
    source = locate("sanac:tiny").path
    for part in ("transformer", "text_encoder", "vae"):
        assert [p.name for p in (tiny_graphs / part).glob("*.safetensors")] == [
            p.name for p in (source / part).glob("*.safetensors")
        ]
    whole = load_file(source / "vae" / "diffusion_pytorch_model.safetensors")
    halves = [load_file(tiny_graphs / folder / "model.safetensors") for folder in FOLDERS[2:]]
    assert not halves[0].keys() & halves[1].keys()
    assert (halves[0] | halves[1]).keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for half in halves for name, tensor in half.items())


def test_it_is_cached_and_another_precision_is_another_artifact(tiny_graphs: Path) -> None:
    model = open_model(locate("sanac:tiny"))
    job = plan_export(model, ExportSettings(precision="fp32"), WriteOptions())
    assert write_partial(job, tiny_graphs, NULL_REPORTER)[0] == "cached"
    assert plan_export(model, ExportSettings(precision="fp16"), WriteOptions()).key != job.key
    assert plan_export(model, ExportSettings(precision="fp32", depthwise="fp16"), WriteOptions()).key != job.key


def test_each_component_s_own_precision() -> None:
    found = {graph.folder: graph.precision for graph in graphs_of(open_model(locate("sanac:tiny")), ExportSettings())}
    assert list(found) == FOLDERS
    assert found["transformer"] == "bf16"


def test_one_component(tmp_path: Path) -> None:
    settings = ExportSettings(component=("text-encoder",), precision="fp32")
    job = plan_export(open_model(locate("sanac:tiny")), settings, WriteOptions())
    write_partial(job, tmp_path / "out", NULL_REPORTER)
    assert [path.parent.name for path in (tmp_path / "out").rglob(GRAPH)] == ["text_encoder"]
    with pytest.raises(UsageError, match="no component 'unet'"):
        plan_export(open_model(locate("sanac:tiny")), ExportSettings(component=("unet",)), WriteOptions())


def test_from_another_layout(sanac: Sanac, tmp_path: Path) -> None:
    """NVlabs' file has other tensors under other names: graphs are of what was written."""
    shutil.copytree(locate("sanac:tiny").path / "transformer", tmp_path / "transformer")
    assert sanac("convert", tmp_path / "transformer", "--to", "nvlabs", "--out", "nvlabs").code == 0
    job = plan_export(open_model(locate("nvlabs/model.pth")), ExportSettings(precision="fp32"), WriteOptions())
    write_partial(job, tmp_path / "out", NULL_REPORTER)
    onnxruntime.InferenceSession(tmp_path / "out" / "transformer" / GRAPH)
