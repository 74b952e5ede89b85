"""Which files are a component's weights, and every way an index can lie."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sanac.core.checkpoint.weights import open_folder
from sanac.core.errors import InvalidInput

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def rewrite(folder: Path, **changes: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_are_one_set_of_tensors(folder: Path) -> None:
    weights = open_folder(folder, folder)
    assert weights is not None
    assert len(weights.headers) > 3
    assert len(weights.files) == len(weights.headers) + 1
    for ref in weights:
        tensor = safetensors.torch.load_file(ref.path)[ref.name]
        assert tuple(tensor.shape) == ref.shape


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert open_folder(tmp_path, tmp_path) is None


def test_plain_weights_win_over_variants_and_an_only_variant_is_taken(tmp_path: Path) -> None:
    plain, variant = tmp_path / "model.safetensors", tmp_path / "model.fp16.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, plain)
    safetensors.torch.save_file({"a": torch.zeros(2).half()}, variant)
    both = open_folder(tmp_path, tmp_path)
    assert both is not None
    assert (both.variant, both.tensors["a"].dtype) == ("", "F32")
    plain.unlink()
    alone = open_folder(tmp_path, tmp_path)
    assert alone is not None
    assert (alone.variant, alone.tensors["a"].dtype) == ("fp16", "F16")
    shutil.copy(variant, tmp_path / "model.bf16.safetensors")
    with pytest.raises(InvalidInput, match="several variants"):
        open_folder(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "shard", ["../../x.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors", "a\\b.safetensors", "x.bin"]
)
def test_an_index_that_names_something_else_than_a_shard_beside_it(folder: Path, shard: str) -> None:
    rewrite(folder, proj_out=shard)
    with pytest.raises(InvalidInput, match=r"not a \.safetensors file in the same folder"):
        open_folder(folder, folder)


def test_missing_shards_are_all_named(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    shards[0].unlink()
    shards[2].unlink()
    with pytest.raises(InvalidInput, match="is missing") as caught:
        open_folder(folder, folder)
    assert len(caught.value.problems) == 2


def test_a_shard_that_links_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shutil.move(shard, tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InvalidInput, match="points outside"):
        open_folder(folder, folder)


def test_an_index_and_shards_that_disagree(folder: Path) -> None:
    rewrite(folder, **{"no.such.tensor": min(p.name for p in folder.glob("*.safetensors"))})
    with pytest.raises(InvalidInput, match="disagree") as caught:
        open_folder(folder, folder)
    assert "no.such.tensor is in the index, but not in" in caught.value.problems[0]


def test_a_tensor_in_two_shards(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    shutil.copy(first, second)
    with pytest.raises(InvalidInput, match="disagree") as caught:
        open_folder(folder, folder)
    assert any("is in" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{broken"])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(InvalidInput):
        open_folder(folder, folder)


def test_identity_follows_size_time_and_header(folder: Path) -> None:
    import os

    def identity() -> list[list[str | int]]:
        weights = open_folder(folder, folder)
        assert weights is not None
        return weights.identity()

    before = identity()
    assert identity() == before
    os.utime(next(folder.glob("*.safetensors")), ns=(1, 1))
    assert identity() != before
