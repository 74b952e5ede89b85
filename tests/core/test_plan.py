"""Laws of plans."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import BadInput, Misuse
from sanac.core.plan import Keep, Plan, from_json, keep_blocks, ranges_text


@st.composite
def plans(draw: st.DrawFn, source: int | None = None) -> Plan:
    blocks = source or draw(st.integers(1, 60))
    return keep_blocks(blocks, draw(st.lists(st.integers(0, blocks - 1), min_size=1, max_size=60)))


@given(plans())
def test_a_plan_survives_json(plan: Plan) -> None:
    assert from_json(json.loads(json.dumps(plan.to_json())), "here") == plan


@given(plans())
def test_equal_plans_have_equal_hashes(plan: Plan) -> None:
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
    one_by_one = [[blocks[o.block] for o in first.blocks][o.block] for o in second.blocks]
    assert [blocks[o.block] for o in first.then(second).blocks] == one_by_one


@given(st.integers(1, 60))
def test_keeping_all_changes_nothing(blocks: int) -> None:
    plan = keep_blocks(blocks, range(blocks))
    assert plan.then(plan) == plan


def test_it_prints_itself() -> None:
    assert str(keep_blocks(60, [*range(10), *range(50, 60)])) == "60 -> 20 blocks: keep 0-9, 50-59; num_layers = 20"
    assert ranges_text([3, 1, 2, 2, 5]) == "3, 1-2, 2, 5"


def test_what_cannot_be_executed_is_not_constructed() -> None:
    with pytest.raises(Misuse, match="keeps no block"):
        Plan(4, ())
    with pytest.raises(Misuse, match="no block 4, 9"):
        Plan(4, (Keep(9), Keep(0), Keep(4)))
    with pytest.raises(Misuse, match="don't follow"):
        keep_blocks(4, [0, 1]).then(keep_blocks(3, [0]))


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
        {"schema": 1, "source_blocks": 4, "blocks": [{"keep": 0}], "config": []},
    ],
)
def test_a_broken_plan_is_bad_input(value: object) -> None:
    with pytest.raises(BadInput, match=r"plan in x\.json is broken"):
        from_json(value, "x.json")
