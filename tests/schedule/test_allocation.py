"""The choice of depth and guidance per step: as good as trying everything."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.schedule.allocation import VelocityTable, allocate, guidance_patterns
from sanac.schedule.velocity_error import dropping_rounds

LEVELS = (999, 700, 300)


@st.composite
def tables(draw: st.DrawFn, branches: int = 2) -> VelocityTable:
    blocks = draw(st.integers(2, 4))
    numbers = st.floats(0, 1, allow_subnormal=False)
    row = st.lists(numbers, min_size=blocks, max_size=blocks).map(tuple)
    rows = st.lists(row, min_size=3, max_size=3).map(tuple)
    unguided = draw(rows) if branches == 2 else ()
    return VelocityTable(tuple(range(blocks)), LEVELS, draw(rows), unguided)


def error(table: VelocityTable, depths: tuple[int, ...], guided: tuple[bool, ...]) -> float:
    weights = [((here - after) / 1000) ** 2 for here, after in zip(LEVELS, (*LEVELS[1:], 0), strict=True)]
    found = (
        weight * table.errors(level, guided=on)[depth - 1]
        for level, weight, depth, on in zip(LEVELS, weights, depths, guided, strict=True)
    )
    return sum(found)


@settings(max_examples=60)
@given(tables(), st.floats(1, 13))
def test_nothing_within_the_budget_is_better(table: VelocityTable, budget: float) -> None:
    least = -(-table.blocks // 3)
    options = list(product(range(least, table.blocks + 1), (True, False)))
    within = [
        error(table, tuple(depth for depth, _ in three), tuple(on for _, on in three))
        for three in product(options, repeat=3)
        if sum(depth * (1 + on) for depth, on in three) <= 2 * budget
    ]
    found = allocate(table, LEVELS, budget)
    if not within:
        assert found is None
        return
    assert found is not None
    assert found.forwards <= budget + 1e-9
    assert error(table, found.blocks, found.guided) == pytest.approx(min(within))


@given(tables(branches=1), st.floats(3, 13))
def test_a_model_of_one_branch_has_no_unguided_steps(table: VelocityTable, budget: float) -> None:
    found = allocate(table, LEVELS, budget)
    assert found is None or all(found.guided)
    assert guidance_patterns(table, 4) == [(True,) * 4]


def test_patterns_are_kept() -> None:
    rows = ((0.5, 0.1, 0.0),) * 3
    table = VelocityTable((2, 0, 1), LEVELS, rows, rows)
    for pattern in guidance_patterns(table, 3):
        found = allocate(table, LEVELS, 6, pattern)
        assert found is not None
        assert pattern is None or found.guided == pattern
    assert allocate(table, LEVELS, 1, (True,) * 3) is None


@pytest.mark.parametrize("blocks", [1, 2, 12, 60])
def test_rounds_drop_all_but_one_block(blocks: int) -> None:
    rounds = dropping_rounds(blocks)
    assert sum(count for _, count in rounds) == blocks - 1
    assert all(left > count for left, count in rounds)


def test_guidance_inside_the_weights_is_never_added_to() -> None:
    rows = ((0.5, 0.1, 0.0),) * 3
    table = VelocityTable((2, 0, 1), LEVELS, rows, (), inside=4.5)
    found = allocate(table, LEVELS, 3)
    assert found is not None
    assert (found.guidance_inside, found.guided) == (4.5, (False,) * 3)
    assert found.forwards <= 3
    assert table.plain(LEVELS).forwards == 4.5
