"""CAME: equal to the reference where nothing is quantized, and the traps of eight bits."""

import math

import pytest
import torch
from came_pytorch import CAME
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.synthetic import SANA_4_8B
from sanac.train.came import Came, as_matrix, new_state
from sanac.train.state_8bit import BLOCK, Packed, pack, unpack


def weights(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter((torch.randn(shape, generator=generator) * 0.05).to(dtype)) for shape in shapes]


def give_gradients(step: int, *groups: list[nn.Parameter]) -> None:
    """The same to all groups, whatever the shapes' trailing ones."""
    for number, same in enumerate(zip(*groups, strict=True)):
        generator = torch.Generator().manual_seed(1000 * step + number)
        scale = torch.rand(same[0].shape[0], generator=generator).view(-1, *[1] * (same[0].dim() - 1))
        gradient = torch.randn(same[0].shape, generator=generator) * scale
        for weight in same:
            weight.grad = gradient.reshape(weight.shape).to(weight.dtype)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_hundred_steps_equal_the_reference(decay: float) -> None:
    shapes = [(300, 200), (129, 77), (40,), (64, 48)]
    reference, ours = weights(shapes), weights([*shapes[:3], (64, 48, 1, 1)])
    theirs = CAME(reference, lr=1e-3, weight_decay=decay)
    optimizer = Came(ours, lr=1e-3, weight_decay=decay, bits=32)
    for step in range(100):
        give_gradients(step, reference, ours)
        theirs.step()
        optimizer.step()
    for expected, found in zip(reference, ours, strict=True):
        assert (expected - found.view(expected.shape)).abs().max() < 1e-6


def test_eight_bits_go_nearly_where_thirty_two_go() -> None:
    shapes = [(256, 192), (200, 150, 1, 1)]
    start, exact, stored = weights(shapes), weights(shapes), weights(shapes)
    optimizers = Came(exact, lr=1e-3, bits=32), Came(stored, lr=1e-3)
    for step in range(60):
        give_gradients(step, exact, stored)
        for optimizer in optimizers:
            optimizer.step()
    for one, other, first in zip(exact, stored, start, strict=True):
        assert optimizers[1].state[other]["exp_avg"].dtype == torch.int8
        assert 0 < (one - other).norm() < 0.03 * (one - first).norm()


def packed_of(values: torch.Tensor) -> Packed:
    into = Packed(torch.empty(len(values), dtype=torch.int8), torch.empty(-(-len(values) // BLOCK)))
    pack(values, into)
    return into


@given(st.integers(1, 3 * BLOCK), st.floats(1e-20, 1e10), st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_codes_are_within_half_a_step_and_zero_is_zero(count: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator) * scale
    values[torch.rand(count, generator=generator) < 0.2] = 0
    packed = packed_of(values)
    found = unpack(packed, torch.empty(count))
    step = packed.scale.repeat_interleave(BLOCK)[:count]
    assert ((found - values).abs() <= 0.501 * step).all()
    assert (found[values == 0] == 0).all()


@pytest.mark.parametrize("value", [0.0, 3.5, -2e-8])
def test_a_constant_block_is_exact(value: float) -> None:
    values = torch.full((BLOCK + 5,), value)
    assert torch.allclose(unpack(packed_of(values), torch.empty(len(values))), values, rtol=1e-6, atol=0)


def test_weights_without_gradients_or_with_zeros_stay() -> None:
    untouched, zero = weights([(200, 200), (200, 200)])
    before = untouched.clone(), zero.clone()
    zero.grad = torch.zeros_like(zero)
    optimizer = Came([untouched, zero], lr=1.0)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(untouched, before[0])
    assert torch.equal(zero, before[1])
    assert untouched not in optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 32])
def test_a_saved_optimizer_goes_on_as_if_nothing_had_been(dtype: torch.dtype, bits: int) -> None:
    shapes = [(256, 192), (30,), (64, 1, 3, 3)]
    through, stopped = weights(shapes, dtype), weights(shapes, dtype)
    one, other = (Came(group, lr=1e-2, bits=bits) for group in (through, stopped))
    for step in range(4):
        give_gradients(step, through, stopped)
        one.step()
        if step == 2:
            again = Came(stopped, lr=1e-2, bits=bits)
            again.load_state_dict(other.state_dict())
            other = again
        other.step()
    for left, right in zip(through, stopped, strict=True):
        assert torch.equal(left, right)
        for name, value in one.state[left].items():
            assert value.dtype == other.state[right][name].dtype
            assert torch.equal(value, other.state[right][name])


def first_gains(*, correct_bias: bool) -> list[float]:
    (weight,) = group = weights([(300, 200)])
    optimizer = Came(group, lr=1.0, correct_bias=correct_bias)
    gains = []
    for step in range(20):
        before = weight.detach().clone()
        give_gradients(step, group)
        optimizer.step()
        gains.append(float((weight.detach() - before).square().mean().sqrt()))
    return gains


def test_the_start_up_gain_and_its_cure() -> None:
    plain, corrected = first_gains(correct_bias=False), first_gains(correct_bias=True)
    assert plain[0] == pytest.approx(11.1, rel=0.01)
    assert max(corrected) < 1.2


def test_it_learns() -> None:
    torch.manual_seed(0)
    data, target = torch.randn(256, 160), torch.randn(256, 160)
    weight = nn.Parameter(torch.zeros(160, 160))
    optimizer = Came([weight], lr=2e-3, correct_bias=True)
    losses = []
    for _ in range(200):
        loss = (data @ weight - target).square().mean()
        weight.grad = torch.autograd.grad(loss, weight)[0]
        optimizer.step()
        losses.append(loss.item())
    best = float((data @ torch.linalg.lstsq(data, target).solution - target).square().mean())
    assert losses[-1] - best < 0.05 * (losses[0] - best)


def test_state_of_the_large_model_is_a_byte_per_parameter() -> None:
    """Counted on one block's shapes: 60 of them are 99 % of the model."""
    shapes = SANA_4_8B.block_tensors().values()
    group = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    size = sum(value.numel() * value.element_size() for weight in group for value in new_state(weight, 8).values())
    assert size / sum(math.prod(shape) for shape in shapes) <= 1.02


def test_what_is_factored() -> None:
    assert as_matrix((7, 5)) == (7, 5)
    assert as_matrix((7, 5, 1, 1)) == (7, 5)
    assert as_matrix((7, 1, 3, 3)) == (7, 9)
    assert as_matrix((7, 5, 3, 3)) is None
    assert as_matrix((7,)) is None


def test_steps_smaller_than_bf16_s_add_up() -> None:
    weight = nn.Parameter(torch.ones(256, 256, dtype=torch.bfloat16))
    optimizer = Came([weight], lr=1e-4, correct_bias=True)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    moved = 1 - float(weight.detach().float().mean())
    exact = nn.Parameter(torch.ones(256, 256))
    optimizer = Came([exact], lr=1e-4, correct_bias=True)
    for _ in range(100):
        exact.grad = torch.ones_like(exact)
        optimizer.step()
    assert moved == pytest.approx(1 - float(exact.detach().mean()), rel=0.02)
    assert moved > 1e-3


def test_bf16_gradients_are_squared_in_fp32() -> None:
    """1e-3 squared is far below bf16's seven bits beside the sum of 256 of them."""
    statistics = []
    for dtype in (torch.bfloat16, torch.float32):
        weight = nn.Parameter(torch.ones(256, 256, dtype=dtype))
        optimizer = Came([weight], lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        weight.grad = torch.randn(256, 256, generator=generator).bfloat16().to(dtype)
        optimizer.step()
        statistics.append(optimizer.state[weight])
    for name, value in statistics[0].items():
        if value.is_floating_point():
            assert torch.allclose(value, statistics[1][name], rtol=1e-5), name
