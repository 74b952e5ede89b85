"""What weights are multiplied by, quantized: by definition, token by token, and as devices multiply."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import nn

from sanac.core.checkpoint.quant_json import STATIC, TOKEN, ActivationSpec, WeightSpec
from sanac.nn.quant.activations import (
    LOWEST,
    ActivationQuantizer,
    _step,
    channels_last,
    fake_quantize_activations,
    quantize_activations,
    quantized_linear,
    smoothed,
)
from sanac.nn.quant.layers import packed_like
from sanac.nn.quant.weights import QMAX, ROUNDINGS, QuantizedWeight, dequantize_weight, quantize_weight

EXPONENTS = torch.tensor([0, 3, -2, 8] * 8, dtype=torch.int8)


def weight_of(
    rows: int, given: ActivationSpec, form: str = "int8", kernel: tuple[int, ...] = ()
) -> tuple[torch.Tensor, WeightSpec]:
    weight = torch.randn(rows, 32, *kernel, generator=torch.Generator().manual_seed(1))
    return weight, WeightSpec("test", form, None, tuple(weight.shape), "nearest", given)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_a_static_scale_is_for_all_and_cuts_off(form: str) -> None:
    rows = torch.tensor([[0.0, 0.5, -1.0], [1e6, -1e6, 0.26]])
    values, scale = quantize_activations(rows, ActivationSpec(STATIC, smooth=False, scale=0.5), form)
    assert float(scale) == 0.5
    assert values[0].float().tolist() == [0.0, 1.0, -2.0]
    assert values[1].float().tolist()[:2] == [QMAX[form], LOWEST[form]]


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_each_token_has_its_own_scale(form: str) -> None:
    rows = tokens(5, 32) * torch.tensor([1e-4, 1.0, 1e4, 0.0, 3.0])[:, None]
    values, scale = quantize_activations(rows, ActivationSpec(TOKEN, smooth=False), form)
    assert scale.shape == (5, 1)
    assert (values.float().abs().amax(dim=1) == torch.tensor([1, 1, 1, 0, 1]) * QMAX[form]).all()
    step = {"int8": 0.5 / 127, "fp8": 2**-4}[form]
    errors = (values.float() * scale - rows).abs() / rows.abs().amax(dim=1, keepdim=True).clamp_min(1)
    assert errors.max() <= step


def test_told_how_another_rounded() -> None:
    """Its numbers are taken; how far values lie outside of what is rounded to them is measured."""
    values = torch.tensor([[4.0, 1.0, 1.6, -300.0], [2.0, 0.0, 0.0, 0.0]])
    rounding = ActivationQuantizer(
        WeightSpec("test", "int8", None, (1, 4), "nearest", ActivationSpec(STATIC, smooth=False, scale=2.0)), None
    )
    own = torch.tensor([[2.0, 0.0, 1.0, -128.0], [1.0, 0.0, 0.0, 0.0]])
    assert torch.equal(rounding(values), own * 2)
    found, off = rounding.replay(values, own)
    assert (found.tolist(), off) == ((own * 2).tolist(), (0, 0))
    for place, number, farthest in (
        ((0, 1), 1, 0),  # 1.0 lies between 0 and 2
        ((1, 0), 2, 0.5),  # 2.0 would have to be 3: by half of the largest of its token
        ((1, 0), 4, 2.5),  # 7
        ((0, 3), -100, 99 / 300),  # -201, though it is cut off
    ):
        numbers = own.clone()
        numbers[place] = number
        found, off = rounding.replay(values, numbers)
        assert torch.equal(found, numbers * 2)
        assert off == pytest.approx((farthest, farthest * (300 if place[0] == 0 else 2) / 2 / 8))


@pytest.mark.parametrize("wrong", [0.5, 128.0, torch.nan, torch.inf])
@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_told_what_is_no_number(form: str, wrong: float) -> None:
    wrong = {0.5: 0.7, 128.0: 480.0}.get(wrong, wrong) if form == "fp8" else wrong
    rounding = ActivationQuantizer(
        WeightSpec("test", form, None, (1, 4), "nearest", ActivationSpec(TOKEN, smooth=False)), None
    )
    numbers = torch.tensor([[1.0, wrong, 2.0, 0.0]])
    found, off = rounding.replay(torch.ones(1, 4), numbers)
    assert torch.equal(found, rounding(torch.ones(1, 4)))
    assert off == (torch.inf, torch.inf)
    assert rounding.replay(torch.ones(1, 4), numbers[:, :2])[1] == (torch.inf, torch.inf)


def test_steps_of_fp8() -> None:
    """Towards a value: half as large below a power of two, and none of them beyond the last."""
    numbers = torch.tensor([16.0, 16.0, -16.0, 0.0, 0.0, 448.0, 448.0, 18.0])
    towards = torch.tensor([17.0, 15.0, -15.0, 1.0, -1.0, 500.0, 400.0, -3.0])
    assert _step(numbers, towards, "fp8").tolist() == [2, 1, 1, 2**-9, 2**-9, 0, 32, 2]


@pytest.mark.parametrize("kind", [STATIC, TOKEN])
def test_told_of_pictures(kind: str) -> None:
    """Channels are their second dimension, numbers are told channels last; smoothing is undone before."""
    picture = tokens(2, 32, 3, 5)
    given = ActivationSpec(kind, smooth=True, scale=0.02 if kind == STATIC else None)
    rounding = ActivationQuantizer(WeightSpec("test", "int8", None, (16, 32), "nearest", given), EXPONENTS)
    numbers, scale = quantize_activations(smoothed(channels_last(picture), EXPONENTS), given, "int8")
    found, off = rounding.replay(picture, numbers.half().flatten(1, 2))
    assert torch.equal(found, rounding(picture))
    assert off == (0, 0)
    rows = smoothed(channels_last(picture), EXPONENTS)
    over = (rows / scale - 20.5).clamp_min(0).masked_fill(numbers <= 20, 0)
    wanted = (over * scale / rows.abs().amax(dim=-1, keepdim=True)).max()
    assert rounding.replay(picture, numbers.clamp(max=20))[1] == pytest.approx((float(wanted), float(over.mean())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_smoothing_changes_no_bit(dtype: torch.dtype) -> None:
    rows = tokens(6, 49).to(dtype)
    exponents = torch.arange(-24, 25, dtype=torch.int8)
    moved = smoothed(rows, exponents)
    assert torch.isfinite(moved).all()
    assert torch.equal(smoothed(moved, -exponents).to(dtype), rows)


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_half_precision_stays_finite(form: str) -> None:
    weight, how = weight_of(16, ActivationSpec(TOKEN, smooth=True), form, (1, 1))
    exponents = torch.tensor([-20, 0, 0, 20] * 8, dtype=torch.int8)
    moved = weight * torch.exp2(exponents.float())[:, None, None]
    scale = ROUNDINGS["nearest"](moved, how, torch.float32)
    layer = packed_like(
        nn.Conv2d(32, 16, 1), how, QuantizedWeight(quantize_weight(moved, scale, how), scale, exponents)
    )
    assert torch.isfinite(layer.half()(tokens(1, 32, 4, 4).half())).all()
    assert layer.scale.dtype == torch.float32, "what numbers stand for is not rounded when a model is"


@pytest.mark.parametrize("kind", [STATIC, TOKEN])
@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
@pytest.mark.parametrize("smooth", [True, False])
def test_a_layer_computes_what_is_simulated(kind: str, form: str, kernel: tuple[int, ...], *, smooth: bool) -> None:
    """int8 is multiplied as it is here, in whole numbers; the simulator in floats."""
    given = ActivationSpec(kind, smooth, 0.05 if kind == STATIC else None)
    weight, how = weight_of(16, given, form, kernel)
    exponents = EXPONENTS if smooth else None
    scale = ROUNDINGS["nearest"](weight, how, torch.float32)
    stored = quantize_weight(weight, scale, how)
    plain = nn.Conv2d(32, 16, 1) if kernel else nn.Linear(32, 16)
    layer = packed_like(plain, how, QuantizedWeight(stored, scale, exponents))
    values = tokens(2, 32, 4, 3) if kernel else tokens(2, 7, 32)
    simulated = fake_quantize_activations(values, how, exponents)
    used = dequantize_weight(stored, scale, how, torch.float32)
    wanted = F.conv2d(simulated, used, plain.bias) if kernel else F.linear(simulated, used, plain.bias)
    found = layer(values)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", [STATIC, TOKEN])
def test_devices_multiply_fp8_as_it_is_simulated(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU is asked for; torch answers it on the processor, too."""
    given = ActivationSpec(kind, smooth=False, scale=0.01 if kind == STATIC else None)
    weight, how = weight_of(16, given, "fp8")
    scale = ROUNDINGS["tensor" if kind == STATIC else "nearest"](weight, how, torch.float32)
    stored, rows = quantize_weight(weight, scale, how), tokens(3, 4, 32)
    wanted = quantized_linear(rows, how, QuantizedWeight(stored, scale))
    monkeypatch.setattr("sanac.nn.quant.activations._multiplies", lambda *_: True)
    found = quantized_linear(rows, how, QuantizedWeight(stored, scale))
    assert found.shape == wanted.shape == (3, 4, 16)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [STATIC, TOKEN])
@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_is_what_is_simulated_here(kind: str, form: str, dtype: torch.dtype) -> None:
    """Products of its own where it has them; static int8, which engines multiply, too."""
    given = ActivationSpec(kind, smooth=True, scale=0.05 if kind == STATIC else None)
    weight, how = weight_of(16, given, form)
    scale = ROUNDINGS["tensor" if kind == STATIC and form == "fp8" else "nearest"](weight, how, torch.float32)
    layer = packed_like(nn.Linear(32, 16), how, QuantizedWeight(quantize_weight(weight, scale, how), scale, EXPONENTS))
    values = tokens(40, 32)
    wanted, found = layer(values), layer.to("cuda", dtype)(values.to("cuda", dtype)).float().cpu()
    assert (found - wanted).norm() < (1e-2 if dtype == torch.bfloat16 or form == "fp8" else 1e-5) * wanted.norm()


def test_pictures_have_their_channels_second() -> None:
    picture = tokens(2, 32, 4, 3)
    assert torch.equal(channels_last(picture)[1, 2, 1], picture[1, :, 2, 1])


def test_kernels_that_mix_neighbours_are_refused() -> None:
    weight, how = weight_of(16, ActivationSpec(TOKEN, smooth=False), kernel=(3, 3))
    with pytest.raises(ValueError, match="kernel"):
        packed_like(nn.Conv2d(32, 16, 3), how, QuantizedWeight(weight, weight))
