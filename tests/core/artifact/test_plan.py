"""Laws of plans."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.plan import BlockPlan, Keep, New, from_json, keep_blocks, ranges_text
from sanac.core.errors import InvalidInput, UsageError


@st.composite
def plans(draw: st.DrawFn, source: int | None = None) -> BlockPlan:
    blocks = source or draw(st.integers(1, 60))
    kept = st.builds(Keep, st.integers(0, blocks - 1))
    new = st.builds(New, st.just("partial"), st.integers(0, 2**70), st.integers(0, 99))
    origins = draw(st.lists(kept | new, min_size=1, max_size=60))
    norm = draw(st.booleans())
    config = (("num_layers", len(origins)), *([("qk_norm", "rms_norm_across_heads")] if norm else []))
    return BlockPlan(blocks, tuple(origins), config)


@given(plans())
def test_a_plan_survives_json(plan: BlockPlan) -> None:
    assert from_json(json.loads(json.dumps(plan.to_json())), "here") == plan


@given(plans())
def test_equal_plans_have_equal_hashes(plan: BlockPlan) -> None:
    again = from_json(plan.to_json(), "here")
    assert hash(plan) == hash(again)
    assert str(plan) == str(again)


@given(st.data())
def test_one_plan_after_another_is_one_plan(data: st.DataObject) -> None:
    first = data.draw(plans())
    second = data.draw(plans(len(first.blocks)))
    third = data.draw(plans(len(second.blocks)))
    assert first.then(second).then(third) == first.then(second.then(third))
    blocks = [f"weights of {index}" for index in range(first.source_blocks)]
    assert applied(first.then(second), blocks) == applied(second, applied(first, blocks))


def applied(plan: BlockPlan, blocks: list[str]) -> list[str]:
    return [blocks[o.block] if isinstance(o, Keep) else f"made from {o!r}" for o in plan.blocks]


def test_a_new_block_is_what_it_is_wherever_it_stands_later() -> None:
    grown = BlockPlan(2, (Keep(0), New("partial", 3, 1), New("partial", 3, 2)))
    assert grown.then(keep_blocks(3, [2, 0])).blocks == (New("partial", 3, 2), Keep(0))
    assert grown.sources == (0, None, None)


@given(st.integers(1, 60))
def test_keeping_all_changes_nothing(blocks: int) -> None:
    plan = keep_blocks(blocks, range(blocks))
    assert plan.then(plan) == plan


def test_it_prints_itself() -> None:
    assert str(keep_blocks(60, [*range(10), *range(50, 60)])) == "60 -> 20 blocks: keep 0-9, 50-59; num_layers = 20"
    new = [New("partial", 7, number) for number in (4, 5, 6)]
    grown = BlockPlan(6, (*map(Keep, range(4)), *new, New("partial", 8, 0), Keep(5)), (("num_layers", 9),))
    assert str(grown) == (
        "6 -> 9 blocks: keep 0-3, new 4-6 (partial, seed 7), new 0 (partial, seed 8), keep 5; num_layers = 9"
    )
    assert ranges_text([3, 1, 2, 2, 5]) == "3, 1, 2 twice, 5"
    assert ranges_text([0, 1, 2, 0, 1, 2]) == "0-2, 0-2"
    assert ranges_text([0, 0, 0, 1, 1, 1, 2, 2, 9, 9]) == "0-1 3 times each, 2 twice, 9 twice"


@given(st.lists(st.integers(0, 9)))
def test_what_it_prints_of_blocks_tells_them(numbers: list[int]) -> None:
    found: list[int] = []
    for word in filter(None, ranges_text(numbers).split(", ")):
        span, _, often = word.partition(" ")
        first, _, last = span.partition("-")
        times = 2 if often.startswith("twice") else int(often.split()[0]) if often else 1
        found += [block for block in range(int(first), int(last or first) + 1) for _ in range(times)]
    assert found == numbers


def test_what_cannot_be_executed_is_not_constructed() -> None:
    with pytest.raises(UsageError, match="keeps no block"):
        BlockPlan(4, ())
    with pytest.raises(UsageError, match="no block 4, 9"):
        BlockPlan(4, (Keep(9), Keep(0), Keep(4)))
    with pytest.raises(UsageError, match="can't be composed"):
        keep_blocks(4, [0, 1]).then(keep_blocks(3, [0]))
    with pytest.raises(UsageError, match="no rule 'magic'"):
        New("magic", 0, 0)
    for seed, number in ((-1, 0), (0, -1)):
        with pytest.raises(UsageError, match="can't be negative"):
            New("partial", seed, number)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"schema": 2, "source_blocks": 4, "blocks": [], "config": {}},
        {"schema": 1, "source_blocks": "4", "blocks": [{"keep": 0}], "config": {}},
        {"schema": 1, "source_blocks": 4, "blocks": [{"keep": -1}], "config": {}},
        {"schema": 1, "source_blocks": 4, "blocks": [{"keep": True}], "config": {}},
        {"schema": 1, "source_blocks": 4, "blocks": [{"grow": 1}], "config": {}},
        *(
            {"schema": 1, "source_blocks": 4, "blocks": [{"keep": 0}, origin], "config": {}}
            for origin in (
                {"new": 4},
                {"new": 4, "rule": "magic", "seed": 0},
                {"new": 4, "rule": 1, "seed": 0},
                {"new": 4, "rule": "partial", "seed": -1},
                {"new": 4, "rule": "partial", "seed": 1.0},
                {"new": 4, "rule": "partial", "seed": True},
                {"new": "4", "rule": "partial", "seed": 0},
                {"new": -4, "rule": "partial", "seed": 0},
                {"new": 4, "rule": "partial", "seed": 0, "keep": 0},
                {"new": None, "rule": "partial", "seed": 0},
            )
        ),
        {"schema": 1, "source_blocks": 4, "blocks": [{"keep": 0}], "config": []},
    ],
)
def test_a_broken_plan_is_bad_input(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"plan in x\.json is broken"):
        from_json(value, "x.json")
