"""The choice of bits is the best one: against all there are, against bounds, at its limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.quantize import knapsack
from sanac.quantize.knapsack import Item, cheapest, lightest, swaps

NUMBERS = st.integers(0, 30)
ITEMS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=6)


def items_of(found: list[list[tuple[int, int]]]) -> list[Item]:
    return [Item(*(np.array(part, dtype=np.float64) for part in zip(*options, strict=True))) for options in found]


@given(ITEMS, st.integers(0, 120))
def test_nothing_is_cheaper(found: list[list[tuple[int, int]]], limit: int) -> None:
    items = items_of(found)
    choice = cheapest(items, float(limit))
    all_of_them = [
        (sum(cost for cost, _ in picked), sum(weight for _, weight in picked)) for picked in itertools.product(*found)
    ]
    fitting = [cost for cost, weight in all_of_them if weight <= limit]
    assert (choice is None) == (not fitting)
    if choice:
        picked = [options[option] for options, option in zip(found, choice.options, strict=True)]
        assert choice.cost == sum(cost for cost, _ in picked) == min(fitting)
        assert choice.weight == sum(weight for _, weight in picked) <= limit
        assert choice.gap == 0.0


def model_like(seed: int, blocks: int = 60) -> list[Item]:
    """As many as a 4.8B has: bytes as of its shapes, errors over five orders of magnitude."""
    draw = np.random.default_rng(seed)
    sizes = [2240 * 2240] * 6 + [11200 * 2240, 5600 * 2240]
    return [
        Item(np.array([0.0, error, error * draw.uniform(60, 300)]), np.array([2.0, 1.001, 0.532]) * size)
        for _ in range(blocks)
        for size in sizes
        for error in [10 ** draw.uniform(-8, -3)]
    ]


@pytest.mark.parametrize("share", [0.27, 0.35, 0.5, 0.8])
def test_large_models_are_solved_exactly(share: float) -> None:
    items = model_like(3)
    limit = share * sum(item.weights.max() for item in items)
    choice = cheapest(items, limit)
    assert choice is not None
    assert choice.weight <= limit
    assert choice.gap == 0.0
    swaps = 0
    for one, other in itertools.combinations(range(0, 480, 7), 2):  # no pair could be chosen better
        for a, b in itertools.product(range(3), repeat=2):
            weight, cost = choice.weight, choice.cost
            for place, option in ((one, a), (other, b)):
                weight += items[place].weights[option] - items[place].weights[choice.options[place]]
                cost += items[place].costs[option] - items[place].costs[choice.options[place]]
            swaps += 1
            assert weight > limit or cost >= choice.cost * (1 - 1e-9)
    assert swaps > 10_000


def test_what_has_to_be_dropped_is_owned_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack, "MOST", 3)
    items = model_like(4, blocks=6)
    limit = 0.4 * sum(item.weights.max() for item in items)
    rough = cheapest(items, limit)
    monkeypatch.undo()
    exact = cheapest(items, limit)
    assert rough is not None
    assert exact is not None
    assert exact.cost <= rough.cost <= exact.cost + rough.gap


def test_swaps_are_all_there_are_nearby() -> None:
    items = model_like(6, blocks=1)
    limit = 0.5 * sum(item.weights.max() for item in items)
    choice = cheapest(items, limit)
    assert choice is not None
    found = swaps(items, choice.options, limit, 10**6)
    assert len(found) == len(set(found))
    wanted = {
        other
        for other in itertools.product(range(3), repeat=8)
        if 1 <= sum(a != b for a, b in zip(other, choice.options, strict=True)) <= 2
        and sum(item.weights[option] for item, option in zip(items, other, strict=True)) <= limit
    }
    assert set(found) == wanted
    costs = [sum(item.costs[option] for item, option in zip(items, other, strict=True)) for other in found]
    assert all(one <= other * (1 + 1e-9) for one, other in itertools.pairwise(costs))
    assert swaps(items, choice.options, limit, 5) == found[:5]


def test_the_lightest_is_the_least_that_can_be_asked_for() -> None:
    items = model_like(5, blocks=2)
    least = lightest(items)
    assert cheapest(items, least) is not None
    assert cheapest(items, least - 1) is None
