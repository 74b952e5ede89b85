"""Every strategy finds a known optimum, within its budget to the last forward pass, and pays for what runs only."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sanac.nn.stepwise import Noise
from sanac.search.halving import cost_of, kept_of
from sanac.search.pool import Found, forwards
from sanac.search.strategies import STRATEGIES, SearchPlan, default_looks
from tests.search.number_generator import STEPS, Near, NumberGenerator, number_search, value_of

N = 16
ONE = forwards(NumberGenerator().costs)  # forward passes of a candidate: 2 x 4 + 4


def noises(count: int = N, first: int = 0) -> list[Noise]:
    return [Noise(seed) for seed in range(first, first + count)]


def plan_of(strategy: str, n: int = N, **more: object) -> SearchPlan:
    return SearchPlan(strategy, n, 3, default_looks(strategy, STEPS), **more)  # type: ignore[arg-type]


def searched(strategy: str, allowed: int | None = None, n: int = N, **more: object) -> tuple[Found, NumberGenerator]:
    one = number_search(allowed)
    one.drafting = NumberGenerator(each=1)
    found = plan_of(strategy, n, **more).run(one, noises(n))
    assert isinstance(one.generator, NumberGenerator)
    spent = one.generator.spent.forwards + one.drafting.spent.forwards
    assert one.left is None or one.left == (allowed or 0) - spent >= 0
    return found, one.generator


@pytest.mark.parametrize(
    "strategy", ["best-of", "halving", "gated", "two-stage", "reflection", "zero-order", "paths", "prm"]
)
def test_the_optimum_is_found(strategy: str) -> None:
    """The best of all noises, or something better where images are changed."""
    found, _ = searched(strategy, n=64 if strategy == "zero-order" else N, potential=0.8, cosine=0.6)
    known = max(1 - abs(value_of(noise) - 70) / 100 for noise in noises())
    if strategy in {"best-of", "halving", "gated", "two-stage"}:
        assert found.winner.score == pytest.approx(known, abs=0.006)
    elif strategy in {"reflection", "zero-order", "paths"}:
        assert found.winner.score >= 0.93
    else:
        first = 1 - abs(value_of(Noise(0)) - 70) / 100
        assert found.winner.score > first + 0.2, "better than the path that it began with"
    assert found.winner is max(found.candidates, key=lambda one: one.score)


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    allowed=st.integers(0, 16 * ONE),
    n=st.integers(1, N),
    batch=st.integers(1, 5),
)
@example(strategy="prm", allowed=ONE, n=5, batch=1)
@settings(max_examples=300, deadline=None)
def test_a_budget_is_never_exceeded(strategy: str, allowed: int, n: int, batch: int) -> None:
    """Counted in the generator, not in the strategy; with enough for one image there is one."""
    one = number_search(allowed, batch=batch)
    one.drafting = NumberGenerator(each=1)
    found = plan_of(strategy, n).run(one, noises(n))
    spent = one.generator.spent.forwards + one.drafting.spent.forwards
    assert spent <= allowed
    assert bool(found.candidates) == (allowed >= ONE)
    assert len(one.generator.started) + len(one.drafting.started) <= n + 1


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_out_of_time_there_is_one_image(strategy: str) -> None:
    one = number_search(clock=lambda: False)
    one.drafting = NumberGenerator(each=1)
    found = plan_of(strategy, potential=2.0).run(one, noises())
    assert found.candidates


@pytest.mark.parametrize("strategy", ["halving", "prm"])
def test_out_of_time_only_one_candidate_is_begun(strategy: str) -> None:
    one = number_search(clock=lambda: False)
    plan_of(strategy).run(one, noises())
    assert isinstance(one.generator, NumberGenerator)
    assert len(one.generator.started) == 1


def test_losers_cost_nothing_any_more() -> None:
    cuts = ((2, 0.5), (5, 0.5))
    one = number_search()
    found = SearchPlan("halving", 8, 3, (2, 5)).run(one, noises(8))
    assert len(found.candidates) == 2
    assert [len([drop for drop in found.dropped if drop.step == step]) for step in (2, 5)] == [4, 2]
    costs = one.generator.costs
    expected = 8 * forwards(costs[:2]) + 4 * forwards(costs[2:5]) + 2 * forwards(costs[5:])
    assert one.generator.spent.forwards == expected == cost_of(8, costs, cuts)
    assert one.generator.spent.decodes == 8 + 4 + 2
    assert one.judge.calls == 8 + 4 + 2


@given(st.integers(1, 64), st.floats(0.01, 1.0))
def test_halving_never_empties_a_pool(count: int, share: float) -> None:
    assert 1 <= kept_of(count, share) <= count


def test_gates_pay_for_further_candidates() -> None:
    """What dropped candidates save is spent on new ones."""
    strict, _ = searched("gated", 6 * ONE, potential=0.85)
    plain, _ = searched("best-of", 6 * ONE)
    assert len(plain.candidates) == 6
    assert len(strict.candidates) + len(strict.dropped) > 6
    assert strict.dropped


def test_no_candidate_passes_the_gates_and_the_most_promising_one_is_finished() -> None:
    found, _ = searched("gated", n=3, potential=1.5)
    assert len(found.candidates) == 1
    assert len(found.dropped) == 2
    assert found.candidates[0].score == max(1 - abs(value_of(noise) - 70) / 100 for noise in noises(3))


def test_an_unclear_preview_is_not_asked_and_a_clear_one_once() -> None:
    one = number_search()
    found = SearchPlan("gated", 4, 4, (1, 3, 5, 7), clarity=0.6, potential=0.0).run(one, noises(4))
    assert len(found.candidates) == 4
    assert one.judge.calls == 4 * 4 + 4, "at 1 - noise = 0.625 all are clear, so the step after is not looked at"


def test_draws_until_the_judge_is_sure() -> None:
    found, generator = searched("best-of", until=0.9)
    scores = [1 - abs(value_of(noise) - 70) / 100 for noise in noises()]
    expected = next(place for place, score in enumerate(scores) if score >= 0.9) + 1
    assert len(found.candidates) == len(generator.started) == expected < N


def test_the_draft_is_kept_where_it_was_better() -> None:
    """Of two stages with equal images the draft's comes first, and equal scores keep it."""
    found, generator = searched("two-stage")
    assert found.winner.origin.draft
    assert len(generator.started) == 1
    assert found.candidates[-1].origin.draft is False
    assert found.candidates[-1].origin.noise == found.winner.origin.noise


def test_reflection_adds_the_reason_and_stops_when_it_is_satisfied() -> None:
    found, generator = searched("reflection", until=0.99)
    changed = [one for one in found.candidates if one.origin.restarts]
    assert changed
    assert {restart.prompt for one in changed for _, restart in one.origin.restarts} == {"a number, more"}
    assert "a number, more" in generator.prompts
    easy, _ = searched("reflection", until=0.5)
    assert len(easy.candidates) == N // 2


def test_neighbours_turn_around_the_best_noise_so_far() -> None:
    found, generator = searched("zero-order")
    turned = [noise for noise in generator.started if noise.turns]
    assert len(turned) == N - 1
    assert [len(noise.turns) for noise in turned] == sorted(len(noise.turns) for noise in turned)
    assert all(cosine == 0.95 for noise in turned for _, cosine in noise.turns)
    assert found.winner.score > 1 - abs(value_of(Noise(0)) - 70) / 100


@pytest.mark.parametrize(("n", "branches"), [(1, 1), (6, 2), (11, 3), (16, 4)])
def test_greedy_steps_use_every_noise(n: int, branches: int) -> None:
    """At each of five looks all branches but the present one begin with a noise of their own."""
    one = number_search()
    SearchPlan("prm", n, 3, (1, 3, 4, 6, 7)).run(one, noises(n))
    assert isinstance(one.generator, NumberGenerator)
    assert len(one.generator.started) == n == 1 + 5 * (branches - 1)


def test_paths_record_where_they_turned() -> None:
    found, _ = searched("paths")
    assert any(one.origin.restarts for one in found.candidates)
    taken = [taken for one in found.candidates for taken, _ in one.origin.restarts]
    assert taken == sorted(taken) or len(found.candidates) > 1
    assert all(restart.step < taken for one in found.candidates for taken, restart in one.origin.restarts)


def test_a_verifier_of_finished_images_reads_previews_too() -> None:
    one = number_search(verifier=Near())
    found = plan_of("halving").run(one, noises())
    assert found.winner.score == pytest.approx(
        max(1 - abs(value_of(noise) - 70) / 100 for noise in noises()), abs=0.006
    )


@pytest.mark.parametrize(("steps", "looks"), [(20, (8, 13)), (2, (1,)), (1, ()), (4, (2, 3))])
def test_looks_fit_any_number_of_steps(steps: int, looks: Sequence[int]) -> None:
    assert default_looks("halving", steps) == tuple(looks)
