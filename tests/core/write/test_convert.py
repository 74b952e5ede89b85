"""There and back between the layouts is bit-exact, and the model computes the same on the way."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import SanaPipeline, SanaTransformer2DModel

from sanac.core.artifact.manifest import Manifest
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import recognise
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.convert import decide_convert
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.prune.keep_list import plan_keep
from sanac.tiny.build import LATENT_CHANNELS

# NVlabs' side, written down once more and independently of the table under test: facts about their code.
FUSED = {"attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"], "cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"]}
MEMBERS = [
    pytest.param({"qk_norm": "rms_norm_across_heads", "num_layers": 3}, id="qk norm"),
    pytest.param({"qk_norm": None, "num_layers": 1}, id="no qk norm"),
    pytest.param({"qk_norm": "rms_norm_across_heads", "num_layers": 7, "guidance_embeds": True}, id="sprint"),
    pytest.param({"qk_norm": None, "num_layers": 2, "interpolation_scale": 1.0, "sample_size": 64}, id="2K"),
]


def small(**changes: object) -> SanaTransformer2DModel:
    torch.manual_seed(0)
    settings = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
        "num_cross_attention_heads": 4, "cross_attention_head_dim": 16, "cross_attention_dim": 64,
        "caption_channels": 40, "sample_size": 16,
    }  # fmt: skip
    return SanaTransformer2DModel(**(settings | changes)).eval()


def opened(path: Path) -> Model:
    return open_model(locate(str(path)))


def convert(source: Path, to: str, out: Path, pipeline: Path | None = None) -> Manifest:
    job = decide_convert(opened(source), WriteOptions(layout=to), opened(pipeline) if pipeline else None)
    return write_partial(job, out, NULL_REPORTER)[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for path in files for name, tensor in safetensors.torch.load_file(path).items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[n], right[n]) and left[n].dtype == right[n].dtype for n in left
    )


def settings(model: SanaTransformer2DModel) -> dict[str, object]:
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


def velocity(model: SanaTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, 4, 6, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 40, generator=generator),
        "timestep": torch.tensor([3.0, 700.0]),
    }
    if model.config.guidance_embeds:
        inputs["guidance"] = torch.tensor([4.5, 1.0])
    with torch.no_grad():
        return model(**inputs).sample


@pytest.mark.parametrize("changes", MEMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["nvlabs", "single"])
def test_there_and_back_is_bit_exact(changes: dict, dtype: torch.dtype, way: str, tmp_path: Path) -> None:
    model = small(**changes).to(dtype)
    model.save_pretrained(tmp_path / "source", max_shard_size="300KB")
    convert(tmp_path / "source", way, tmp_path / "there")
    convert(tmp_path / "there", "diffusers", tmp_path / "back")
    convert(tmp_path / "back", way, tmp_path / "again")
    name = "model.pth" if way == "nvlabs" else "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    back = SanaTransformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer", torch_dtype=dtype)
    assert same(weights(tmp_path / "source"), weights(tmp_path / "back" / "transformer"))
    assert settings(back) == settings(model)
    if dtype == torch.float32:
        assert torch.equal(velocity(back.eval()), velocity(model))


@pytest.mark.parametrize("changes", MEMBERS)
def test_torch_reads_the_pth_with_the_names_and_orders_of_nvlabs(changes: dict, tmp_path: Path) -> None:
    model = small(**changes)
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", "nvlabs", tmp_path / "out")
    path = tmp_path / "out" / "model.pth"
    for mapped in (True, False):
        loaded = torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")  # noqa: TID251
        assert list(loaded) == ["state_dict"]
        state = loaded["state_dict"]
        own = model.state_dict()
        for block, (fused, parts) in itertools.product(range(changes["num_layers"]), FUSED.items()):
            expected = torch.cat([own[f"transformer_blocks.{block}.{part}.weight"] for part in parts])
            assert torch.equal(state[f"blocks.{block}.{fused}.weight"], expected)
        assert ("blocks.0.attn.qkv.bias" in state) is False
        assert ("blocks.0.cross_attn.q_norm.weight" in state) == (changes["qk_norm"] is not None)
        assert torch.equal(state["final_layer.scale_shift_table"], own["scale_shift_table"])
        assert ("cfg_embedder.mlp.0.weight" in state) == changes.get("guidance_embeds", False)
        tokens = changes.get("sample_size", 16) ** 2
        assert state["pos_embed"].shape == (1, tokens, 64)
        assert state["y_embedder.y_embedding"].shape == (300, 40)
        assert not state["pos_embed"].any()
    import zipfile

    assert zipfile.ZipFile(path).testzip() is None


def torch_saved(model: SanaTransformer2DModel, tmp_path: Path, wrap: str | None = "state_dict", **more: object) -> Path:
    """A checkpoint as NVlabs' training writes it, by torch itself; with their own extra tensors, random."""
    model.save_pretrained(tmp_path / "seed")
    convert(tmp_path / "seed", "nvlabs", tmp_path / "seed-pth")
    state = torch.load(tmp_path / "seed-pth" / "model.pth", weights_only=True)["state_dict"]  # noqa: TID251
    state["pos_embed"] = torch.randn_like(state["pos_embed"])
    state["y_embedder.y_embedding"] = torch.randn_like(state["y_embedder.y_embedding"])
    state["logvar_linear.weight"], state["logvar_linear.bias"] = torch.randn(1, 64), torch.randn(1)
    path = tmp_path / "trained.pth"
    shutil.copy(tmp_path / "seed" / "config.json", tmp_path)
    torch.save({wrap: state, **more} if wrap else state, path)
    return path


@pytest.mark.parametrize("wrap", ["state_dict", None])
def test_what_only_nvlabs_has_survives_the_way_through_diffusers(wrap: str | None, tmp_path: Path) -> None:
    path = torch_saved(small(), tmp_path, wrap)
    before = torch.load(path, weights_only=True)  # noqa: TID251
    convert(path, "diffusers", tmp_path / "a")
    convert(tmp_path / "a", "nvlabs", tmp_path / "b")
    after = torch.load(tmp_path / "b" / "model.pth", weights_only=True)["state_dict"]  # noqa: TID251
    assert same(dict(before["state_dict"] if wrap else before), dict(after))
    assert SanaTransformer2DModel.from_pretrained(tmp_path / "a", subfolder="transformer").config.num_layers == 20


@pytest.mark.parametrize(("side", "scale"), [(16, None), (32, None), (64, 1.0), (128, 2.0)])
def test_a_lone_pth_of_a_released_width_tells_its_own_config(side: int, scale: float | None, tmp_path: Path) -> None:
    model = small(
        num_layers=1, num_attention_heads=36, num_cross_attention_heads=16, cross_attention_head_dim=72,
        cross_attention_dim=1152, sample_size=side, interpolation_scale=scale,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", "nvlabs", tmp_path / "there")
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(tmp_path / "there" / "model.pth", lonely / "who_knows.pth")
    convert(lonely / "who_knows.pth", "diffusers", tmp_path / "back")
    back = SanaTransformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer").eval()
    assert settings(back) | {"guidance_embeds_scale": 0.1} == settings(model)
    assert torch.equal(velocity(back), velocity(model))


def test_an_odd_width_takes_what_shapes_leave_open_from_the_reference(pipeline: Path, tmp_path: Path) -> None:
    convert(pipeline, "nvlabs", tmp_path / "there")
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(tmp_path / "there" / "model.pth", lonely / "x.pth")
    with pytest.raises(InvalidInput, match="can't be derived from its shapes"):
        convert(lonely / "x.pth", "diffusers", tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    convert(lonely / "x.pth", "diffusers", tmp_path / "out", pipeline)
    assert len(SanaPipeline.from_pretrained(tmp_path / "out").transformer.transformer_blocks) == 6


def test_an_average_and_an_optimizer_beside_the_weights(tmp_path: Path) -> None:
    model = small(num_layers=2)
    path = torch_saved(
        model,
        tmp_path,
        state_dict_ema={"x": torch.zeros(2)},
        optimizer={"state": {0: {"exp_avg": torch.zeros(3)}}},
        epoch=3,
    )
    found = opened(path)
    assert found.architecture.blocks == 2
    assert found.weights.notes == ("trained.pth: using 'state_dict', ignoring 'state_dict_ema', 'optimizer', 'epoch'",)
    assert same(weights(tmp_path / "seed"), {n: read(ref) for n, ref in found.weights.tensors.items()})


def read(ref) -> torch.Tensor:
    data = bytearray(ref.path.read_bytes()[ref.start : ref.start + ref.size])
    return torch.frombuffer(data, dtype=torch.float32).reshape(ref.shape)


def test_the_prefix_of_single_files_in_the_wild(tmp_path: Path) -> None:
    small(num_layers=2).save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", "single", tmp_path / "single")
    tensors = safetensors.torch.load_file(tmp_path / "single" / "model.safetensors")
    wild = tmp_path / "wild.safetensors"
    safetensors.torch.save_file({f"model.diffusion_model.{name}": t for name, t in tensors.items()}, wild)
    assert recognise(opened(wild).weights.tensors, "x") == opened(tmp_path / "source").architecture


def test_diffusers_own_single_file_loader_reads_ours(tmp_path: Path) -> None:
    """It knows no QK norm and takes the last block it sees for the depth, so: one of the models it does know."""
    model = small(qk_norm=None, num_layers=1)
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", "single", tmp_path / "single")
    loaded = SanaTransformer2DModel.from_single_file(
        tmp_path / "single" / "model.safetensors", config=str(tmp_path / "source")
    )
    assert torch.equal(velocity(loaded.eval()), velocity(model))


def test_a_pruned_model_gets_renumbered_blocks_and_comes_back(pipeline: Path, tmp_path: Path) -> None:
    write_partial(plan_keep(opened(pipeline), "1,3,5", WriteOptions()), tmp_path / "pruned", NULL_REPORTER)
    manifest = convert(tmp_path / "pruned", "nvlabs", tmp_path / "pth")
    assert manifest.origins == (1, 3, 5)
    state = torch.load(tmp_path / "pth" / "model.pth", weights_only=True)["state_dict"]  # noqa: TID251
    assert {name.split(".")[1] for name in state if name.startswith("blocks.")} == {"0", "1", "2"}
    convert(tmp_path / "pth", "diffusers", tmp_path / "back", pipeline)
    assert same(weights(tmp_path / "pruned" / "transformer"), weights(tmp_path / "back" / "transformer"))


def test_a_lone_transformer_is_completed_to_a_pipeline(pipeline: Path, tmp_path: Path) -> None:
    write_partial(
        plan_keep(opened(pipeline), "0-1", WriteOptions(transformer_only=True)), tmp_path / "alone", NULL_REPORTER
    )
    manifest = convert(tmp_path / "alone", "diffusers", tmp_path / "whole", pipeline)
    assert manifest.left_out == ()
    pipe = SanaPipeline.from_pretrained(tmp_path / "whole")
    assert len(pipe.transformer.transformer_blocks) == 2
    assert pipe.vae.config.latent_channels == LATENT_CHANNELS


def test_pipelines_that_do_not_fit(pipeline: Path, sharded: Path, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="doesn't fit into") as caught:
        convert(tmp_path / "other", "diffusers", tmp_path / "out", pipeline)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="doesn't apply to --to"):
        convert(sharded, "nvlabs", tmp_path / "out", pipeline)
    with pytest.raises(UsageError, match="can't be the --pipeline"):
        convert(sharded, "diffusers", tmp_path / "out", sharded)


def test_fused_rows_that_cannot_be_split(tmp_path: Path) -> None:
    path = torch_saved(small(num_layers=1), tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]  # noqa: TID251
    state["blocks.0.attn.qkv.weight"] = torch.zeros(191, 64)
    torch.save(state, path)
    with pytest.raises(InvalidInput, match="not a complete SANA") as caught:
        opened(path)
    assert "don't split into 3 equal parts" in caught.value.why


def test_on_the_command_line(pipeline: Path, sanac, tmp_path: Path) -> None:
    ran = sanac("convert", pipeline, "--to", "nvlabs", "--out", "pth")
    assert ran.code == 0
    assert "filled in with zeros: pos_embed" in ran.err
    assert "the weights: pth/model.pth" in ran.out
    back = sanac("convert", "pth/model.pth", "--to", "diffusers", "--out", "back", "--pipeline", pipeline, "--json")
    assert (back.code, back.json["layout"]) == (0, "diffusers")
    assert "kept in a sidecar file" in back.err
    assert json.loads((tmp_path / "back" / "model_index.json").read_text())["_class_name"] == "SanaPipeline"
    assert sanac("inspect", "pth", "--scan").code == 0
    assert sanac("inspect", "pth/model.pth", "--json").json["blocks"] == 6
    assert sanac("prune", "pth/model.pth", "--keep", "0,1", "--out", "pruned").code == 0
    assert sanac("convert", pipeline, "--to", "gguf").code == 2
    assert sanac("convert", pipeline, "--to", "nvlabs", "--out", "x.pth").code == 2
