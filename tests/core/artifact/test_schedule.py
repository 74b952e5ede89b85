"""schedule.json: read back as written, refused where it isn't one, and moved with the blocks of its model."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.model import open_model
from sanac.core.artifact.plan import BlockPlan, Keep, New, keep_blocks
from sanac.core.artifact.schedule import SCHEDULE, Schedule, plain, schedule_from_json
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from tests.conftest import Sanac

RISING = Schedule((0, 1, 3, 2, 5, 4), (999, 800, 500, 200), (2, 3, 5, 6), (True, True, False, False))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    blocks, steps = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    levels = sorted(draw(st.lists(st.integers(0, 1000), min_size=steps, max_size=steps)), reverse=True)
    depths = draw(st.lists(st.integers(1, blocks), min_size=steps, max_size=steps))
    guided = draw(st.lists(st.booleans(), min_size=steps, max_size=steps))
    order = draw(st.permutations(range(blocks)))
    return Schedule(tuple(order), tuple(levels), tuple(depths), tuple(guided))


@given(schedules())
def test_a_schedule_is_read_as_it_was_written(schedule: Schedule) -> None:
    value = json.loads(json.dumps(schedule.to_json()))
    assert schedule_from_json(value, "x", len(schedule.order)) == schedule


@given(schedules(), st.data())
def test_depths_are_prefixes_of_one_order(schedule: Schedule, data: st.DataObject) -> None:
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(schedule.order))] * 2)))
    assert set(schedule.kept(small)) <= set(schedule.kept(large))
    assert len(schedule.kept(small)) == small


@given(schedules(), st.data())
def test_pruning_leaves_of_each_step_the_blocks_that_are_left(schedule: Schedule, data: st.DataObject) -> None:
    blocks = len(schedule.order)
    kept = sorted(data.draw(st.sets(st.integers(0, blocks - 1), min_size=1)))
    left = [[block for block in schedule.kept(depth) if block in kept] for depth in schedule.blocks]
    if not all(left):
        with pytest.raises(UsageError, match="runs no block of this plan"):
            schedule.after(keep_blocks(blocks, kept))
        return
    after = schedule.after(keep_blocks(blocks, kept))
    assert [[kept[block] for block in after.kept(depth)] for depth in after.blocks] == left
    assert after.guided == schedule.guided


@given(schedules(), st.integers(1, 4))
def test_grouping_adds_the_fewest_blocks(schedule: Schedule, most: int) -> None:
    found = schedule.grouped(most)
    assert found[-1] == schedule.depths[-1]
    assert len(found) <= most
    every = [one for size in range(1, most + 1) for one in combinations(schedule.depths, size)]
    costs = [schedule.deepened(one).forwards for one in every if one[-1] == schedule.depths[-1]]
    assert schedule.deepened(found).forwards == min(costs)


def test_costs_and_words() -> None:
    assert RISING.forwards == 2 + 3 + 2.5 + 3
    assert str(RISING) == "4 steps of 2 3 5 6 blocks, guided in the first 2: 10.5 block-forwards per picture"
    assert plain(6, (999, 500)).whole
    assert str(plain(6, (999, 500))) == "2 steps of 6 blocks, all guided: 12 block-forwards per picture"


def test_other_steps_take_the_nearest_noise_level() -> None:
    assert [RISING.step_at(level) for level in (1000, 900, 899, 650, 0)] == [0, 0, 1, 2, 3]
    assert [RISING.blocks[RISING.step_at(level)] for level in (999, 950, 300)] == [2, 2, 6]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "its schema is 2"),
        ({"order": [0, 1, 2, 3, 4, 4]}, "not a permutation"),
        ({"order": [0, 1]}, "it orders 2 blocks, the model has 6"),
        ({"order": [0, 1, 2, 3, 4, True]}, "True is not an integer"),
        ({"steps": []}, "it has 0 steps"),
        ({"steps": [{"noise": 5, "blocks": 7, "guided": 1}]}, "a step runs 7 to 7 of 6 blocks"),
        ({"steps": [{"noise": 5, "blocks": 0, "guided": 1}]}, "a step runs 0 to 0 of 6 blocks"),
        ({"steps": [{"noise": 2000, "blocks": 6, "guided": 1}]}, "noise levels don't fall"),
        ({"steps": [{"noise": 5, "blocks": 6, "guided": 2}]}, "guided is 0 or 1"),
        ({"steps": [{"noise": 5, "blocks": 6}]}, "guided"),
        ({"steps": [{"noise": 5.5, "blocks": 6, "guided": 1}]}, "5.5 is not an integer"),
        ({"steps": 3}, "not iterable"),
        ({"guidance_inside": 4.5}, "with guided steps"),
        ({"guidance_inside": "much"}, "guidance_inside is 'much'"),
    ],
)
def test_a_wrong_schedule_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match="x is not a schedule") as refused:
        schedule_from_json(RISING.to_json() | change, "x", 6)
    assert why in refused.value.why


@pytest.mark.parametrize(
    "plan", [BlockPlan(6, (*map(Keep, range(6)), New("partial", 0, 6))), BlockPlan(6, tuple(map(Keep, (0, 0, 1))))]
)
def test_a_schedule_does_not_survive_growth(plan: BlockPlan) -> None:
    with pytest.raises(UsageError, match="new blocks are not part of"):
        RISING.after(plan)


def test_a_foreign_folder_may_have_one_and_an_artifact_only_its_own(
    sanac: Sanac, pipeline: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "model"))
    before = open_model(locate(str(folder))).identity()
    (folder / SCHEDULE).write_text(json.dumps(RISING.to_json()))
    opened = open_model(locate(str(folder)))
    assert opened.schedule == RISING
    assert opened.identity() != before, "what samples otherwise is another model"
    assert sanac("prune", folder, "--keep", "0-4", "--out", "pruned").code == 0
    pruned = open_model(locate("pruned"))
    assert pruned.schedule == RISING.after(keep_blocks(6, range(5)))
    assert "0.1 sanac" not in str(pruned.manifest)
    assert sanac("quantize", "pruned", "--scheme", "int8-wo", "--out", "small").code == 0
    assert open_model(locate("small")).schedule == pruned.schedule
    ran = sanac("grow", folder, "--target-blocks", "8", "--out", "grown")
    assert ran.code == 2
    assert "sanac schedule on the result" in ran.err
    assert sanac("prune", pipeline, "--keep", "0-4", "--out", "plain").code == 0
    (tmp_path / "plain" / SCHEDULE).write_text(json.dumps(RISING.to_json()))
    ran = sanac("prune", "plain", "--keep", "0-2", "--out", "more")
    assert ran.code == 3
    assert f"{SCHEDULE} was added" in ran.err
