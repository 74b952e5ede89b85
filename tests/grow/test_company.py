"""Growth in company: NVlabs' layouts, LoRAs, descent, and everything else that counts blocks."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import SanaPipeline

from sanac.core.artifact.ancestry import find_ancestry
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.convert import decide_convert
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.grow.depth import decide_growth
from tests.grow.conftest import ALONE, block, grow, load, prune, same, tensors


def convert(source: Path, layout: str, out: Path) -> Path:
    write_partial(
        decide_convert(open_model(locate(str(source))), WriteOptions(layout=layout), None), out, NULL_REPORTER
    )
    return out


@pytest.mark.parametrize(("layout", "name"), [("nvlabs", "model.pth"), ("single", "model.safetensors")])
def test_nvlabs_files_grow_as_their_diffusers_twins_do(layout: str, name: str, pipeline: Path, tmp_path: Path) -> None:
    theirs = convert(pipeline, layout, tmp_path / "theirs") / name
    manifest = grow(theirs, 9, tmp_path / "out")
    assert manifest.tensors == grow(pipeline, 9, tmp_path / "twin").tensors
    assert same(tensors(tmp_path / "out"), tensors(tmp_path / "twin"))


@pytest.mark.parametrize("layout", ["nvlabs", "single"])
def test_growing_into_nvlabs_layouts_is_growing_and_converting(layout: str, pipeline: Path, tmp_path: Path) -> None:
    direct = grow(pipeline, 9, tmp_path / "direct", writing=WriteOptions(layout=layout))
    grow(pipeline, 9, tmp_path / "grown")
    convert(tmp_path / "grown", layout, tmp_path / "later")
    name = "model.pth" if layout == "nvlabs" else "model.safetensors"
    assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "later" / name).read_bytes()
    back = convert(tmp_path / "direct", "diffusers", tmp_path / "back")
    assert same(tensors(back), tensors(tmp_path / "grown"))
    assert direct.origins == (0, 1, 2, 3, None, None, None, None, None)


def test_folders_shards_and_single_files_give_the_same_weights(pipeline: Path, tmp_path: Path) -> None:
    load(pipeline).save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    file = pipeline / "transformer" / "diffusion_pytorch_model.safetensors"
    sources = (pipeline, pipeline / "transformer", file, tmp_path / "shards")
    found = [grow(source, 8, tmp_path / str(number)).tensors for number, source in enumerate(sources)]
    assert all(digests == found[0] for digests in found)


def test_a_grown_pipeline_runs_whole(pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 8, tmp_path / "out", writing=WriteOptions())
    pipe = SanaPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        "a red circle", height=512, width=512, use_resolution_binning=False, num_inference_steps=2, output_type="np"
    ).images[0]
    assert image.shape[2] == 3
    assert len(pipe.transformer.transformer_blocks) == 8


def test_digests_travel_and_damage_is_seen(pipeline: Path, tmp_path: Path) -> None:
    first = grow(pipeline, 8, tmp_path / "first")
    second = grow(tmp_path / "first", 10, tmp_path / "second", preserve=8)
    old, new = first.tensors["transformer"], second.tensors["transformer"]
    assert all(new[name] == digest for name, digest in old.items())
    path = tmp_path / "first" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in the last block, which is a new one
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="changed after it was sealed"):
        grow(tmp_path / "first", 10, tmp_path / "third", preserve=8)


def lora(path: Path, *blocks: int) -> str:
    torch.manual_seed(5)
    found = {}
    for index in blocks:
        name = f"transformer.transformer_blocks.{index}.attn1.to_q"
        found |= {f"{name}.lora_A.weight": torch.randn(4, 96), f"{name}.lora_B.weight": torch.randn(96, 4)}
    safetensors.torch.save_file(found, path)
    return str(path)


def touched(out: Path, plain: Path) -> list[int]:
    after, before = tensors(out), tensors(plain)
    changed = [name for name in before if not torch.equal(after[name], before[name])]
    assert all(name.endswith("attn1.to_q.weight") for name in changed)
    return sorted(int(name.split(".")[1]) for name in changed)


def test_a_lora_reaches_the_source_s_blocks_and_no_new_one(pipeline: Path, tmp_path: Path) -> None:
    word = lora(tmp_path / "lora.safetensors", 1, 3, 5)
    grow(pipeline, 8, tmp_path / "grown")
    grow(pipeline, 8, tmp_path / "early", loras=(word,))
    grow(tmp_path / "grown", 10, tmp_path / "late", preserve=8, loras=(word,))
    grow(tmp_path / "grown", 10, tmp_path / "never", preserve=8)
    assert touched(tmp_path / "early", tmp_path / "grown") == [1, 3]  # 5 was dropped
    assert touched(tmp_path / "late", tmp_path / "never") == [1, 3]
    prune(tmp_path / "grown", "0,3-5", tmp_path / "pruned")
    grow(tmp_path / "pruned", 6, tmp_path / "merged", preserve=4, loras=(word,))
    grow(tmp_path / "pruned", 6, tmp_path / "unmerged", preserve=4)
    assert touched(tmp_path / "merged", tmp_path / "unmerged") == [1]  # the source's 3


def test_a_lora_reaches_every_copy(pipeline: Path, tmp_path: Path) -> None:
    word = lora(tmp_path / "lora.safetensors", 1)
    for init, places in (("cyclic", [1, 7]), ("replicate", [2, 3])):
        grow(pipeline, 12, tmp_path / init, init=init)
        grow(pipeline, 12, tmp_path / f"{init}-early", init=init, loras=(word,))
        assert touched(tmp_path / f"{init}-early", tmp_path / init) == places
        grow(tmp_path / init, 13, tmp_path / f"{init}-late", preserve=12, loras=(word,))
        late, early = tensors(tmp_path / f"{init}-late"), tensors(tmp_path / f"{init}-early")
        assert all(same(block(late, index), block(early, index)) for index in range(12))


def test_a_lora_for_blocks_that_the_source_never_had(pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 12, tmp_path / "grown")
    word = lora(tmp_path / "lora.safetensors", 7)
    with pytest.raises(InvalidInput) as caught:
        open_model(locate(str(tmp_path / "grown"))).with_loras((word,))
    assert "its source has 6 blocks" in caught.value.why


@pytest.mark.parametrize("init", ["partial", "cyclic"])
def test_a_grown_model_saved_by_another_tool_is_recognised(init: str, pipeline: Path, tmp_path: Path) -> None:
    manifest = grow(pipeline, 12, tmp_path / "ws" / "grown", init=init)
    model = load(tmp_path / "ws" / "grown")
    with torch.no_grad():
        model.transformer_blocks[7].attn1.to_q.weight.mul_(2)
    model.save_pretrained(tmp_path / "elsewhere")
    descent = find_ancestry(open_model(locate(str(tmp_path / "elsewhere"))), tmp_path / "ws", NULL_REPORTER)
    assert descent is not None
    assert (descent.manifest, descent.changed) == (manifest, 1)


def test_the_needs_are_those_of_the_grown_model(pipeline: Path, tmp_path: Path) -> None:
    model = open_model(locate(str(pipeline)))
    job = decide_growth(model, 12, WriteOptions())
    write_partial(job, tmp_path / "out", NULL_REPORTER)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= job.needs.disk <= 1.2 * written + (1 << 20)
    shutil.rmtree(tmp_path / "out")
    assert decide_growth(model, 12, ALONE).needs.disk < job.needs.disk
