"""Rank correlations against their definitions, pair by pair, and against known values."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.judge.rank_statistics import kendall, overlap, ranks, spearman
from sanac.judge.shapes import grades
from sanac.shapes.prompts import suite
from sanac.verify.shapes_suite import rendered

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


def slow_kendall(one: list[int], other: list[int]) -> float | None:
    score = free_one = free_other = 0
    for (a, x), (b, y) in itertools.combinations(zip(one, other, strict=True), 2):
        score += (a > b) * (x > y) + (a < b) * (x < y) - (a > b) * (x < y) - (a < b) * (x > y)
        free_one += a != b
        free_other += x != y
    return score / math.sqrt(free_one * free_other) if free_one and free_other else None


@given(PAIRS)
def test_kendall_by_the_pair(pairs: list[tuple[int, int]]) -> None:
    one, other = map(list, zip(*pairs, strict=True))
    wanted = slow_kendall(one, other)
    assert kendall(one, other) == (wanted if wanted is None else pytest.approx(wanted))


@given(PAIRS)
def test_laws(pairs: list[tuple[int, int]]) -> None:
    one, other = map(list, zip(*pairs, strict=True))
    for measure in (kendall, spearman):
        found = measure(one, other)
        assert found is None or -1 - 1e-9 <= found <= 1 + 1e-9
        assert found == measure(other, one) or found == pytest.approx(measure(other, one))
        turned = measure([-value for value in one], other)
        assert turned == (None if found is None else pytest.approx(-found))
        assert measure([value**3 for value in one], other) == (None if found is None else pytest.approx(found))
        if len(set(one)) > 1:
            assert measure(one, one) == pytest.approx(1)


def test_known_values() -> None:
    one, other = [1, 2, 3, 4, 5], [3, 1, 2, 5, 4]
    assert spearman(one, other) == pytest.approx(1 - 6 * 8 / (5 * 24))
    assert kendall(one, other) == pytest.approx((7 - 3) / 10)
    assert ranks([10, 20, 20, 5]).tolist() == [2, 3.5, 3.5, 1]


def test_overlap() -> None:
    assert overlap([1, 2, 3, 4], [4, 3, 2, 1], 2) == 0
    assert overlap([1, 2, 3, 4], [1, 2, 4, 3], 1) == 0
    assert overlap([1, 2, 3, 4], [1, 2, 4, 3], 2) == 1
    assert overlap([0, 0, 0], [0, 0, 0], 1) == 1
    with pytest.raises(UsageError):
        overlap([1, 2], [1, 2], 3)


def test_grades_put_what_was_asked_for_first() -> None:
    """The rendered scene of a prompt is better than those of others."""
    prompts = suite("test", 12)
    pictures = rendered(prompts, 64, seed=0)
    for place, prompt in enumerate(prompts):
        found = grades(prompt, list(pictures))
        assert found[place] == pytest.approx(max(found), abs=2), "no more than clearness may be between them"
        assert found[place] > min(found)
