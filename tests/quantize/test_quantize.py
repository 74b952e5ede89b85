"""`sanac quantize` as its user runs it: bytes, requests that are refused, files that were damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanac.core import json_files
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.quant_json import FILE, _digest, header_digest, part_name
from sanac.core.safetensors_header import read_header
from sanac.nn.quant.weights import ROUNDINGS, pack, quantize_weight
from sanac.nn.streaming import _STORED, read_quantized
from tests.conftest import Sanac
from tests.quantize.packed import SCHEMES, tensors_of


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_streamed_is_what_memory_gives(sanac: Sanac, half: Path, scheme: str, shard: str) -> None:
    ran = sanac("quantize", half, "--scheme", scheme, "--shard-size", shard, "--out", "small", "--json")
    assert ran.code == 0, ran.err
    source, found = tensors_of(half / "transformer"), tensors_of(Path("small/transformer"))
    quantized = open_model(locate("small")).weights.quantized
    assert len(quantized.weights) == 6 * 8
    for name, packing in quantized.weights.items():
        scale = ROUNDINGS[packing.rounding](source[name].float(), packing, torch.bfloat16)
        stored = quantize_weight(source[name].float(), scale, packing)
        stored = pack(stored) if scheme == "int4-wo" else stored
        mine = found[part_name(name, "qdata")]
        assert torch.equal(mine.view(torch.uint8), stored.view(torch.uint8).view(mine.shape))
        assert torch.equal(found[part_name(name, "scale")].flatten(1), scale)
        del source[name]
    assert all(torch.equal(found[name], tensor) for name, tensor in source.items()), "the rest as it was"


def test_the_same_command_gives_the_same_bytes(sanac: Sanac, half: Path) -> None:
    one, other = (sanac("quantize", half, "--scheme", "int4-wo", "--out", name, "--json").json for name in "ab")
    assert one["key"] == other["key"]
    for file in Path("a").rglob("*"):
        if file.is_file() and file.name != "origin.json":
            assert file.read_bytes() == (Path("b") / file.relative_to("a")).read_bytes(), file
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "a", "--json").json["status"] == "cached"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scheme", "int5"), "'int5', not one of"),
        (("--scheme", "int4-wo", "--block", "50"), "--group-size 50"),
        (("--scheme", "int4-wo", "--component", "scheduler"), "'scheduler', not one of"),
        (("--scheme", "int4-wo", "--include", "everything"), "'everything', not one of"),
    ],
)
def test_bad_requests(sanac: Sanac, half: Path, options: tuple[str, ...], words: str) -> None:
    ran = sanac("quantize", half, *options, "--out", "q")
    assert ran.code == 2
    assert words in ran.err
    assert not Path("q").exists()


def test_a_block_that_does_not_divide(sanac: Sanac, half: Path) -> None:
    """Packed weights end in a shorter group; torchao's can't: these are left alone, and that is said."""
    assert sanac("quantize", half, "--scheme", "int4-wo", "--block", "128", "--out", "a").code == 0
    packings = open_model(locate("a")).weights.quantized.weights
    assert packings["transformer_blocks.0.ff.conv_point.weight"].groups == 2, "240 inputs"
    assert sanac("quantize", half, "--scheme", "int8-wo", "--block", "64", "--out", "b").code == 2
    assert sanac("quantize", half, "--scheme", "int8-wo", "--block", "32", "--out", "c").code == 0
    left = open_model(locate("c")).weights.quantized.skipped
    assert "doesn't divide its 240 inputs" in left["transformer_blocks.0.ff.conv_point.weight"]


def test_nan_is_named_and_nothing_is_left(sanac: Sanac, broken: Path) -> None:
    file = broken / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.1.attn1.to_q.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    ran = sanac("quantize", broken, "--scheme", "int4-wo", "--out", "q")
    assert ran.code == 3
    assert "transformer_blocks.1.attn1.to_q.weight" in ran.err
    assert not list(Path().glob("q*"))


@pytest.mark.parametrize("damage", ["edited", "resealed", "another model's", "broken"])
def test_a_quant_json_that_is_not_the_artifact_s_own(sanac: Sanac, half: Path, damage: str) -> None:
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "q").code == 0
    Path("q/sanac.json").unlink()  # whose sizes would tell
    path = Path("q/transformer") / FILE
    if damage == "another model's":
        assert sanac("prune", half, "--keep", "0-4", "--out", "five").code == 0
        assert sanac("quantize", "five", "--scheme", "int4-wo", "--out", "other").code == 0
        shutil.copy(Path("other/transformer") / FILE, path)
    elif damage == "broken":
        path.write_text("{")
    else:
        value = json.loads(path.read_text())
        entry = value["weights"]["transformer_blocks.0.attn1.to_q.weight"]
        entry["block"] = 32
        if damage == "resealed":
            del value["seal"]
            value["seal"] = _digest(json_files.canonical(value))
        path.write_text(json.dumps(value))
    ran = sanac("inspect", "q")
    assert ran.code == 3, ran.out
    assert FILE in ran.err


def test_one_component_after_another(sanac: Sanac, half: Path) -> None:
    """The same files as in one go; what was quantized goes along bit for bit."""
    both = ("--component", "transformer", "--component", "text-encoder")
    assert sanac("quantize", half, "--scheme", "int4-wo", *both, "--out", "both").code == 0
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "first").code == 0
    ran = sanac("quantize", "first", "--scheme", "int4-wo", "--component", "text-encoder", "--out", "then")
    assert ran.code == 0, ran.err
    assert "transformer:" not in ran.out, "it stays as it is"
    assert 'sanac.load_pipeline("then")' in ran.out
    for part in ("transformer", "text_encoder", "vae"):
        for file in (Path("both") / part).iterdir():
            assert file.read_bytes() == (Path("then") / part / file.name).read_bytes(), file
    tensors = [open_model(locate(name)).manifest.tensors["transformer"] for name in ("both", "then")]
    assert tensors[0] == tensors[1]
    assert sanac("inspect", "then", "--scan").code == 0
    twice = sanac("quantize", "then", "--scheme", "int8-wo", "--component", "text-encoder", "--out", "x")
    assert (twice.code, "already quantized (int4-wo)" in twice.err) == (2, True)
    alone = sanac("quantize", half, "--scheme", "int4-wo", *both, "--transformer-only", "--out", "x")
    assert (alone.code, "contradict each other" in alone.err) == (2, True)
    assert not Path("x").exists()


@pytest.mark.parametrize(("scheme", "extra"), [("int8-wo", 4 + 1), ("int4-wo", 4)])
def test_inspect_says_what_it_was_and_is(sanac: Sanac, sharded: Path, scheme: str, extra: int) -> None:
    """Bytes before and after; those of parts, scales included, add up to the whole."""
    assert sanac("quantize", sharded, "--scheme", scheme, "--out", "q").code == 0
    (part,) = open_model(locate("q")).components
    found = sanac("inspect", "q", "--json").json
    assert found["plain_bytes"] == 4 * found["total"]["parameters"], "fp32"
    assert found["total"]["bytes"] == sum(one["bytes"] for one in found["parts"].values())
    packings = part.weights.quantized.weights.values()
    stored = sum(packing.columns * packing.shape[0] for packing in packings)
    scales = sum(packing.shape[0] * packing.groups for packing in packings)
    rest = 4 * (found["total"]["parameters"] - stored)
    assert found["total"]["bytes"] == rest + (stored if scheme == "int8-wo" else stored // 2) + extra * scales
    assert "before" in sanac("inspect", "q").out
    assert "before" not in sanac("inspect", sharded).out
    how = {"int8-wo": "nearest", "int4-wo": "block 64, search"}[scheme]
    assert found["lineage"][-1] == f"quantize transformer to {scheme}, {how}"


def test_what_is_damaged_in_packed_weights_is_found(sanac: Sanac, half: Path) -> None:
    """NaN in scales and in fp8 values, and zero points that are not zero."""
    assert sanac("quantize", half, "--scheme", "int8-wo", "--out", "int8-wo").code == 0
    assert sanac("quantize", half, "--scheme", "fp8-wo", "--out", "fp8-wo").code == 0
    name = "transformer_blocks.0.attn1.to_q.weight"
    for scheme, part, value in (
        ("int8-wo", "scale", torch.nan),
        ("fp8-wo", "qdata", torch.nan),
        ("int8-wo", "zero_point", 3),
    ):
        damaged = Path(shutil.copytree(scheme, f"{scheme}-{part}"))
        (damaged / "sanac.json").unlink()
        (file,) = (damaged / "transformer").glob("*.safetensors")
        with file.open("r+b") as raw:  # the header stays as it was
            ref = read_header(file).tensors[part_name(name, part)]
            raw.seek(ref.start)
            raw.write(torch.full(ref.shape, value).to(_STORED[ref.dtype]).view(torch.uint8).numpy().tobytes())
        ran = sanac("inspect", damaged, "--scan")
        assert (ran.code, part_name(name, part) in ran.err) == (3, True), (scheme, part, ran.err)
        if part == "zero_point":
            assert sanac("generate", damaged, "a red circle", "--steps", "1", "--out", "x").code == 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_small_weights_in_half_precision_stay_finite(sanac: Sanac, pipeline: Path, tmp_path: Path, scheme: str) -> None:
    """A scale of fp16 would soon be zero."""
    folder = Path(shutil.copytree(pipeline / "transformer", tmp_path / "tiny"))
    file, name = folder / "diffusion_pytorch_model.safetensors", "transformer_blocks.0.attn1.to_q.weight"
    tensors = {key: tensor.half() for key, tensor in load_file(file).items()}
    tensors[name][0] = 1e-6
    tensors[name][1] = 0
    save_file(tensors, file)
    assert sanac("quantize", folder, "--scheme", scheme, "--out", "q").code == 0
    (part,) = open_model(locate("q")).components
    found = read_quantized(part.weights.parts[name], torch.device("cpu"), torch.float32)
    assert found.isfinite().all()
    assert (found[1] == 0).all()
    assert ((found[0] - 1e-6).abs() < 0.2e-6).all()


def test_scales_are_part_of_what_a_model_is(sanac: Sanac, half: Path) -> None:
    """`--full-hash` reads them, too."""
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "q").code == 0
    Path("q/sanac.json").unlink()
    model = open_model(locate("q"))
    before, content = model.identity(full_hash=True), model.content()
    ref = model.weights.parts["transformer_blocks.0.attn1.to_q.weight"].scale
    with ref.path.open("r+b") as file:
        file.seek(ref.start)
        file.write(bytes(ref.size))
    assert open_model(locate("q")).identity(full_hash=True) != before
    assert open_model(locate("q")).content() != content


def test_a_rerun_as_typed_is_cached(sanac: Sanac, half: Path) -> None:
    sanac("prune", half, "--keep", "0-2", "--out", "sanac-out/small")
    first = sanac("quantize", "--scheme", "int8-wo", "--json").json
    text = ("quantize", "--scheme", "int4-wo", "--component", "text-encoder", "--json")
    then = sanac(*text).json
    assert sanac(*text).json == {**then, "status": "cached"}
    assert sanac("quantize", "--scheme", "int8-wo", "--json").json == {**first, "status": "cached"}
    assert sanac("quantize", "--scheme", "int8-wo", "--rounding", "nearest", "--json").json["key"] == first["key"]
    assert first["quantized"]["transformer"]["weights"] == 3 * 8
    assert first["sizes"]["transformer"]["after"] < 0.7 * first["sizes"]["transformer"]["before"]


def test_all_that_is_wrong_is_said_at_once(sanac: Sanac, half: Path) -> None:
    ran = sanac("quantize", half, "--scheme", "int5", "--component", "foo", "--include", "bar", "--out", "q", "--json")
    assert (ran.code, len(ran.json["error"]["problems"])) == (2, 3)
    size = sanac("quantize", half, "--scheme", "int8-wo", "--memory-limit", "foo", "--out", "q")
    assert (size.code, "foo" in size.err) == (2, True)
    kernels = sanac("quantize", half, "--scheme", "int8-wo", "--block", "32", "--component", "vae", "--out", "q")
    assert "kernels of 3x3" in kernels.err


@pytest.mark.parametrize("damage", ["an embedding", "a shape", "a scheme's name", "no zero points"])
def test_a_hostile_quant_json(sanac: Sanac, half: Path, damage: str) -> None:
    """Sealed by whoever wrote it, and beside weights whose headers fit."""
    scheme = "int8-wo" if damage == "no zero points" else "int4-wo"
    assert sanac("quantize", half, "--scheme", scheme, "--component", "text-encoder", "--out", "q").code == 0
    Path("q/sanac.json").unlink()
    path = Path("q/text_encoder") / FILE
    value = json.loads(path.read_text())
    del value["seal"]
    name, entry = next(iter(value["weights"].items()))
    if damage == "a shape":
        entry["shape"][1] -= 1
    elif damage == "a scheme's name":
        entry["scheme"] = "\x1b[31mX"
    elif damage == "no zero points":
        file = next(Path("q/text_encoder").glob("*.safetensors"))
        tensors = load_file(file)
        del tensors[part_name(name, "zero_point")]
        save_file(tensors, file)
        value["headers"] = {file.name: header_digest(read_header(file).raw)}
    else:
        tensors = load_file("q/text_encoder/quantized.safetensors")
        embedding = next(key for key in tensors if "embed_tokens" in key)
        rows, columns = tensors.pop(embedding).shape
        tensors[part_name(embedding, "qdata")] = torch.zeros(rows, columns // 2, dtype=torch.uint8)
        tensors[part_name(embedding, "scale")] = torch.ones(rows, 1, dtype=torch.bfloat16)
        save_file(tensors, "q/text_encoder/quantized.safetensors")
        value["weights"][embedding] = {**entry, "shape": [rows, columns], "block": None}
        file = Path("q/text_encoder/quantized.safetensors")
        value["headers"] = {file.name: header_digest(read_header(file).raw)}
    path.write_text(json.dumps({**value, "seal": _digest(json_files.canonical(value))}))
    ran = sanac("generate", "q", "a red circle", "--steps", "1", "--out", "x")
    assert ran.code == 3, ran.err
    assert not Path("x").exists()
