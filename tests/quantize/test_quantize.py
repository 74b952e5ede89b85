"""`sanac quantize` as its user runs it: bytes, what reads them, and what is refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file

import sanac as package
from sanac.core import json_files
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.quant_json import FILE, _digest, header_digest, part_name
from sanac.core.progress import NULL_REPORTER
from sanac.core.safetensors_header import read_header
from sanac.finetune.plan import plan_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.nn.quant.layers import simulate
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, pack, quantize_weight
from sanac.nn.streaming import _STORED, Blocks, read_quantized
from tests.conftest import Sanac

SCHEMES = ("int8-wo", "int4-wo", "fp8-wo")
BRIEFLY = ("--data", "shapes", "--samples", "16", "--batch", "4", "--steps", "2")
STOCK = """
import sys, torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file
assert not any(name.split(".")[0] == "sanac" for name in sys.modules)
model = SanaTransformer2DModel.from_pretrained(sys.argv[1], subfolder="transformer", torch_dtype=torch.bfloat16).eval()
inputs = load_file(sys.argv[2])
with torch.no_grad():
    save_file({"out": model(*(inputs[name] for name in "abc"), return_dict=False)[0].contiguous()}, sys.argv[3])
"""

STOCK_PIPELINE = """
import sys, torch
from diffusers import SanaPipeline
from safetensors.torch import save_file
assert not any(name.split(".")[0] == "sanac" for name in sys.modules)
pipe = SanaPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
how = dict(num_inference_steps=2, height=512, width=512, use_resolution_binning=False, output_type="pt")
image = pipe("a red circle", generator=torch.Generator().manual_seed(0), **how).images
save_file({"image": image.contiguous()}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, pipeline: Path) -> Path:
    """The pipeline in bf16, as released models are."""
    from diffusers import SanaPipeline

    folder = tmp_path_factory.mktemp("half") / "model"
    SanaPipeline.from_pretrained(pipeline, torch_dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 4, 4, generator=generator).bfloat16()
    return latents, torch.randn(2, 7, 64, generator=generator).bfloat16(), torch.tensor([500.0, 20.0])


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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("component", ["transformer", "text-encoder", "vae"])
def test_what_is_loaded_computes_with_the_restored_weights(
    sanac: Sanac, half: Path, scheme: str, component: str
) -> None:
    assert sanac("quantize", half, "--scheme", scheme, "--component", component, "--out", "q").code == 0
    loaded, plain = package.load_pipeline("q", "cpu"), package.load_pipeline(half, "cpu")
    part = component.replace("-", "_")
    weights = next(found for found in open_model(locate("q")).components if found.name == part).weights
    module, reference = getattr(loaded, part), getattr(plain, part)
    sources = tensors_of(half / part)
    for name, parts in weights.parts.items():
        packing = parts.spec
        scale = ROUNDINGS[packing.rounding](sources[name].float(), packing, torch.bfloat16)
        value = dequantize_weight(quantize_weight(sources[name].float(), scale, packing), scale, packing, torch.float32)
        layer = reference.get_submodule(name.removesuffix(".weight"))
        layer.weight.data = value
        assert torch.equal(module.get_submodule(name.removesuffix(".weight")).weight_in(torch.float32), value)
    picture, expected = (
        pipe(
            "a red circle",
            num_inference_steps=2,
            height=512,
            width=512,
            use_resolution_binning=False,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for pipe in (loaded, plain)
    )
    assert torch.allclose(picture, expected, atol=1e-5)


@pytest.mark.parametrize("block", [(), ("--block", "32")])
def test_stock_diffusers_reads_eight_bits_without_sanac(
    sanac: Sanac, half: Path, tmp_path: Path, block: tuple[str, ...]
) -> None:
    assert sanac("quantize", half, "--scheme", "int8-wo", "--include", "kv", *block, "--out", "q").code == 0
    save_file(dict(zip("abc", inputs(), strict=True)), tmp_path / "inputs.safetensors")
    command = [sys.executable, "-c", STOCK, "q", "inputs.safetensors", "out.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stock = load_file(tmp_path / "out.safetensors")["out"]
    mine = package.load_pipeline("q", "cpu").transformer.bfloat16()
    with torch.no_grad():
        assert torch.equal(mine(*inputs(), return_dict=False)[0], stock)


def test_stock_diffusers_reads_a_whole_pipeline_of_eight_bits(sanac: Sanac, half: Path, tmp_path: Path) -> None:
    parts = ("transformer", "text-encoder", "vae")
    options = [word for part in parts for word in ("--component", part)]
    assert sanac("quantize", half, "--scheme", "int8-wo", *options, "--out", "q").code == 0
    command = [sys.executable, "-c", STOCK_PIPELINE, "q", "out.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    mine = package.load_pipeline("q", "cpu").to(torch.bfloat16)
    image = mine(
        "a red circle",
        num_inference_steps=2,
        height=512,
        width=512,
        use_resolution_binning=False,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    assert torch.equal(load_file(tmp_path / "out.safetensors")["image"], image)


@pytest.mark.parametrize("scheme", ["int4-wo", "fp8-wo"])
def test_stock_diffusers_does_not_take_packed_weights_for_missing_ones(sanac: Sanac, half: Path, scheme: str) -> None:
    assert sanac("quantize", half, "--scheme", scheme, "--out", "q").code == 0
    with pytest.raises(OSError, match="no file named"):
        SanaTransformer2DModel.from_pretrained("q", subfolder="transformer")
    assert "sanac.load_pipeline" in Path("q/README.md").read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_our_own_forward_restores_them(sanac: Sanac, half: Path, scheme: str) -> None:
    assert sanac("quantize", half, "--scheme", scheme, "--out", "q").code == 0
    model, device = open_model(locate("q")), torch.device("cpu")
    found = Blocks(model, device, torch.float32).block(2)
    pipe = package.load_pipeline("q", "cpu")
    block = pipe.transformer.transformer_blocks[2]
    assert torch.equal(found["ff.conv_point.weight"], block.ff.conv_point.weight_in(torch.float32))
    assert torch.equal(found["attn2.to_k.weight"], block.attn2.to_k.weight)
    assert sanac("analyze", "q", "--num-prompts", "3", "--timesteps", "2").code == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_simulates_what_quantizing_does(sanac: Sanac, half: Path, scheme: str) -> None:
    """Bit for bit: the layer that learns computes what the packed one will."""
    assert sanac("quantize", half, "--scheme", scheme, "--out", "q").code == 0
    packed = package.load_pipeline("q", "cpu").transformer
    plain = package.load_pipeline(half, "cpu").transformer
    simulate(plain, open_model(locate("q")).weights.quantized.weights, torch.bfloat16)
    given = tuple(tensor.float() for tensor in inputs())
    with torch.no_grad():
        assert torch.equal(plain(*given, return_dict=False)[0], packed(*given, return_dict=False)[0])


@pytest.mark.slow
def test_training_for_four_bits_makes_four_bits_better(sanac: Sanac, half: Path, one_thread: None) -> None:
    job = ("finetune", half, "--data", "shapes", "--samples", "64", "--batch", "16", "--steps", "100")
    ran = sanac(*job, "--fake-quant", "int4-wo", "--out", "tuned", "--json")
    assert ran.code == 0, ran.err
    errors = []
    for source in (half, "tuned"):
        assert sanac("quantize", source, "--scheme", "int4-wo", "--out", f"q{len(errors)}").code == 0
        found = package.load_pipeline(f"q{len(errors)}", "cpu").transformer
        reference = package.load_pipeline(half, "cpu").transformer
        given = tuple(tensor.float() for tensor in inputs())
        with torch.no_grad():
            apart = found(*given, return_dict=False)[0] - reference(*given, return_dict=False)[0]
        errors.append(float(apart.square().mean()))
    assert errors[1] < 0.95 * errors[0], errors
    with_lora = sanac(*job, "--fake-quant", "int4-wo", "--lora", "4", "--out", "x")
    assert (with_lora.code, "--lora" in with_lora.err) == (2, True)
    assert sanac(*job, "--fake-quant", "int5", "--out", "x").code == 2


def test_every_layout_can_be_quantized(sanac: Sanac, half: Path, sharded: Path) -> None:
    assert sanac("prune", half, "--keep", "0,2,4", "--out", "pruned").code == 0
    assert sanac("finetune", "pruned", *BRIEFLY, "--out", "tuned").code == 0
    assert sanac("convert", "tuned", "--to", "nvlabs", "--out", "nvlabs").code == 0
    assert sanac("convert", "tuned", "--to", "single", "--out", "single").code == 0
    found = []
    for source in ("tuned", "nvlabs", "single"):
        ran = sanac("quantize", source, "--scheme", "int4-wo", "--transformer-only", "--out", f"{source}-q")
        assert ran.code == 0, ran.err
        found.append(tensors_of(Path(f"{source}-q/transformer")))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])
    whole = sanac("quantize", sharded, "--scheme", "int8-wo", "--out", "q")
    assert whole.code == 0, "fp32"


def test_what_was_made_last_is_quantized(sanac: Sanac, half: Path) -> None:
    sanac("prune", half, "--keep", "0-2", "--out", "sanac-out/small")
    ran = sanac("quantize", "--scheme", "int8-wo", "--json")
    assert ran.code == 0, ran.err
    assert len(open_model(locate(ran.json["out"])).manifest.lineage) == 3


@pytest.mark.parametrize(
    "verb",
    [
        ("quantize", "--scheme", "int8-wo"),
        ("prune", "--keep", "0-2"),
        ("grow", "--target-blocks", "8"),
        ("convert", "--to", "single"),
    ],
)
def test_what_is_quantized_is_not_changed_again(sanac: Sanac, half: Path, verb: tuple[str, ...]) -> None:
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "q").code == 0
    ran = sanac(verb[0], "q", *verb[1:], "--out", "other")
    assert ran.code == 2
    assert "quantized" in ran.err
    assert "made from" in ran.err
    assert not Path("other").exists()


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


@pytest.mark.parametrize("scheme", ["int8-wo", "int4-wo"])
def test_what_reads_captions_and_pictures_is_quantized(sanac: Sanac, half: Path, scheme: str) -> None:
    """A transformer is analyzed, pruned, trained and fitted by a quantized text encoder and autoencoder."""
    others = ("--component", "text-encoder", "--component", "vae")
    assert sanac("quantize", half, "--scheme", scheme, *others, "--out", "q").code == 0
    few = ("--num-prompts", "3", "--timesteps", "2")
    for job in (
        ("analyze", "q", *few),
        ("prune", "q", "--target-blocks", "5", *few, "--out", "five"),
        ("finetune", "five", *BRIEFLY, "--out", "tuned"),
        ("quantize", "tuned", "--scheme", "int4-wo", "--rounding", "gptq", *few, "--out", "all"),
        ("generate", "all", "a red circle", "--steps", "2", "--out", "pictures"),
    ):
        ran = sanac(*job)
        assert ran.code == 0, ran.err
    schemes = {
        part.name: {packing.scheme for packing in part.weights.quantized.weights.values()}
        for part in open_model(locate("all")).components
        if part.weights
    }
    assert schemes == {"transformer": {"int4-wo"}, "text_encoder": {scheme}, "vae": {scheme}}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_dtype_can_be_pruned_trained_and_quantized(
    sanac: Sanac, pipeline: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(pipeline, torch_dtype=dtype).save_pretrained(tmp_path / "source")
    assert sanac("prune", "source", "--keep", "0,2,4", "--out", "pruned").code == 0
    assert sanac("finetune", "pruned", *BRIEFLY, "--out", "tuned").code == 0
    for scheme in SCHEMES:
        ran = sanac("quantize", "tuned", "--scheme", scheme, "--out", scheme)
        assert ran.code == 0, ran.err
        assert {parts.scale.dtype for parts in open_model(locate(scheme)).weights.parts.values()} == {
            {torch.float16: "F16", torch.float32: "F32"}[dtype]
        }
        assert sanac("generate", scheme, "a red circle", "--steps", "1", "--out", f"{scheme}-pictures").code == 0
    save_file(dict(zip("abc", (part.to(dtype) for part in inputs()), strict=True)), "inputs.safetensors")
    stock = STOCK.replace("torch.bfloat16", str(dtype))
    command = [sys.executable, "-c", stock, "int8-wo", "inputs.safetensors", "out.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    mine = package.load_pipeline("int8-wo", "cpu").transformer.to(dtype)
    given = load_file("inputs.safetensors")
    with torch.no_grad():
        found = mine(*(given[name] for name in "abc"), return_dict=False)[0]
    assert torch.equal(load_file(tmp_path / "out.safetensors")["out"], found)


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


def test_a_transformer_alone_is_loaded_by_sanac(sanac: Sanac, sharded: Path) -> None:
    ran = sanac("quantize", sharded, "--scheme", "int4-wo", "--out", "q")
    assert 'sanac.load_transformer("q")' in ran.out
    assert "sanac.load_transformer" in Path("q/README.md").read_text()
    found, plain = (package.load_transformer(place, "cpu") for place in ("q", sharded))
    given = tuple(tensor.float() for tensor in inputs())
    with torch.no_grad():
        one, other = (module(*given, return_dict=False)[0] for module in (found, plain))
    assert 0 < (one - other).square().mean() < 0.1 * other.square().mean()
    painted = sanac("generate", "q", "a red circle", "--out", "x")
    assert (painted.code, "quantize the complete pipeline" in painted.err) == (2, True)


def test_what_is_refused_is_refused_at_once(sanac: Sanac, half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sanac("quantize", half, "--scheme", "int8-wo", "--out", "q").code == 0
    monkeypatch.setattr("sanac.finetune.plan._data", lambda *_: pytest.fail("data was prepared"))
    monkeypatch.setattr("sanac.prune.scoring.ScoringJob.compute", lambda *_: pytest.fail("blocks were measured"))
    for job in (("finetune", "q", "--data", "shapes"), ("prune", "q", "--target-blocks", "3")):
        ran = sanac(*job, "--out", "other")
        assert (ran.code, "quantized" in ran.err) == (2, True), ran.err


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


def test_training_for_it_is_counted(sanac: Sanac, half: Path, tmp_path: Path) -> None:
    """Autograd keeps every restored weight until its gradient is there."""
    wanted = FinetuneSettings(data="shapes", samples=16, batch=4)
    model = open_model(locate(str(half)))
    plain, rounded = (
        plan_finetune(model, replace(wanted, fake_quant=scheme), tmp_path, NULL_REPORTER).memory()
        for scheme in (None, "int4-wo")
    )
    counted = sum(how.shape[0] * how.columns for how in quantized_by(half, sanac).values())
    assert rounded.activations - plain.activations == 4 * counted


def quantized_by(model: Path, sanac: Sanac) -> dict[str, object]:
    sanac("quantize", model, "--scheme", "int4-wo", "--out", "by")
    return open_model(locate("by")).weights.quantized.weights


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


def test_who_teaches_what_is_trained_for_rounding(sanac: Sanac, half: Path) -> None:
    """What was only pruned still has to come back; what was recovered is its own measure."""
    sanac("prune", half, "--keep", "0-2", "--out", "pruned")
    sanac("finetune", "pruned", *BRIEFLY, "--out", "recovered")
    assert taught("pruned") == open_model(locate(str(half))).identity()
    assert taught("recovered") == open_model(locate("recovered")).identity()
    assert taught(str(half)) == open_model(locate(str(half))).identity()


def taught(model: str) -> str:
    wanted = FinetuneSettings(data="shapes", samples=16, batch=4, fake_quant="int4-wo")
    return plan_finetune(open_model(locate(model)), wanted, Path("ws"), NULL_REPORTER).teacher.identity()
