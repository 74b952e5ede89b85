"""Simulated searches are real ones: the same winners at the same cost, by the same code over recorded scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.judge.requests import requests_of
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import Request
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Noise
from sanac.runtime.pipeline import open_generator
from sanac.runtime.stepwise import StepwiseSana
from sanac.search.generator_search import GeneratorSearch
from sanac.search.judging import SearchJudge
from sanac.search.recorded import Matrix, RecordedSearch, simulate
from sanac.search.strategies import SearchPlan
from tests.search.number_generator import STEPS, NearPreviews, NumberGenerator

N = 12


def recorded(generator: StepwiseSana | NumberGenerator, judge: SearchJudge, requests: list[Request], n: int) -> Matrix:
    """Everything that the judge says, step by step."""
    clarity, potential, scores = [], [], []
    for request in requests:
        images = generator.start([request.prompt] * n, [Noise(seed) for seed in range(n)])
        readings = []
        while images.done < images.steps:
            images.advance()
            readings.append(judge.read([images], request))
        clarity.append([[one.clarity for one in step] for step in readings])
        potential.append([[one.potential for one in step] for step in readings])
        scores.append(judge.score(list(images.finish()), request))
    right = np.asarray(scores)
    return Matrix(
        tuple(request.prompt for request in requests),
        ("task",) * len(requests),
        generator.costs,
        np.asarray(clarity).transpose(0, 2, 1),
        np.asarray(potential).transpose(0, 2, 1),
        right,
        right,
    )


@pytest.fixture(scope="module")
def numbers() -> Matrix:
    return recorded(NumberGenerator(), SearchJudge(NearPreviews()), [Request("a number")], N)


@given(
    strategy=st.sampled_from(["best-of", "halving", "gated"]),
    n=st.integers(1, N),
    allowed=st.one_of(st.none(), st.integers(12, 150)),
    looks=st.sets(st.integers(1, STEPS - 1), min_size=1, max_size=3),
    share=st.floats(0.1, 1.0),
    gate=st.floats(0.0, 1.0),
    until=st.one_of(st.none(), st.floats(0.5, 1.0)),
)
@settings(max_examples=120, deadline=None)
def test_a_simulated_search_is_the_real_one(
    numbers: Matrix,
    strategy: str,
    n: int,
    allowed: int | None,
    looks: set[int],
    share: float,
    gate: float,
    until: float | None,
) -> None:
    plan = SearchPlan(strategy, n, 3, tuple(sorted(looks)), share, gate, gate, until)
    noises = [Noise(seed) for seed in range(n)]
    real = GeneratorSearch(Request("a number"), NumberGenerator(), SearchJudge(NearPreviews()), 3, allowed)
    played = RecordedSearch(numbers, 0, allowed)
    first, second = plan.run(real, noises), plan.run(played, noises)
    assert [(one.origin, one.score) for one in first.candidates] == [
        (one.origin, pytest.approx(one.score)) for one in second.candidates
    ]
    assert first.dropped == second.dropped
    spent = real.generator.spent
    assert (spent.forwards, spent.block_forwards, spent.decodes) == tuple(played.spent)


def test_with_a_diffusion_model_too() -> None:
    generator = open_generator(open_model(locate("sanac:tiny")))
    requests = requests_of(["a red circle and a blue square", "three green triangles"])
    stepwise = StepwiseSana(generator, GenerationSettings(8, batch=8))
    judge = SearchJudge(ShapesVerifier())
    matrix = recorded(stepwise, judge, requests, 6)
    plan = SearchPlan("halving", 6, 4, (3, 5))
    for number, request in enumerate(requests):
        real = plan.run(GeneratorSearch(request, stepwise, judge, 4), [Noise(seed) for seed in range(6)])
        played = plan.run(RecordedSearch(matrix, number), [Noise(seed) for seed in range(6)])
        assert [one.origin for one in real.candidates] == [one.origin for one in played.candidates]
        assert real.winner.origin == played.winner.origin


def test_groups_of_noises_are_searched_in_turn(numbers: Matrix) -> None:
    found = simulate(numbers, SearchPlan("best-of", 4, 4))
    (score,) = found.scores
    groups = numbers.right[0].reshape(3, 4).max(axis=1)
    assert (score.right, score.images) == (pytest.approx(groups.sum()), 3)
    assert found.forwards == 4 * sum(cost.forwards for cost in numbers.costs)
    with pytest.raises(UsageError, match="13 noises are more than the 12"):
        simulate(numbers, SearchPlan("best-of", 13, 4))
    with pytest.raises(UsageError, match="can't be simulated"):
        simulate(numbers, SearchPlan("paths", 12, 4, (4,)))
