"""The operators: what they round to, what they give back, and that torch can trace them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.nn.quant.weights import (
    QMAX,
    ROUNDINGS,
    dequantize_values,
    dequantize_weight,
    fake_quantize_weight,
    pack,
    quantize_values,
    quantize_weight,
    unpack,
)

CASES = [("int8", None), ("int8", 32), ("int4", 32), ("int4", 64), ("fp8", None)]


def packing(weight: torch.Tensor, form: str, block: int | None, rounding: str = "nearest") -> WeightSpec:
    return WeightSpec("test", form, block, tuple(weight.shape), rounding)


@pytest.mark.parametrize(("form", "block"), CASES)
@pytest.mark.parametrize("shape", [(8, 96), (5, 150), (6, 40, 1, 1), (1, 1)])
def test_values_come_back_within_half_a_step(form: str, block: int | None, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    how = packing(weight, form, block)
    scale = ROUNDINGS["nearest"](weight, how, torch.float32)
    found = dequantize_weight(quantize_weight(weight, scale, how), scale, how, torch.float32)
    assert found.shape == weight.shape
    steps = scale.repeat_interleave(how.width, dim=1)[:, : how.columns].view_as(weight)
    reach = 0.5 * steps if form != "fp8" else torch.maximum(weight.abs() / 16, steps * 2**-9)
    assert ((found - weight).abs() <= reach * 1.0001).all()


def test_a_group_of_zeros_stays_zero() -> None:
    weight = torch.zeros(4, 64)
    weight[0, 40] = 3.0
    how = packing(weight, "int4", 32)
    for rounding in ROUNDINGS.values():
        scale = rounding(weight, how, torch.bfloat16)
        found = dequantize_weight(quantize_weight(weight, scale, how), scale, how, torch.float32)
        assert torch.isfinite(found).all()
        assert found.count_nonzero() == 1


def test_one_scale_for_all_of_a_weight() -> None:
    weight = torch.randn(6, 40, 1, 1, generator=torch.Generator().manual_seed(0))
    weight[4, 7] = -9.0
    scale = ROUNDINGS["tensor"](weight, packing(weight, "fp8", None), torch.float32)
    assert scale.shape == (6, 1)
    assert (scale == 9.0 / QMAX["fp8"]).all()


@pytest.mark.parametrize(("form", "least"), [("int4", 0.9), ("fp8", 0.99)])
def test_searched_scales_are_never_worse(form: str, least: float) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(1)) ** 3
    errors = {}
    for name, rounding in ROUNDINGS.items():
        how = packing(weight, form, 64)
        scale = rounding(weight, how, torch.float32)
        apart = dequantize_weight(quantize_weight(weight, scale, how), scale, how, torch.float32) - weight
        errors[name] = apart.view(32, 4, 64).square().sum(dim=2)
    assert (errors["search"] <= errors["nearest"] * 1.0001).all()
    assert errors["search"].sum() < least * errors["nearest"].sum()


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_packing_is_undone(values: list[int]) -> None:
    rows = torch.tensor([values, values[::-1]], dtype=torch.int8)
    packed = pack(rows)
    assert packed.shape == (2, -(-len(values) // 2))
    assert torch.equal(unpack(packed, len(values)), rows)


def test_torch_can_trace_them() -> None:
    values, scale = torch.randn(4, 64), torch.rand(4, 2) + 0.1
    for form in QMAX:
        stored = quantize_values(values, scale, 32, form)
        tests = ("test_schema", "test_faketensor") if form != "fp8" else ("test_faketensor",)  # no fp8 in its checks
        torch.library.opcheck(torch.ops.sanac.quantize.default, (values, scale, 32, form), test_utils=tests)
        torch.library.opcheck(
            torch.ops.sanac.dequantize.default, (stored, scale, 32, torch.bfloat16), test_utils=("test_faketensor",)
        )
        assert dequantize_values(stored, scale, 32, torch.bfloat16).dtype == torch.bfloat16


def test_the_gradient_goes_straight_through() -> None:
    weight = torch.randn(4, 64, requires_grad=True)
    how = packing(weight, "int4", 32, "search")
    found = fake_quantize_weight(weight, how, torch.bfloat16)
    assert not torch.equal(found, weight)
    (found * torch.arange(64.0)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(64.0).expand(4, 64))


@pytest.mark.parametrize(
    ("form", "block", "steps"), [("int8", None, 2.0), ("int8", 32, 2.0), ("int4", 64, 1.0), ("fp8", None, 0.0)]
)
def test_torchao_agrees(form: str, block: int | None, steps: float) -> None:
    """Its own rounding: to so many steps, as it divides by 127.5 and 7.5. From the same stored values: bit for bit."""
    from torchao.quantization import Float8WeightOnlyConfig, IntxUnpackedToInt8Tensor, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    layer = torch.nn.Linear(256, 64, bias=False).bfloat16()
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    weight, how = layer.weight.detach().clone(), packing(layer.weight, form, block)
    scale = ROUNDINGS["nearest"](weight, how, torch.bfloat16)
    stored = quantize_weight(weight, scale, how)
    mine = dequantize_weight(stored, scale, how, torch.bfloat16)
    ints = {"int8": torch.int8, "int4": torch.int4}
    granularity = PerGroup(block) if block else PerAxis(0)
    whole = IntxWeightOnlyConfig(ints[form], granularity=granularity) if form in ints else Float8WeightOnlyConfig()
    quantize_(layer, whole)
    step = scale.float().repeat_interleave(how.width, dim=1)
    assert ((layer.weight.dequantize() - mine).abs() <= steps * step).all()
    if form in ints:
        same = IntxUnpackedToInt8Tensor(
            stored, scale, torch.zeros_like(scale, dtype=torch.int8), ints[form], (1, how.width), torch.bfloat16, None
        )
        assert torch.equal(same.dequantize(), mine)
