"""What reads packed weights: stock diffusers, our pipelines, our own forward; all compute with the same values."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file

import sanac as package
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.nn.quant.layers import simulate
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, quantize_weight
from sanac.nn.streaming import Blocks
from tests.conftest import Sanac
from tests.quantize.packed import BRIEFLY, SCHEMES, STOCK, STOCK_PIPELINE, Reader, inputs, reader, tensors_of


@pytest.fixture(scope="module")
def stock_reads() -> Iterator[Reader]:
    with reader() as read:
        yield read


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
    sanac: Sanac, half: Path, tmp_path: Path, stock_reads: Reader, block: tuple[str, ...]
) -> None:
    assert sanac("quantize", half, "--scheme", "int8-wo", "--include", "kv", *block, "--out", "q").code == 0
    save_file(dict(zip("abc", inputs(), strict=True)), tmp_path / "inputs.safetensors")
    stock_reads(STOCK, tmp_path, "q", "inputs.safetensors", "out.safetensors")
    stock = load_file(tmp_path / "out.safetensors")["out"]
    mine = package.load_pipeline("q", "cpu").transformer.bfloat16()
    with torch.no_grad():
        assert torch.equal(mine(*inputs(), return_dict=False)[0], stock)


def test_stock_diffusers_reads_a_whole_pipeline_of_eight_bits(
    sanac: Sanac, half: Path, tmp_path: Path, stock_reads: Reader
) -> None:
    parts = ("transformer", "text-encoder", "vae")
    options = [word for part in parts for word in ("--component", part)]
    assert sanac("quantize", half, "--scheme", "int8-wo", *options, "--out", "q").code == 0
    stock_reads(STOCK_PIPELINE, tmp_path, "q", "out.safetensors")
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_dtype_can_be_pruned_trained_and_quantized(
    sanac: Sanac, pipeline: Path, tmp_path: Path, stock_reads: Reader, dtype: torch.dtype
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
    stock_reads(stock, tmp_path, "int8-wo", "inputs.safetensors", "out.safetensors")
    mine = package.load_pipeline("int8-wo", "cpu").transformer.to(dtype)
    given = load_file("inputs.safetensors")
    with torch.no_grad():
        found = mine(*(given[name] for name in "abc"), return_dict=False)[0]
    assert torch.equal(load_file(tmp_path / "out.safetensors")["out"], found)


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
