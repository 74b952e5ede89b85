"""One strategy, two kinds of generator: every search runs unchanged on a flow model and on a token model."""

import re
from pathlib import Path

import numpy as np
import pytest

import sanac.search
from sanac.core.artifact.token_model import open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.judge.requests import requests_of
from sanac.judge.shapes import ShapesVerifier
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Noise
from sanac.runtime.stepwise import StepwiseSana
from sanac.search.generator_search import GeneratorSearch
from sanac.search.generators import Generator, Stepwise, any_stepwise, open_any_generator
from sanac.search.judging import SearchJudge
from sanac.search.pool import Origin, forwards
from sanac.search.strategies import STRATEGIES, SearchPlan
from sanac.tokens.generator import TokenGenerator
from sanac.tokens.sampling import TokenSampling

STEPS = 6
LOOKS = {"halving": (2, 4), "gated": (2, 4), "prm": (2, 4), "paths": (2, 4)}
STRATEGY_FILES = ("best_of", "halving", "gated", "two_stage", "reflection", "zero_order", "paths", "greedy")
KINDS = re.compile(r"sana\b|stepwisesana|show-?o|token|latent|flow|diffus|codebook|mask", re.IGNORECASE)


@pytest.fixture(scope="module", params=["flow", "tokens"])
def stepwise(request: pytest.FixtureRequest, pipeline: Path, token_model: Path) -> Stepwise:
    model = open_any_model(locate(str(pipeline if request.param == "flow" else token_model)))
    sampling = GenerationSettings(STEPS) if request.param == "flow" else TokenSampling(STEPS)
    return any_stepwise(open_any_generator(model, None, "torch", NULL_REPORTER), sampling)


def replayed(stepwise: Stepwise, prompt: str, origin: Origin) -> np.ndarray:
    images = stepwise.start([prompt], [origin.noise])
    for taken, restart in origin.restarts:
        while images.done < taken:
            images.advance()
        images = stepwise.restart([restart.prompt or prompt], images.guesses, [restart.noise], restart.step)
    found: np.ndarray = images.finish()[0]
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_runs_stays_in_its_budget_and_its_winner_follows_from_its_origin(
    stepwise: Stepwise, strategy: str
) -> None:
    (request,) = requests_of(["a circle above a square"])
    each = forwards(stepwise.costs)
    draft = any_stepwise(_generator(stepwise), _shorter(stepwise)) if strategy == "two-stage" else None
    before = stepwise.spent.forwards + (draft.spent.forwards if draft else 0)
    search = GeneratorSearch(request, stepwise, SearchJudge(ShapesVerifier()), 3, 5 * each, drafting=draft)
    plan = SearchPlan(strategy, 6, 3, LOOKS.get(strategy, ()), potential=0.02, until=0.9)
    found = plan.run(search, list(map(Noise, range(6))))
    spent = stepwise.spent.forwards + (draft.spent.forwards if draft else 0) - before
    assert found.candidates
    assert 0 < spent <= 5 * each
    winner = found.winner
    maker = draft if winner.origin.draft and draft else stepwise
    again = replayed(maker, request.prompt, winner.origin)
    assert winner.picture is not None
    assert np.abs(again.astype(int) - winner.picture).max() <= 1


def _generator(stepwise: Stepwise) -> Generator:
    return stepwise.generator if isinstance(stepwise, StepwiseSana) else TokenGenerator(stepwise.networks)


def _shorter(stepwise: Stepwise) -> GenerationSettings:
    return GenerationSettings(3) if isinstance(stepwise, StepwiseSana) else TokenSampling(3)


def test_gates_drop_rows_of_both(stepwise: Stepwise) -> None:
    (request,) = requests_of(["a circle above a square"])
    before = stepwise.spent.forwards
    search = GeneratorSearch(request, stepwise, SearchJudge(ShapesVerifier()), 4)
    found = SearchPlan("gated", 4, 4, (2, 4), potential=1.0).run(search, list(map(Noise, range(4))))
    assert len(found.candidates) + len(found.dropped) == 4
    assert len(found.candidates) == 1, "the most promising one, as none passes"
    costs = [cost.forwards for cost in stepwise.costs]
    assert stepwise.spent.forwards - before == 4 * sum(costs[:2]) + sum(costs[2:])


@pytest.mark.parametrize("name", [*STRATEGY_FILES, "pool", "strategies", "generator_search"])
def test_strategies_name_no_kind_of_generator(name: str) -> None:
    text = (Path(sanac.search.__path__[0]) / f"{name}.py").read_text()
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    assert not KINDS.findall(code)
