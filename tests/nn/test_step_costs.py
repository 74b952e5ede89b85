"""What a step takes is known from files alone: the same as the opened generator says, with a schedule and without."""

import shutil
from pathlib import Path

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.artifact.schedule import SCHEDULE, Schedule
from sanac.core.checkpoint.locate import locate
from sanac.core.json_files import pretty
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.nn.step_costs import step_costs
from sanac.nn.stepwise import StepCost
from sanac.runtime.pipeline import open_generator
from sanac.runtime.stepwise import StepwiseSana


@pytest.mark.parametrize(("steps", "guidance"), [(4, 4.5), (7, 4.5), (4, 1.0)])
def test_files_say_what_the_generator_says(tmp_path: Path, steps: int, guidance: float) -> None:
    plain = open_model(locate("sanac:tiny"))
    generator = open_generator(plain, "cpu")
    assert step_costs(plain, steps, guidance) == StepwiseSana(generator, GenerationSettings(steps, guidance)).costs
    folder = tmp_path / "scheduled"
    shutil.copytree(locate("sanac:tiny").path, folder)
    made = Schedule(tuple(range(12)), noise_levels(plain, 4), (4, 6, 9, 12), (True, True, False, False))
    (folder / SCHEDULE).write_bytes(pretty(made.to_json()))
    scheduled = open_model(locate(str(folder)))
    opened = StepwiseSana(open_generator(scheduled, "cpu"), GenerationSettings(steps, guidance))
    assert step_costs(scheduled, steps, guidance) == opened.costs
    if (steps, guidance) == (4, 4.5):
        assert step_costs(scheduled, None, guidance) == opened.costs
        assert sum(cost.block_forwards for cost in opened.costs) / 2 == made.forwards
        fewer = step_costs(scheduled, None, guidance, blocks=5)
        assert fewer == (StepCost(2, 8), StepCost(2, 10), StepCost(1, 5), StepCost(1, 5)), "at most"
