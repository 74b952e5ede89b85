"""GPTQ: the algorithm by its definition, and the fit of a whole model: resumed, damaged, refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.blocks.block import Conditioning
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, quantize_weight
from sanac.quantize import calibration_job, calibration_sweep, gptq
from tests.conftest import Sanac
from tests.quantize.conftest import Stopping

FIT = ("--scheme", "int4-wo", "--rounding", "gptq", "--num-prompts", "4", "--timesteps", "4")
CASES = [("int4", 32), ("int4", 64), ("int8", None), ("fp8", None)]


def layer(inputs: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the Gram matrix of inputs that go together."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(40, inputs, generator=generator)
    given = torch.randn(4000, 40, generator=generator) @ mixed + 0.3 * torch.randn(4000, inputs, generator=generator)
    return torch.randn(24, inputs, generator=generator), (given.T @ given).double()


def by_definition(weight: torch.Tensor, gram: torch.Tensor, scale: torch.Tensor, how: WeightSpec) -> torch.Tensor:
    """Round one input; then let the others, free as they are, minimise the error that is left."""
    left, values = weight.double().clone(), torch.empty_like(weight, dtype=torch.float64)
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    damped = gram + gptq.DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    for place, index in enumerate(order.tolist()):
        steps = scale[:, index // how.width].double()
        values[:, index] = (left[:, index] / steps).round().clamp(-8, 7)
        free = order[place + 1 :]
        error = left[:, index] - values[:, index] * steps
        inside = damped[free][:, free]
        left[:, free] += error[:, None] * torch.linalg.solve(inside, damped[free, index])[None]
    return values


def test_it_is_what_its_definition_says() -> None:
    weight, gram = layer()
    how = WeightSpec("test", "int4", 64, (24, 150), "gptq")
    scale = ROUNDINGS["gptq"](weight, how, torch.bfloat16)
    found = gptq.corrected(weight, scale, *gptq.order_and_factor(gram), how)
    expected = by_definition(weight, gram, scale, how)
    assert (found == expected).float().mean() > 0.999, "but for ties that fp32 breaks otherwise"


@pytest.mark.parametrize(("form", "block"), CASES)
def test_what_the_layer_gives_is_nearer(form: str, block: int | None) -> None:
    weight, gram = layer()
    how = WeightSpec("test", form, block, (24, 150), "gptq")
    scale = ROUNDINGS["gptq"](weight, how, torch.bfloat16)

    def error(values: torch.Tensor) -> float:
        apart = (dequantize_weight(values, scale, how, torch.float32) - weight).double()
        return float((apart @ gram * apart).sum())

    fitted = gptq.corrected(weight, scale, *gptq.order_and_factor(gram), how)
    assert fitted.dtype == (torch.float8_e4m3fn if form == "fp8" else torch.int8)
    assert error(fitted) < 0.5 * error(quantize_weight(weight, scale, how))


def test_inputs_that_do_not_go_together_change_nothing() -> None:
    weight = layer(96)[0]
    how = WeightSpec("test", "int4", 32, (24, 96), "gptq")
    scale = ROUNDINGS["gptq"](weight, how, torch.bfloat16)
    alone = torch.diag(torch.rand(96, generator=torch.Generator().manual_seed(0)) + 0.5)
    assert torch.equal(
        gptq.corrected(weight, scale, *gptq.order_and_factor(alone), how), quantize_weight(weight, scale, how)
    )
    nothing = torch.zeros(96, 96)
    assert torch.isfinite(gptq.order_and_factor(nothing)[1]).all(), "a layer that is given nothing"


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder, "transformer", "quantized.safetensors"))


def test_a_fitted_model_is_nearer_to_what_it_was(sanac: Sanac, one_thread: None) -> None:
    model = open_model(locate("sanac:tiny"))
    errors = {}
    with torch.no_grad():
        whole = calibration(model, CalibrationSettings(num_prompts=4, timesteps=6, seed=5), every=2).sample()
        for rounding in ("nearest", "search", "gptq"):
            ran = sanac("quantize", "sanac:tiny", *FIT[:2], "--rounding", rounding, "--out", rounding, "--json")
            assert ran.code == 0, ran.err
            quantized = open_model(locate(rounding))
            changes = {
                name: dequantize_weight(*(_read(ref) for ref in (parts.stored, parts.scale)), parts.spec, torch.float32)
                - _read(model.weights.tensors[name]).float()
                for name, parts in quantized.weights.parts.items()
            }
            errors[rounding] = float(whole.changed(changes).errors([tuple(range(12))])[tuple(range(12))].mean())
    assert errors["search"] < 0.95 * errors["nearest"]
    assert errors["gptq"] < 0.8 * errors["search"]


def _read(ref: object) -> torch.Tensor:
    from sanac.nn.streaming import map_tensor

    return map_tensor(ref).clone()


def test_a_stopped_fit_goes_on(sanac: Sanac, pipeline: Path, stopped_at_the_fourth: Stopping, one_thread: None) -> None:
    assert sanac("quantize", pipeline, *FIT, "--out", "a", "--workspace", "one").code == 0
    asked = stopped_at_the_fourth()
    assert sanac("quantize", pipeline, *FIT, "--out", "b", "--workspace", "two").code == 130
    assert not Path("b").exists()
    assert sanac("quantize", pipeline, *FIT, "--out", "b", "--workspace", "two").code == 0
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    one, other = weights_of("a"), weights_of("b")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sanac("quantize", pipeline, *FIT, "--out", "c", "--workspace", "two", "--fresh").code == 0
    assert asked[7:] == [0, 1, 2, 3, 4, 5]
    cached = sanac("quantize", pipeline, *FIT, "--out", "b", "--workspace", "two", "--json")
    assert cached.json["status"] == "cached"


@pytest.mark.parametrize("damage", ["torn report", "other values", "torn values"])
def test_a_damaged_fit_is_made_again(sanac: Sanac, pipeline: Path, damage: str, one_thread: None) -> None:
    assert sanac("quantize", pipeline, *FIT, "--out", "a").code == 0
    folder = next(Path("sanac-out").glob("fit-*"))
    values = folder / "block-002.safetensors"
    if damage == "torn report":
        (folder / "fit.json").write_text("{")
    elif damage == "torn values":
        values.write_bytes(values.read_bytes()[:100])
    else:
        key = calibration_job.read_header(values).metadata
        save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(values).items()}, values, key)
    assert sanac("quantize", pipeline, *FIT, "--out", "b").code == 0
    one, other = weights_of("a"), weights_of("b")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("options", ["--scheme int8-wo", "--scheme fp8-wo", "--scheme int4-wo --include kv"])
def test_other_schemes_are_fitted_too(sanac: Sanac, pipeline: Path, options: str) -> None:
    ran = sanac("quantize", pipeline, *FIT[2:], *options.split(), "--out", "q", "--json")
    assert ran.code == 0, ran.err
    plain = sanac("quantize", pipeline, *options.split(), "--rounding", "search", "--out", "p", "--json")
    one, other = (
        {name: parts.stored for name, parts in open_model(locate(name)).weights.parts.items()} for name in "qp"
    )
    assert one.keys() == other.keys()
    assert ran.json["needs"]["disk"] == pytest.approx(plain.json["needs"]["disk"], rel=0.01)
    kv = "transformer_blocks.0.attn2.to_k.weight"
    assert (kv in one) == ("--include" in options)
    if kv in one:
        assert not torch.equal(_read(one[kv]), _read(other[kv]))
    assert sanac("generate", "q", "a red circle", "--steps", "2", "--out", "pictures").code == 0


def test_what_is_fitted_is_decided_before(sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dry = sanac("quantize", pipeline, *FIT, "--dry-run", "--json")
    assert (dry.code, dry.json["dry_run"]) == (0, True)
    assert not list(Path().rglob("fit-*"))
    done = sanac("quantize", pipeline, *FIT, "--json")
    assert done.json["key"] == dry.json["key"]
    other = sanac("quantize", pipeline, *FIT[:-1], "5", "--json")
    assert other.json["key"] != done.json["key"], "other steps of the sampler, another fit"
    text = sanac("quantize", pipeline, *FIT, "--component", "text-encoder", "--out", "x")
    assert (text.code, "works on the transformer only" in text.err) == (2, True)
    idle = sanac("quantize", pipeline, *FIT[:2], "--num-prompts", "4", "--out", "y")
    assert "--num-prompts have no effect" in idle.err
    monkeypatch.setattr("sanac.nn.calibration.cost.PATIENCE", 0.0)
    long = sanac("quantize", pipeline, *FIT, "--seed", "9", "--out", "z")
    assert (long.code, "--yes" in long.err) == (4, True)
    assert not Path("z").exists()


def test_nan_in_what_layers_are_given(sanac: Sanac, half_broken: Path) -> None:
    ran = sanac("quantize", half_broken, *FIT, "--out", "q")
    assert ran.code == 3
    assert not Path("q").exists()


@pytest.fixture
def half_broken(pipeline: Path, tmp_path: Path) -> Path:
    """The pipeline with a norm that holds NaN: it is not quantized, but what follows it is given NaN."""
    import shutil

    folder = Path(shutil.copytree(pipeline, tmp_path / "nan"))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.1.scale_shift_table"][0, 0] = torch.nan
    save_file(tensors, file)
    return folder


def grams_of(sanac: Sanac, model: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[torch.Tensor]:
    """X'X as they are solved, block after block."""
    seen: list[torch.Tensor] = []
    real = calibration_sweep.order_and_factor
    monkeypatch.setattr(calibration_sweep, "order_and_factor", lambda gram: seen.append(gram) or real(gram))
    assert sanac("quantize", model, *FIT, *options, "--out", f"q{len(options)}", "--force", "--fresh").code == 0
    monkeypatch.setattr(calibration_sweep, "order_and_factor", real)
    return seen


def test_blocks_see_what_quantizing_left_of_those_before(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """The first block is given the same by any scheme, the second not."""
    four = grams_of(sanac, pipeline, monkeypatch)
    eight = grams_of(sanac, pipeline, monkeypatch, "--scheme", "int8-wo")
    each = len(four) // 6
    assert len(four) == len(eight) == 6 * each
    assert all(torch.equal(one, other) for one, other in zip(four[:each], eight[:each], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(four[each:], eight[each:], strict=True))


def test_padding_of_captions_is_left_out(one_thread: None) -> None:
    key = "attn2.to_k.weight"
    looks = {key: calibration_sweep._InputRecorder(WeightSpec("test", "int4", None, (4, 8), "gptq"), tokens_each=1)}
    caption = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    bias = torch.zeros(2, 1, 5)
    bias[1, 0, 3:] = -10000.0
    for name in (key, "attn2.to_v.weight"):
        calibration_sweep._record(looks, range(2), Conditioning(torch.empty(0), caption, bias, 1, 1), name, caption)
    rows = torch.cat((caption[0], caption[1, :3]))
    assert torch.allclose(looks[key].gram.float(), rows.T @ rows, atol=1e-5)


def test_one_prompt_is_enough(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("quantize", pipeline, *FIT[:4], "--num-prompts", "1", "--timesteps", "2", "--out", "q").code == 0
