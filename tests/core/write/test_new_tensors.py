"""Noise that is a function of its place: any part at any time, the same normal distribution in every dtype."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.core.family.architecture import TensorInit
from sanac.core.file_copy import GeneratedBytes, digest_bytes
from sanac.core.safetensors_header import DTYPE_BITS
from sanac.core.write.new_tensors import new_tensor

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NOISE = TensorInit(deviation=0.02)


def part(
    dtype: str, count: int, start: TensorInit = NOISE, identity: tuple[str | int, ...] = ("partial", 0, 18, "x")
) -> GeneratedBytes:
    piece = new_tensor("x", dtype, (count,), start, identity)
    assert piece.size == count * DTYPE_BITS[dtype] // 8
    [made] = piece.parts
    assert isinstance(made, GeneratedBytes)
    return made


def tensor(
    dtype: str, count: int, start: TensorInit = NOISE, identity: tuple[str | int, ...] = ("partial", 0, 18, "x")
) -> torch.Tensor:
    made = part(dtype, count, start, identity)
    return torch.frombuffer(bytearray(made.make(0, made.size)), dtype=TORCH[dtype])


@settings(max_examples=30)
@given(st.sampled_from(list(TORCH)), st.lists(st.integers(0, 200_000), min_size=1, max_size=5), st.randoms())
def test_any_part_in_any_order_is_the_same(dtype: str, cuts: list[int], random) -> None:
    size = DTYPE_BITS[dtype] // 8
    made = part(dtype, 200_000)
    edges = sorted({0, *cuts, 200_000})
    spans = list(itertools.pairwise(edges))
    random.shuffle(spans)
    found = bytearray(made.size)
    for start, end in spans:
        found[start * size : end * size] = made.make(start * size, (end - start) * size)
    assert found == bytes(made.make(0, made.size))


def test_steps_are_small_and_whole_elements() -> None:
    made = part("F32", 11_200 * 2_240)
    steps = list(made.steps)
    assert steps[0][0] == 0
    assert sum(count for _, count in steps) == made.size
    assert all(start % 8 == 0 and count <= 4 << 20 for start, count in steps)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
def test_another_dtype_only_rounds(dtype: str) -> None:
    assert torch.equal(tensor(dtype, 50_000), tensor("F32", 50_000).to(TORCH[dtype]))


def test_it_is_a_normal_distribution() -> None:
    values = tensor("F32", 2_000_000).double() / 0.02
    count = len(values)
    assert abs(float(values.mean())) < 4 / math.sqrt(count)
    assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float((values**3).mean())) < 4 * math.sqrt(15 / count)
    assert abs(float((values**4).mean()) - 3) < 4 * math.sqrt(96 / count)
    expected = torch.special.ndtr(values.sort().values)
    distance = (expected - (torch.arange(count) + 0.5) / count).abs().max()
    assert float(distance) < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov at 0.1 %
    assert 4 < float(values.abs().max()) < 4.33
    for lag in (1, 2, 3, 65_536):
        assert abs(float((values[:-lag] * values[lag:]).mean())) < 4 / math.sqrt(count)


def test_all_draws_have_mean_zero_deviation_one_and_pairs_that_don_t_know_each_other() -> None:
    from sanac.core.write.new_tensors import _table

    one, other = _table("F64", TensorInit(deviation=1.0)).view(np.float64).reshape(65_536, 2).T
    assert np.array_equal(one, -one[::-1])
    assert np.all(np.diff(one) > 0)
    assert np.array_equal(one, np.sort(other))
    assert abs(math.sqrt(np.square(one).mean()) - 1) < 2e-5
    for left, right in itertools.product(range(1, 5), repeat=2):
        moments = HERMITE[left](one), HERMITE[right](other)
        assert abs(np.corrcoef(*moments)[0, 1]) < 0.0012, (left, right)
    ranks = (torch.special.ndtr(torch.from_numpy(values.copy())).numpy() for values in (one, other))
    squares, _, _ = np.histogram2d(*ranks, bins=64, range=[[0, 1], [0, 1]])
    assert squares.min() >= 12
    assert squares.max() <= 20


HERMITE = {
    1: lambda x: x,
    2: lambda x: x**2 - 1,
    3: lambda x: x**3 - 3 * x,
    4: lambda x: x**4 - 6 * x**2 + 3,
}


def test_whose_noise_it_is_matters() -> None:
    names: list[tuple[str | int, ...]] = [
        ("partial", 0, 18, "x"),
        ("partial", 1, 18, "x"),
        ("partial", 0, 19, "x"),
        ("partial", 0, 18, "y"),
        ("partial", 0, 1, "8x"),
    ]
    found = torch.stack([tensor("F32", 100_000, identity=name) for name in names]).double()
    correlation = torch.corrcoef(found) - torch.eye(len(names))
    assert float(correlation.abs().max()) < 5 / math.sqrt(100_000)


def test_these_bytes_are_promised() -> None:
    """A change here is a change of every grown model: it needs a new SCHEMA in sanac.core.write.executor."""
    made = part("BF16", 100_000)
    assert digest_bytes(bytes(made.make(0, made.size)))[:16] == "be8f9ff1be969680"
    made = part("F32", 100_000, TensorInit(deviation=0.2), ("partial", 5, 3, "ff.conv_depth.weight"))
    assert digest_bytes(bytes(made.make(0, made.size)))[:16] == "89d01c0a806a04fe"


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constants(dtype: str, constant: float) -> None:
    assert torch.equal(tensor(dtype, 1000, TensorInit(constant)), torch.full((1000,), constant, dtype=TORCH[dtype]))
    assert bytes(part(dtype, 0, TensorInit(constant)).make(0, 0)) == b""
