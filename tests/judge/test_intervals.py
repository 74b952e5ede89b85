"""Intervals against known values, against simulation, and against each other."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.intervals import (
    Interval,
    PromptScore,
    clustered_share,
    mean,
    normal_interval,
    overall,
    paired_difference,
    wilson,
)
from tests.judge.worlds import law


def scored(right: list[float] | np.ndarray, task: str = "a", images: int = 1) -> list[PromptScore]:
    return [PromptScore(task, f"prompt {index}", float(value), images) for index, value in enumerate(right)]


def ends(interval: Interval) -> tuple[float, float]:
    return (interval.low, interval.high)


@pytest.mark.parametrize(
    ("successes", "trials", "level", "low", "high"),
    [
        (8, 10, 0.95, 0.490162, 0.943318),
        (0, 10, 0.95, 0.0, 0.277533),
        (10, 10, 0.95, 0.722467, 1.0),
        (1, 2, 0.95, 0.094531, 0.905469),
        (81, 263, 0.95, 0.2553, 0.3662),  # Newcombe 1998, table I
        (8, 10, 0.90, 0.540793, 0.931442),
    ],
)
def test_wilson_as_published(successes: int, trials: int, level: float, low: float, high: float) -> None:
    interval = wilson(successes, trials, level)
    assert ends(interval) == pytest.approx((low, high), abs=5e-5)
    assert (interval.value, interval.n, interval.level) == (successes / trials, trials, level)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share_and_mirrors(counts: tuple[int, int]) -> None:
    successes, trials = counts
    one, other = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert ends(one) == pytest.approx((1 - other.high, 1 - other.low))
    z, p = 1.959964, successes / trials
    for bound in ends(one):  # where the normal test of the bound just doesn't reject
        assert abs(p - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / trials), abs=1e-6)


def test_it_prints_itself() -> None:
    assert str(Interval(0.8123, 0.7949, 0.8281, 0.95, 2048)) == "0.812 [0.795, 0.828]"
    assert normal_interval(1.0, 0.1, 5).to_json() == {
        "value": 1.0,
        "low": pytest.approx(0.804, abs=1e-4),
        "high": pytest.approx(1.196, abs=1e-4),
        "level": 0.95,
        "n": 5,
    }


def test_one_picture_per_prompt_is_wilson() -> None:
    assert clustered_share(scored([1] * 8 + [0] * 2)) == wilson(8, 10)
    assert clustered_share(scored([1] * 10)) == wilson(10, 10)


def test_copies_of_a_picture_are_no_evidence() -> None:
    assert clustered_share(scored([4] * 8 + [0] * 2, images=4)) == wilson(8, 10)
    assert clustered_share(scored([4] * 10, images=4)) == wilson(10, 10)
    single = [overall(scored(np.arange(60) % 3 * images / 2, images=images)) for images in (2, 4)]
    assert single[0] == single[1]


def test_pictures_that_differ_are_evidence() -> None:
    right = np.random.default_rng(0).binomial(4, 0.5, 200).astype(float)
    width = np.diff(ends(clustered_share(scored(right, images=4))))[0]
    assert np.diff(ends(wilson(400, 800)))[0] * 0.95 < width < np.diff(ends(wilson(100, 200)))[0] * 0.75
    half = clustered_share(scored([2.0] * 50, images=4))  # the prompts don't differ at all
    assert ends(half) == ends(wilson(100, 200))


def test_overall_is_the_mean_of_tasks() -> None:
    scores = [*scored([1] * 9 + [0], "a"), *scored([0, 0, 1, 0], "b", images=1)]
    assert overall(scores).value == pytest.approx((0.9 + 0.25) / 2)
    mixed = [PromptScore("a", "x", 4, 4), PromptScore("a", "y", 0, 1)]  # a task's pictures are worth the same
    assert overall(mixed).value == pytest.approx(4 / 5)


def test_tasks_are_redrawn_apart() -> None:
    interval = overall([*scored([1] * 20, "a"), *scored([0] * 5, "b")])
    assert ends(interval) == (0.5, 0.5)


def test_both_tails_hold_the_same() -> None:
    for level, z in ((0.95, 1.95996), (0.5, 0.67449)):
        interval = overall(scored([1] * 1800 + [0] * 200), level, seed=1)
        error = math.sqrt(0.9 * 0.1 / 2000)
        assert ends(interval) == pytest.approx((0.9 - z * error, 0.9 + z * error), abs=1e-3)


def test_bootstrap_covers_what_it_promises() -> None:
    rng = np.random.default_rng(3)
    missed = np.zeros(2)
    for seed in range(300):
        hard = rng.beta(2, 2, 120)  # prompts differ, their four pictures share that
        right = rng.binomial(4, hard).astype(float)
        interval = overall([*scored(right[:40], "a", 4), *scored(right[40:], "b", 4)], resamples=400, seed=seed)
        missed += (interval.low > 0.5, interval.high < 0.5)
    assert 0.01 < missed[0] / 300 < 0.055
    assert 0.01 < missed[1] / 300 < 0.055


def pair(seed: int, gain: float) -> tuple[list[PromptScore], list[PromptScore]]:
    """Two systems on 200 prompts, of which most are easy or hard for both."""
    rng = np.random.default_rng(seed)
    before = rng.random(200) < 0.6
    after = np.where(rng.random(200) < gain, True, before)
    tasks = ["a", "b"]
    make = [
        [PromptScore(tasks[index % 2], f"prompt {index}", float(value), 1) for index, value in enumerate(values)]
        for values in (after, before)
    ]
    return make[0], make[1]


@law
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.02, 0.2]))
def test_the_other_way_round_is_the_opposite(seed: int, gain: float) -> None:
    after, before = pair(seed, gain)
    one, other = paired_difference(after, before, resamples=300), paired_difference(before, after, resamples=300)
    assert one.interval.value == -other.interval.value
    assert ends(one.interval) == pytest.approx((-other.interval.high, -other.interval.low), abs=1e-12)
    assert one.below_zero + other.below_zero <= 1
    assert one.interval.value >= 0 >= other.interval.value


def test_pairs_see_what_two_intervals_don_t() -> None:
    after, before = pair(0, 0.15)
    difference = paired_difference(after, before)
    assert difference.interval.value == pytest.approx(overall(after).value - overall(before).value)
    assert difference.interval.low > 0
    assert overall(after).low < overall(before).high
    assert difference.below_zero < 0.01
    assert paired_difference(before, after).below_zero > 0.95
    assert difference.to_json()["below_zero"] == difference.below_zero


def test_a_system_does_not_differ_from_itself() -> None:
    scores = [*scored(np.arange(30) % 7 / 7, "a"), *scored(np.arange(30) % 3 / 3, "b")]
    same = paired_difference(scores, scores)
    assert (same.interval.value, *ends(same.interval), same.below_zero) == (0, 0, 0, 0)
    exchanged = [replace(score, right=0.1 if score.task == "a" else 0.2) for score in scores]
    back = [replace(score, right=0.2 if score.task == "a" else 0.1) for score in scores]
    assert paired_difference(exchanged, back).below_zero == 0  # a tie, whatever rounding says


def test_the_order_of_prompts_means_nothing_and_the_seed_everything() -> None:
    after, before = pair(1, 0.1)
    assert overall(after[::-1]) == overall(after)
    assert paired_difference(after[::-1], before) == paired_difference(after, before)
    assert overall(after, resamples=200, seed=1) != overall(after, resamples=200, seed=2)


def test_what_cannot_be_paired_or_counted() -> None:
    with pytest.raises(InvalidInput, match="not given the same prompts") as caught:
        paired_difference(scored([1, 0, 1]), scored([1, 0]))
    assert caught.value.problems == ("prompt 2 (a)",)
    with pytest.raises(InvalidInput, match="no scores"):
        overall([])
    with pytest.raises(UsageError, match="two scores"):
        overall(scored([1]) * 2)
    for broken in (PromptScore("a", "x", 2, 1), PromptScore("a", "x", 0, 0), PromptScore("a", "x", math.nan, 1)):
        with pytest.raises(UsageError, match="not between"):
            overall([broken])
    with pytest.raises(UsageError, match="too few"):
        overall(scored([1]), resamples=5)
    with pytest.raises(UsageError, match="not a share"):
        wilson(3, 2)
    for level in (0, 1, 95, math.nan):
        with pytest.raises(UsageError, match="not a level"):
            overall(scored([1]), level)


def test_the_mean_s_draws_do_not_depend_on_the_memory_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [*np.random.default_rng(3).random(50)]
    whole = mean(values)
    assert whole.low < whole.value < whole.high
    monkeypatch.setattr("sanac.judge.intervals._CELLS", 1234)
    assert mean(values) == whole
