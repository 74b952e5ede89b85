"""A model that other tools re-saved is recognised by its tensors."""

from pathlib import Path

import safetensors.torch
from diffusers import SanaTransformer2DModel

from sanac.core.artifact.ancestry import find_ancestry
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from tests.conftest import Sanac


def test_a_resaved_and_changed_model(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", pipeline, "--keep", "0-3")
    out = sanac("prune", pipeline, "--keep", "1,2", "--json").json["out"]
    model = SanaTransformer2DModel.from_pretrained(out, subfolder="transformer")
    model.save_pretrained(tmp_path / "resaved", max_shard_size="300KB")
    assert f"descends from {Path(out).name}, no tensor changed" in sanac("inspect", "resaved", "--scan").out
    model.proj_out.weight.data += 1
    model.transformer_blocks[1].ff.conv_point.weight.data *= 2
    model.save_pretrained(tmp_path / "tuned")
    ran = sanac("inspect", "tuned", "--scan", "--json")
    total = len(model.state_dict())
    assert ran.json["descent"] == f"descends from {Path(out).name}, 2 of {total} tensors changed"
    assert sanac("inspect", out, "--scan", "--json").json["descent"] == ""


def test_strangers_and_broken_relatives(pipeline: Path, sharded: Path, sanac: Sanac, tmp_path: Path) -> None:
    model = open_model(locate(str(sharded)))
    assert find_ancestry(model, tmp_path / "nowhere", NULL_REPORTER) is None
    (tmp_path / "ws" / "broken").mkdir(parents=True)
    (tmp_path / "ws" / "broken" / "sanac.json").write_text("{}")
    assert find_ancestry(model, tmp_path / "ws", NULL_REPORTER) is None
    tensors = safetensors.torch.load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "other").mkdir()
    safetensors.torch.save_file({n: t + 1 for n, t in tensors.items()}, tmp_path / "other" / "x.safetensors")
    sanac("prune", pipeline, "--keep", "0-5", "--workspace", "ws")
    assert (
        find_ancestry(open_model(locate(str(tmp_path / "other" / "x.safetensors"))), tmp_path / "ws", NULL_REPORTER)
        is None
    )
