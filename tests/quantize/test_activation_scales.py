"""Activations quantized, too: scales, smoothing, what is refused, and what of it is left when a run is killed."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sanac as package
from benchmarks.outliers import write_outliers
from sanac.core import json_files
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.quant_json import FILE, STATIC, TOKEN, ActivationSpec, WeightSpec, _digest
from sanac.core.errors import UsageError
from sanac.core.family.architecture import block_name
from sanac.core.quant.layer_rules import QuantRequest, ends_of, split_quantizable
from sanac.core.quant.schemes import scheme_of
from sanac.core.safetensors_header import TensorRef
from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import embed, head
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.quant.activations import fake_quantize_activations
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, quantize_weight
from sanac.nn.streaming import Blocks
from sanac.quantize import calibration_sweep
from sanac.quantize.activation_scales import RANGES, ActivationSample, fit_activations, smoothed_weight, static_scale
from sanac.quantize.plan import plan_quantize
from sanac.quantize.settings import QuantizeSettings
from tests.conftest import Sanac
from tests.quantize.conftest import Stopping

BRIEFLY = ("--num-prompts", "3", "--timesteps", "4")
SCHEMES = ("int8", "int8-dynamic", "fp8", "fp8-dynamic")


def seen_with_an_outlier(size: float) -> tuple[ActivationSample, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 64, generator=generator)
    rows[:, 7] *= size
    weight = torch.randn(48, 64, generator=generator)
    weight[:, 7] /= size
    return ActivationSample(rows, rows.abs().amax(dim=0)), weight


def error_of(
    given: ActivationSpec, exponents: torch.Tensor | None, seen: ActivationSample, weight: torch.Tensor, form: str
) -> float:
    how = WeightSpec("test", form, None, tuple(weight.shape), "nearest", given)
    moved = smoothed_weight(weight, exponents)
    scale = ROUNDINGS["nearest"](moved, how, torch.float32)
    used = dequantize_weight(quantize_weight(moved, scale, how), scale, how, torch.float32)
    wanted = seen.rows @ weight.T
    return float((fake_quantize_activations(seen.rows, how, exponents) @ used.T - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", [STATIC, TOKEN])
def test_smoothing_takes_an_outlier_to_where_it_does_no_harm(kind: str) -> None:
    seen, weight = seen_with_an_outlier(300.0)
    how = WeightSpec("test", "int8", None, tuple(weight.shape), "nearest", ActivationSpec(kind, smooth=False))
    plain = fit_activations(seen, [weight], how, torch.float32, "minmax")
    how = WeightSpec("test", "int8", None, tuple(weight.shape), "nearest", ActivationSpec(kind, smooth=True))
    given, exponents = fit_activations(seen, [weight], how, torch.float32, "minmax")
    assert exponents is not None
    assert int(exponents.argmax()) == 7
    assert exponents[7] - exponents.median() >= 7  # about log2(300)
    naive, smooth = error_of(*plain, seen, weight, "int8"), error_of(given, exponents, seen, weight, "int8")
    assert naive > 0.3
    assert smooth < 0.02


def test_ranges_cover_all_or_less() -> None:
    seen, weight = seen_with_an_outlier(1.0)
    seen.rows[0, 0] = 40.0
    largest, energy = float(seen.rows.abs().max()), weight.square().sum(dim=0)
    scales = {how: static_scale(seen.rows, energy, largest, "int8", torch.float32, how) for how in RANGES}
    assert scales["minmax"] == pytest.approx(40 / 127)
    assert scales["percentile"] < 0.3 * scales["minmax"]
    assert scales["mse"] < scales["minmax"]
    held = static_scale(seen.rows, energy, largest, "int8", torch.bfloat16, "mse")
    assert held == float(torch.tensor(held).bfloat16()), "graphs have scales in the model's own dtype"


def test_those_that_are_given_the_same_share_it(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("quantize", pipeline, "--scheme", "int8", *BRIEFLY, "--include", "ends", "--out", "q").code == 0
    weights = open_model(locate("q")).weights.quantized.weights
    scale = {name.removeprefix("transformer_blocks.3."): how.activations.scale for name, how in weights.items()}
    assert scale["attn1.to_q.weight"] == scale["attn1.to_k.weight"] == scale["attn1.to_v.weight"]
    assert scale["attn1.to_q.weight"] != scale["attn2.to_q.weight"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_loaded_computes_what_our_forward_does(sanac: Sanac, pipeline: Path, scheme: str) -> None:
    """Packed layers in diffusers' model, and the simulator in the sweep."""
    ran = sanac("quantize", pipeline, "--scheme", scheme, *BRIEFLY, "--out", "q", "--json")
    assert ran.code == 0, ran.err
    model = open_model(locate("q"))
    quantized = model.weights.quantized
    assert {name.split(".")[1] for name in quantized.weights} == {"1", "2", "3", "4"}, "one block at either end stays"
    ends = "first and last block: activations are hardest there (--include ends)"
    assert {quantized.skipped[f"transformer_blocks.{index}.attn1.to_q.weight"] for index in (0, 5)} == {ends}
    transformer = package.load_transformer("q", "cpu")

    generator = torch.Generator().manual_seed(0)
    latents, captions = torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 7, 64, generator=generator)
    times, mask = torch.tensor([500.0, 20.0]), torch.ones(2, 7, dtype=torch.int64)
    with torch.no_grad():
        theirs = transformer(latents, captions, times, encoder_attention_mask=mask, return_dict=False)[0]
        blocks = Blocks(model, torch.device("cpu"), torch.float32)
        start = embed(blocks.outside(), latents, captions, times, mask)
        state, geometry = start.state, Geometry.of(model.transformer.config)
        for _, tensors in blocks.sweep(range(6)):
            state = block(tensors, state, start.conditioning, geometry)
        ours = head(blocks.outside(), state, start)
    assert (theirs - ours).norm() < 2e-3 * ours.norm()
    painted = sanac("generate", "q", "a red circle", "--steps", "2", "--out", "pictures")
    assert painted.code == 0
    assert ("cpu can't multiply in fp8" in painted.err) == scheme.startswith("fp8")


def states_of(model: Model) -> CalibrationStates:
    with torch.no_grad():
        return calibration(model, CalibrationSettings(num_prompts=4, timesteps=6, seed=5), every=2).sample()


def velocity_error(states: CalibrationStates, quantized: Model) -> float:
    from dataclasses import replace

    blocks = Blocks(quantized, torch.device("cpu"), torch.float32, resident=True)
    kept = tuple(range(len(blocks)))
    with torch.no_grad():
        return float(replace(states, blocks=blocks, outside=blocks.outside()).errors([kept])[kept].mean())


def test_planted_outliers(sanac: Sanac, one_thread: None) -> None:
    """The function stays; naive rounding loses it, smoothing doesn't."""
    write_outliers(locate("sanac:tiny").path, Path("planted"))
    plain, planted = open_model(locate("sanac:tiny")), open_model(locate("planted"))
    states = states_of(planted)
    assert velocity_error(states, plain) < 1e-4
    errors = {}
    for smoothing in ("none", "search"):
        how = ("--scheme", "int8", "--smoothing", smoothing, *BRIEFLY)
        assert sanac("quantize", "planted", *how, "--out", smoothing).code == 0
        errors[smoothing] = velocity_error(states, open_model(locate(smoothing)))
    assert errors["none"] > 0.15
    assert errors["search"] < 0.2 * errors["none"]


def test_a_killed_run_goes_on_with_the_same(
    sanac: Sanac, pipeline: Path, stopped_at_the_fourth: Stopping, one_thread: None
) -> None:
    how = ("--scheme", "int8", "--include", "ends", *BRIEFLY)
    assert sanac("quantize", pipeline, *how, "--out", "a", "--workspace", "one").code == 0
    asked = stopped_at_the_fourth()
    assert sanac("quantize", pipeline, *how, "--out", "b", "--workspace", "two").code == 130
    assert not Path("b").exists()
    assert sanac("quantize", pipeline, *how, "--out", "b", "--workspace", "two").code == 0
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    for name in ("quant.json", "quantized.safetensors"):
        assert Path("a/transformer", name).read_bytes() == Path("b/transformer", name).read_bytes()
    assert sanac("quantize", pipeline, *how, "--out", "b", "--json").json["status"] == "cached"


def test_the_streamed_weight_is_the_one_that_was_looked_at(sanac: Sanac, pipeline: Path) -> None:
    """Smoothed by the same factors, bit for bit."""
    assert sanac("quantize", pipeline, "--scheme", "int8", "--include", "ends", *BRIEFLY, "--out", "q").code == 0
    source = load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    stored = load_file("q/transformer/quantized.safetensors")
    quantized = open_model(locate("q")).weights.quantized
    smoothed = 0
    for name, packing in quantized.weights.items():
        stem = name.removesuffix("weight")
        exponents = stored.get(f"{stem}_weight_smooth")
        assert (exponents is not None) == packing.activations.smooth
        smoothed += exponents is not None and bool(exponents.any())
        weight = smoothed_weight(source[name], exponents)
        scale = ROUNDINGS["nearest"](weight, packing, stored[f"{stem}_weight_scale"].dtype)
        assert torch.equal(scale, stored[f"{stem}_weight_scale"])
        assert torch.equal(quantize_weight(weight, scale, packing).view(packing.shape), stored[f"{stem}_weight_qdata"])
    assert smoothed > 6


@pytest.mark.parametrize("scheme", ["int8", "fp8-dynamic"])
def test_each_block_sees_what_the_artifact_gives(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, one_thread: None
) -> None:
    """The states that the sweep ends with are those that the artifact's own blocks make, rounded inputs and all."""
    began, sweeps = [], []
    real = calibration_sweep.Sweep.advance

    def watched(self: calibration_sweep.Sweep, index: int, tensors: object, file: Path) -> None:
        if index == 0:
            began[:], sweeps[:] = list(self.streams), [self]
        real(self, index, tensors, file)

    monkeypatch.setattr(calibration_sweep.Sweep, "advance", watched)
    assert sanac("quantize", pipeline, "--scheme", scheme, "--include", "ends", *BRIEFLY, "--out", "q").code == 0
    blocks = Blocks(open_model(locate("q")), torch.device("cpu"), torch.float32)
    states = [start.state for start in began]
    with torch.no_grad():
        for _, tensors in blocks.sweep(range(6)):
            pairs = zip(states, began, strict=True)
            states = [block(tensors, state, start.conditioning, sweeps[0].geometry) for state, start in pairs]
    assert len(states) > 1
    for ours, start in zip(states, sweeps[0].streams, strict=True):
        assert torch.equal(ours, start.state)


def test_without_smoothing_a_dynamic_scheme_looks_at_nothing(sanac: Sanac, pipeline: Path) -> None:
    how = ("--scheme", "int8-dynamic", "--smoothing", "none")
    ran = sanac("quantize", pipeline, *how, "--num-prompts", "3", "--out", "q")
    assert (ran.code, "have no effect" in ran.err) == (0, True)
    assert not list(Path().rglob("fit-*"))
    assert "smoothed" not in Path("q/README.md").read_text()


def test_gptq_goes_with_it(sanac: Sanac, pipeline: Path) -> None:
    how = ("--scheme", "int8", "--include", "ends", *BRIEFLY)
    assert sanac("quantize", pipeline, *how, "--rounding", "gptq", "--out", "q").code == 0
    assert sanac("quantize", pipeline, *how, "--out", "p").code == 0
    one, other = (load_file(f"{name}/transformer/quantized.safetensors") for name in "qp")
    name = "transformer_blocks.0.ff.conv_point._weight_"
    assert torch.equal(one[name + "smooth"], other[name + "smooth"])
    assert not torch.equal(one[name + "qdata"], other[name + "qdata"])
    assert sanac("generate", "q", "a red circle", "--steps", "2", "--out", "pictures").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--scheme int8 --block 64", "one scale per output channel"),
        ("--scheme int8 --component text-encoder", "for the transformer"),
        ("--scheme int8-dynamic --ranges mse", "has dynamic ones"),
        ("--scheme int8-wo --smoothing search", "int8-wo doesn't quantize"),
        ("--scheme int4-wo --include ends", "int4-wo doesn't quantize"),
        ("--scheme fp8 --rounding search", "one way to round"),
        ("--scheme int8-wo --leave nothing.*", "matches no weight"),
        ("--scheme int8-wo --leave proj_out.*", "matches no weight"),
        ("--scheme int9", "'int9', not one of"),
    ],
)
def test_bad_requests(sanac: Sanac, pipeline: Path, options: str, words: str) -> None:
    ran = sanac("quantize", pipeline, *options.split(), "--out", "q")
    assert (ran.code, words in ran.err) == (2, True), ran.err
    assert not Path("q").exists()


def test_half_precision_is_not_for_what_was_trained_in_bf16(sanac: Sanac, pipeline: Path) -> None:
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(pipeline, torch_dtype=torch.float16).save_pretrained("half")
    how = ("--scheme", "int8-dynamic", "--smoothing", "none", "--out", "q")
    ran = sanac("quantize", "half", *how)
    assert (ran.code, "trained in bf16" in ran.err) == (2, True)
    assert sanac("quantize", "half", *how, "--force").code == 0
    assert sanac("quantize", "half", "--scheme", "int8-wo", "--out", "p").code == 0, "weights alone are no danger"


def test_weights_that_are_left_by_name(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac("quantize", pipeline, "--scheme", "int8-wo", "--leave", "*.3.attn?.*", "--out", "q")
    assert ran.code == 0, ran.err
    quantized = open_model(locate("q")).weights.quantized
    assert quantized.skipped["transformer_blocks.3.attn1.to_q.weight"] == "--leave *.3.attn?.*"
    assert "transformer_blocks.3.ff.conv_point.weight" in quantized.weights
    assert "transformer_blocks.2.attn1.to_q.weight" in quantized.weights


def test_the_first_of_those_that_are_given_the_same_can_be_left(sanac: Sanac, pipeline: Path) -> None:
    how = ("--scheme", "int8", "--include", "ends", *BRIEFLY, "--leave", "*.attn1.to_q.weight")
    assert sanac("quantize", pipeline, *how, "--out", "q").code == 0
    names = open_model(locate("q")).weights.quantized.weights
    assert "transformer_blocks.0.attn1.to_q.weight" not in names
    assert "transformer_blocks.0.attn1.to_k.weight" in names
    both = ("--component", "transformer", "--component", "text-encoder", "--leave", "transformer_blocks.3.*")
    assert sanac("quantize", pipeline, "--scheme", "int8-wo", *both, "--out", "p").code == 0


def test_memory_has_no_part_in_what_is_looked_at(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """More tokens than are kept, in batches of other sizes: products differ in the last bit, choices may on ties."""
    how = ("--scheme", "int8", "--include", "ends", "--num-prompts", "20", "--timesteps", "8")
    real, seen = calibration_sweep.fit_activations, dict[str, list[torch.Tensor]]()
    for limit in ("27MB", "2GB"):
        rows = seen.setdefault(limit, [])
        monkeypatch.setattr(
            calibration_sweep,
            "fit_activations",
            lambda given, *rest, rows=rows: rows.append(given.rows) or real(given, *rest),
        )
        ran = sanac("quantize", pipeline, *how, "--memory-limit", limit, "--workspace", limit, "--out", f"q{limit}")
        assert ran.code == 0, ran.err
        assert "prompts fit" not in ran.err
    each = len(seen["2GB"]) // 6
    for one, other in zip(seen["27MB"][:each], seen["2GB"][:each], strict=True):
        assert 900 < len(one) <= calibration_sweep.SAMPLE
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("blocks", "ends"), [(1, 1), (6, 1), (10, 1), (11, 2), (12, 2), (20, 2), (60, 2)])
def test_how_many_blocks_stay_at_either_end_depends_on_the_depth(blocks: int, ends: int) -> None:
    block = {"attn1.to_q.weight": (16, 16), "ff.conv_point.weight": (16, 40, 1, 1)}
    tensors = {
        name: TensorRef(name, "BF16", shape, Path("model.safetensors"), 0, 2 * math.prod(shape))
        for index in range(blocks)
        for rest, shape in block.items()
        for name in (block_name(index, rest),)
    }
    quantized, request = set(range(ends, blocks - ends)), QuantRequest(scheme_of("int8"))
    assert ends_of(blocks) == ends
    if not quantized:
        with pytest.raises(UsageError, match="has no weights that can be quantized"):
            split_quantizable("transformer", tensors, request)
        return
    names, skipped = split_quantizable("transformer", tensors, request)
    assert set(names) == {block_name(index, rest) for index in quantized for rest in block}
    which = {1: "first and last block: ", 2: "first and last 2 blocks: "}[ends]
    assert len(skipped) == 2 * 2 * ends
    assert all(why.startswith(which) for why in skipped.values())


def test_content_keys_of_deep_models_are_those_they_had(pipeline: Path) -> None:
    """Only what is quantized otherwise than before has another key: shallow models, without --include ends."""
    tiny, six = open_model(locate("sanac:tiny")), open_model(locate(str(pipeline)))

    def recorded(model: Model, **settings: object) -> object:
        options = QuantizeSettings(scheme="int8", **settings)
        return plan_quantize(model, options, options.write_options()).settings.get("ends")

    assert (recorded(tiny), recorded(six), recorded(six, include=("ends",))) == (None, 1, None)


def test_a_model_of_two_blocks_has_nothing_between_its_ends(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0-1", "--out", "two").code == 0
    ran = sanac("quantize", "two", "--scheme", "int8", "--out", "q")
    assert (ran.code, "--include ends" in ran.err) == (2, True)
    assert sanac("quantize", "two", "--scheme", "int8", "--include", "ends", *BRIEFLY, "--out", "q").code == 0


@pytest.mark.parametrize(("value", "words"), [(torch.nan, "block 2 produces NaN"), (0.0, "are all zero")])
def test_inputs_that_nothing_can_be_fitted_to(sanac: Sanac, pipeline: Path, value: float, words: str) -> None:
    """NaN or nothing but zeros behind `conv_depth`: the layer that is given them is named."""
    import shutil

    folder = Path(shutil.copytree(pipeline, "bad"))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for part in ("weight", "bias"):
        tensors[f"transformer_blocks.2.ff.conv_depth.{part}"].fill_(value)
    save_file(tensors, file)
    ran = sanac("quantize", folder, "--scheme", "int8", *BRIEFLY, "--out", "q")
    assert (ran.code, words in ran.err) == (3, True), ran.err
    assert (
        "transformer_blocks.2.ff.conv_point" if value == 0.0 else "ff.conv_point is the first layer with such inputs"
    ) in ran.err
    assert not Path("q").exists()
    if value == 0.0:  # each token's own scale needs no range
        assert sanac("quantize", folder, "--scheme", "int8-dynamic", *BRIEFLY, "--out", "q").code == 0
        hint = next(word for word in ran.err.split() if word.startswith("transformer_blocks.2."))
        assert sanac("quantize", folder, "--scheme", "int8", *BRIEFLY, "--leave", hint, "--out", "p").code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": -1.0}, "not a valid activation entry for int8"),
        ({"scale": 0.0}, "not a valid activation entry for int8"),
        ({"scale": None}, "not a valid activation entry for int8"),
        ({"scale": "1"}, "not a valid activation entry for int8"),
        ({"scale": 1e300}, "not a valid activation entry for int8"),
        ({"scale": 1e-300}, "not a valid activation entry for int8"),
        ({"kind": "token"}, "not a valid activation entry for int8"),
        ({"kind": "sometimes"}, "not a valid activation entry for int8"),
        ({"smooth": 1}, "not a valid activation entry for int8"),
        ({"smooth": False}, "smoothing is not in quant.json"),
        ({"more": 1}, "broken"),
    ],
)
def test_a_hostile_quant_json(sanac: Sanac, pipeline: Path, change: dict[str, object], words: str) -> None:
    assert sanac("quantize", pipeline, "--scheme", "int8", *BRIEFLY, "--transformer-only", "--out", "q").code == 0
    file = Path("q/transformer", FILE) if Path("q/transformer").is_dir() else Path("q", FILE)
    content = json.loads(file.read_text())
    content.pop("seal")
    content["weights"]["transformer_blocks.2.ff.conv_point.weight"]["given"] |= change
    file.write_bytes(json_files.pretty(content | {"seal": _digest(json_files.canonical(content))}))
    Path("q/sanac.json").unlink()
    ran = sanac("inspect", "q")
    assert (ran.code, words in ran.err) == (3, True), ran.err
