"""What the executor writes is what deleting blocks in memory gives: bitwise, in stock diffusers."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaTransformer2DModel

from sanac.core.artifact.manifest import Manifest, read_manifest
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.prune.keep_list import plan_keep


def prune(source: Path, keep: str, out: Path, writing: WriteOptions | None = None) -> tuple[str, Manifest]:
    return write_partial(
        plan_keep(open_model(locate(str(source))), keep, writing or WriteOptions()), out, NULL_REPORTER
    )


def velocity(model: SanaTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model.eval()(
            torch.randn(2, model.config.in_channels, 6, 4, generator=generator),
            encoder_hidden_states=torch.randn(2, 5, 64, generator=generator),
            timestep=torch.tensor([3.0, 700.0]),
        ).sample


def deleted_in_memory(source: Path, kept: Iterable[int]) -> SanaTransformer2DModel:
    model = SanaTransformer2DModel.from_pretrained(source)
    model.transformer_blocks = torch.nn.ModuleList(model.transformer_blocks[index] for index in kept)
    return model


@pytest.mark.parametrize("shard_bytes", [10**9, 200_000])
@pytest.mark.parametrize(("keep", "kept"), [("3", [3]), ("0,5", [0, 5]), ("0-5", range(6))])
def test_bitwise_what_deleting_blocks_gives(
    keep: str, kept: Iterable[int], shard_bytes: int, sharded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prune(sharded, keep, out, WriteOptions(shard_bytes=shard_bytes))
    shards = list((out / "transformer").glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes < 10**9)
    written = SanaTransformer2DModel.from_pretrained(out, subfolder="transformer")
    assert written.config.num_layers == len(list(kept))
    assert torch.equal(velocity(written), velocity(deleted_in_memory(sharded, kept)))


def test_a_whole_pipeline_runs(pipeline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prune(pipeline, "0-1,4", out)
    pipe = SanaPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        "a red circle", height=512, width=512, use_resolution_binning=False, num_inference_steps=2, output_type="np"
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert len(pipe.transformer.transformer_blocks) == 3


def test_single_files_sharded_folders_and_pipelines_give_the_same_weights(
    pipeline: Path, tmp_path: Path, sharded: Path
) -> None:
    sources = (pipeline, pipeline / "transformer", pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    weights = set()
    for number, source in enumerate(sources):
        prune(source, "1,2", tmp_path / str(number))
        weights.add((tmp_path / str(number) / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert len(weights) == 1


def test_a_single_file_far_from_its_config_gets_a_derived_one(tmp_path: Path) -> None:
    model = SanaTransformer2DModel(
        num_layers=2, num_attention_heads=36, num_cross_attention_heads=16, cross_attention_head_dim=72,
        cross_attention_dim=1152, in_channels=4, out_channels=4, caption_channels=8,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    lonely = tmp_path / "lonely" / "sana.safetensors"
    lonely.parent.mkdir()
    shutil.move(tmp_path / "model" / "diffusion_pytorch_model.safetensors", lonely)
    prune(lonely, "1", tmp_path / "out")
    written = SanaTransformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    assert torch.equal(written.proj_out.weight, model.proj_out.weight)
    assert written.config.num_cross_attention_heads == 16


def test_pruning_twice_is_pruning_once(pipeline: Path, tmp_path: Path) -> None:
    prune(pipeline, "0,2-5", tmp_path / "five")
    _, twice = prune(tmp_path / "five", "1,4", tmp_path / "two")
    _, once = prune(pipeline, "2,5", tmp_path / "direct")
    assert twice.tensors == once.tensors
    assert twice.origins == once.origins == (2, 5)
    assert [step.stage for step in twice.lineage] == ["source", "prune", "prune"]


def test_keeping_everything_changes_no_tensor(pipeline: Path, tmp_path: Path) -> None:
    _, first = prune(pipeline, "0-5", tmp_path / "a")
    _, second = prune(tmp_path / "a", "0-5", tmp_path / "b")
    assert first.tensors == second.tensors


def test_the_same_command_anywhere_writes_the_same_bytes(pipeline: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prune(pipeline, "0-2", tmp_path / name / "out")
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file()}
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert str(tmp_path) not in (tmp_path / "a" / "out" / "sanac.json").read_text()


def test_manifest_matches_the_disk(pipeline: Path, tmp_path: Path) -> None:
    from sanac.core.file_copy import digest_file

    status, manifest = prune(pipeline, "0-2", tmp_path / "out")
    assert status == "ok"
    assert manifest == read_manifest(tmp_path / "out")
    on_disk = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert on_disk == {*manifest.files, "sanac.json", "origin.json"}
    for name, file in manifest.files.items():
        assert digest_file(tmp_path / "out" / name) == file.blake3
    assert prune(pipeline, "0-2", tmp_path / "out")[0] == "cached"


def test_transformer_only_names_what_it_left_out(pipeline: Path, tmp_path: Path) -> None:
    _, manifest = prune(pipeline, "0", tmp_path / "out", WriteOptions(transformer_only=True))
    assert manifest.left_out == ("scheduler", "text_encoder", "tokenizer", "vae")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "origin.json", "sanac.json", "transformer",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "origin.json").read_text())["source"] == str(pipeline)


def test_link_shares_files_and_seals_them(pipeline: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pipeline, tmp_path / "source"))
    _, linked = prune(source, "0", tmp_path / "linked", WriteOptions(link=True))
    _, copied = prune(source, "0", tmp_path / "copied")
    assert (tmp_path / "linked" / "vae" / "config.json").samefile(source / "vae" / "config.json")
    assert not (tmp_path / "copied" / "vae" / "config.json").samefile(source / "vae" / "config.json")
    assert linked.files == copied.files
    _, again = prune(tmp_path / "linked", "0", tmp_path / "again", WriteOptions(link=True))
    assert again.files["vae/config.json"] == linked.files["vae/config.json"]


def test_an_only_variant_becomes_plain(pipeline: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Model

    source = Path(shutil.copytree(pipeline, tmp_path / "source"))
    encoder = source / "text_encoder"
    shutil.move(encoder / "model.safetensors", encoder / "model.fp16.safetensors")
    shutil.rmtree(source / "vae")
    pipe = SanaPipeline.from_pretrained(pipeline)
    pipe.vae.save_pretrained(source / "vae", variant="bf16", max_shard_size="100KB")
    prune(source, "0", tmp_path / "out")
    assert (tmp_path / "out" / "text_encoder" / "model.safetensors").is_file()
    assert Gemma2Model.from_pretrained(tmp_path / "out" / "text_encoder").config.hidden_size == 64
    loaded = SanaPipeline.from_pretrained(tmp_path / "out")
    for name, tensor in pipe.vae.state_dict().items():
        assert torch.equal(loaded.vae.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "name", ["transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"]
)
def test_bytes_that_changed_after_sealing_are_not_passed_on(name: str, pipeline: Path, tmp_path: Path) -> None:
    prune(pipeline, "0-2", tmp_path / "a")
    path = tmp_path / "a" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="changed after it was sealed"):
        prune(tmp_path / "a", "0-2", tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_changed_size_is_seen_before_anything_is_read(pipeline: Path, tmp_path: Path) -> None:
    prune(pipeline, "0-2", tmp_path / "a")
    (tmp_path / "a" / "vae" / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="changed after it was sealed"):
        open_model(locate(str(tmp_path / "a")))


def test_the_output_keeps_clear_of_the_input(pipeline: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pipeline, tmp_path / "models" / "source"))
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    for out in (source, source / "inside", source / "transformer", tmp_path / "models", tmp_path):
        with pytest.raises(UsageError, match="overlap"):
            prune(source, "0", out, WriteOptions(force=True))
    (tmp_path / "alias").symlink_to(source)
    with pytest.raises(UsageError, match="overlap"):
        prune(source, "0", tmp_path / "alias" / "out")
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before


def test_machine_paths_in_configs_are_dropped(pipeline: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pipeline, tmp_path / "source"))
    for name in ("model_index.json", "transformer/config.json"):
        config = json.loads((source / name).read_text()) | {"_name_or_path": "/home/me/models"}
        (source / name).write_text(json.dumps(config))
    (source / "LICENSE").write_text("terms")
    prune(source, "0", tmp_path / "out")
    for name in ("model_index.json", "transformer/config.json", "sanac.json"):
        assert "/home/me" not in (tmp_path / "out" / name).read_text()
    assert (tmp_path / "out" / "LICENSE").read_text() == "terms"


def test_the_key_follows_content_and_settings(pipeline: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pipeline, tmp_path / "source"))

    def key(keep: str = "0", writing: WriteOptions | None = None) -> str:
        return plan_keep(open_model(locate(str(source))), keep, writing or WriteOptions()).key

    first = key()
    assert key() == first
    assert key(writing=WriteOptions(link=True, force=True, fresh=True)) == first
    others = {key("1"), key(writing=WriteOptions(transformer_only=True)), key(writing=WriteOptions(shard_bytes=10**6))}
    os.utime(source / "transformer" / "diffusion_pytorch_model.safetensors", ns=(1, 1))
    others.add(key())
    assert len(others | {first}) == 5
