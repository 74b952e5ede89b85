"""The front: the best of what is proposed, judged on the same prompts, and plain steps where they are as good."""

from collections.abc import Sequence

import pytest

from sanac.core.artifact.schedule import Schedule
from sanac.core.errors import CheckFailed
from sanac.core.progress import NULL_REPORTER
from sanac.judge.intervals import PromptScore
from sanac.schedule.allocation import VelocityTable
from sanac.schedule.front import Front, FrontSearch, front_from_json

BLOCKS = 6
GUIDED = ((0.9, 0.7, 0.5, 0.3, 0.1, 0.0),) * 4
TABLE = VelocityTable(
    tuple(range(BLOCKS)), (999, 700, 400, 100), GUIDED, tuple(tuple(x + 0.05 for x in row) for row in GUIDED)
)


def levels(steps: int) -> tuple[int, ...]:
    return tuple(999 - 999 * step // steps for step in range(steps))


def search(best: int, count: int = 64) -> FrontSearch:
    """Judged by a scorer that likes schedules of `best` steps, and plain steps by their number."""

    def score(schedule: Schedule, images: int) -> Sequence[PromptScore]:
        plain, ours = 0.9 if schedule.steps > 4 else 0.4, 0.95 if schedule.steps == best else 0.5
        right = plain if schedule.whole else ours
        return [PromptScore("one", f"prompt {n}", float(n < right * images), 1) for n in range(images)]

    return FrontSearch(TABLE, levels, (8, 6, 4), 10, count, score)


@pytest.mark.parametrize("best", [8, 6, 4])
def test_what_the_pictures_like_is_found(best: int) -> None:
    front = search(best).run((0.5,), NULL_REPORTER)
    (row,) = front.rows
    assert row.schedule.steps == best
    assert row.schedule.forwards <= 0.5 * front.whole.forwards


def test_plain_steps_win_where_they_are_as_good() -> None:
    front = search(12).run((0.6, 0.3), NULL_REPORTER)  # no schedule of 12 steps is tried
    many, few = front.rows
    assert many.plain.steps == 6
    assert not many.gains
    assert many.chosen is many.plain
    assert few.plain.steps == 3
    assert few.gains == (few.against_plain.interval.low > 0 if few.against_plain else None)


def test_the_cheapest_within_a_loss() -> None:
    front = search(6).run((0.9, 0.5, 0.4), NULL_REPORTER)
    assert front.cheapest(0.0).budget == 0.4
    with pytest.raises(CheckFailed, match="no schedule of the front loses at most 0"):
        Front(front.whole, tuple(row for row in search(99).run((0.5,), NULL_REPORTER).rows), front.score).cheapest(0.0)


def test_too_small_a_budget_is_left_out_and_a_front_is_read_as_written() -> None:
    front = search(6).run((0.5, 0.01), NULL_REPORTER)
    assert [row.budget for row in front.rows] == [0.5]
    assert front_from_json(front.to_json(), BLOCKS) == front
    unjudged = FrontSearch(TABLE, levels, (4,), 10, 0).run((0.5,), NULL_REPORTER)
    assert unjudged.rows[0].gains
    assert front_from_json(unjudged.to_json(), BLOCKS) == unjudged


def test_without_images_the_error_alone_decides() -> None:
    (row,) = FrontSearch(TABLE, levels, (4,), 10, 0).run((0.5,), NULL_REPORTER).rows
    assert row.schedule.whole, "half of ten steps pays for four whole ones, which have no error"
