"""The search over subsets, on judges whose best answer is known."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.prune.beam_search import search


def additive(costs: list[float]) -> object:
    return lambda choices: {kept: sum(c for i, c in enumerate(costs) if i not in kept) for kept in choices}


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8), st.data())
@settings(max_examples=50, deadline=None)
def test_where_blocks_don_t_interact_it_keeps_the_dearest(costs: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(1, len(costs)))
    judge = additive(costs)
    found = search(len(costs), target, frozenset(), judge, beam=1)[-1]  # type: ignore[arg-type]
    assert len(found.kept) == target
    best = min(judge(list(itertools.combinations(range(len(costs)), target))).values())  # type: ignore[operator]
    assert abs(found.error - best) < 1e-9


def test_protected_blocks_stay() -> None:
    found = search(6, 2, frozenset({0, 5}), additive([0.0, 9, 9, 9, 9, 0.0]))[-1]  # type: ignore[arg-type]
    assert found.kept == (0, 5)


def pairwise(choices: list[BlockSubset]) -> dict[BlockSubset, float]:
    """Leaving out 0 is cheapest alone, but 2 and 3 together cost nothing."""
    alone = {0: 1.0, 1: 5.0, 2: 2.0, 3: 2.0}
    errors = {}
    for kept in choices:
        left = {0, 1, 2, 3}.difference(kept)
        errors[kept] = 0.5 if left == {2, 3} else sum(alone[index] for index in left)
    return errors


def test_a_beam_sees_what_one_by_one_does_not() -> None:
    found = search(4, 2, frozenset(), pairwise, beam=3)
    assert [step.kept for step in found[2:]] == [(0, 1)], "without a swap"


def test_swaps_leave_a_dead_end() -> None:
    found = search(4, 2, frozenset(), pairwise, beam=1)
    assert found[2].kept == (1, 2), "one by one: first 0, then 3"
    assert found[-1].kept == (0, 1), "0 and 2 change places"
    assert [step.error for step in found] == [0.0, 1.0, 3.0, 0.5]


def test_at_full_depth_there_is_nothing_to_do() -> None:
    assert [step.kept for step in search(3, 3, frozenset(), pairwise)] == [(0, 1, 2)]
