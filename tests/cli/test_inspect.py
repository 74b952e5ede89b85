"""`sanac inspect`."""

import shutil
from pathlib import Path

import safetensors.torch
import torch

from tests.conftest import Sanac


def test_json(pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("inspect", pipeline, "--json", "-q")
    found = ran.json
    assert (ran.code, found["status"], found["out"]) == (0, "ok", None)
    assert (found["blocks"], found["width"], found["qk_norm"], found["kind"]) == (6, 96, True, "pipeline")
    transformer = found["components"][0]
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(pipeline / "transformer")
    assert transformer["amount"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(part["parameters"] for part in found["parts"].values()) == transformer["amount"]["parameters"]
    block = sum(p.numel() for p in model.transformer_blocks[0].parameters())
    assert found["block"] == {"parameters": block, "bytes": 4 * block}
    assert ran.err == ""


def test_table(pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("inspect", pipeline, "-v")
    assert ran.code == 0
    assert "need" not in sanac("inspect", pipeline).err, "memory that is no problem is not worth a line"
    for text in ("6 blocks", "QK norm", "text_encoder", "Gemma2Model", "feed-forward", "to run:", "F32"):
        assert text in ran.out
    assert "of memory (free: " in ran.err
    assert "lineage" not in ran.out


def test_the_lineage_of_an_artifact(pipeline: Path, sanac: Sanac) -> None:
    sanac("prune", pipeline, "--keep", "0,2,4", "--out", "a", "-q")
    sanac("prune", "a", "--keep", "1-2", "--out", "b", "-q")
    ran = sanac("inspect", "b", "--json")
    assert ran.json["origins"] == [2, 4]
    assert [step.split()[0] for step in ran.json["lineage"]] == ["source", "prune", "prune"]
    assert "lineage: source pipeline" in sanac("inspect", "b").out


def test_scan_finds_nan(broken: Path, sanac: Sanac) -> None:
    assert "every value is finite" in sanac("inspect", broken, "--scan").out
    path = broken / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["proj_out.bias"][2] = float("nan")
    tensors["caption_norm.weight"][:] = float("inf")
    safetensors.torch.save_file(tensors, path)
    before = path.read_bytes()
    assert sanac("inspect", broken).code == 0
    ran = sanac("inspect", broken, "--scan", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (3, "InvalidInput")
    assert sorted(ran.json["error"]["problems"]) == [
        "transformer: caption_norm.weight: 96 of 96 values are NaN or Inf",
        "transformer: proj_out.bias: 1 of 16 values are NaN or Inf",
    ]
    assert path.read_bytes() == before


def test_scan_checks_the_digests_of_an_artifact(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", pipeline, "--keep", "0", "--out", "a", "-q")
    assert "every digest is right" in sanac("inspect", "a", "--scan").out
    card = tmp_path / "a" / "README.md"
    card.write_text(card.read_text().replace("prune", "PRUNE"))
    ran = sanac("inspect", "a", "--scan")
    assert ran.code == 3
    assert "README.md" in ran.err


def test_missing_and_misshapen_tensors(broken: Path, sanac: Sanac) -> None:
    path = broken / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["proj_out.bias"]
    tensors["extra"] = torch.zeros(1)
    safetensors.torch.save_file(tensors, path)
    ran = sanac("inspect", broken)
    assert ran.code == 3
    assert "- proj_out.bias is missing" in ran.err
    assert "- extra is not a tensor of this family" in ran.err


def test_a_model_that_is_not_on_this_machine(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("inspect", "some-org/never-downloaded", "--json")
    assert (ran.code, ran.json["exit"]) == (4, 4)
    assert ran.json["error"]["hint"].startswith("hf download some-org/never-downloaded")
    assert sanac("inspect", "no-such-folder").code == 2
    shutil.copy("/etc/hostname", tmp_path / "x.safetensors")
    assert sanac("inspect", "x.safetensors").code == 3
