"""GenEval's rules, edge by edge, and the laws that any detections obey."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.judge.detections import Detection
from sanac.judge.geneval import GENEVAL, Rules, judge, relations, select_detections
from sanac.judge.metadata import RELATIONS, TAGS, Clause, GenEvalTask
from tests.judge.worlds import LABELS, at, detections, law, tasks

DOGS = GenEvalTask("single_object", "a dog", (Clause("dog"),))
TWO = GenEvalTask("counting", "two dogs", (Clause("dog", 2),), (Clause("dog", 3),))


def beside(relation: str, dogs: int = 1, cats: int = 1) -> GenEvalTask:
    """Dogs in this relation to cats."""
    return GenEvalTask("position", "x", (Clause("cat", cats), Clause("dog", dogs, None, (relation, 0))))


@pytest.mark.parametrize(
    ("x", "y", "standing"),
    [
        (41, 0, {"right of"}),
        (40, 0, set()),  # exactly half the offset remains
        (39, 0, set()),
        (-41, 0, {"left of"}),
        (-39, 0, set()),
        (0, -41, {"above"}),
        (0, -39, set()),
        (0, 41, {"below"}),
        (0, 0, set()),
        (20, 20, set()),  # within the margin both ways
        (80, 80, {"right of", "below"}),
        (-80, 80, {"left of", "below"}),
        (80, -80, {"right of", "above"}),
        (-80, -80, {"left of", "above"}),
        (200, 60, {"right of"}),
        (60, 200, {"below"}),
        (20.0005, 0, set()),  # less than a thousandth of a pixel beyond the margin
    ],
)
def test_where_a_box_of_100_stands(x: float, y: float, standing: set[str]) -> None:
    assert relations(at("dog", x, y).box, at("cat", 0, 0).box) == standing


def test_the_margin_is_a_share_of_both_sizes() -> None:
    small, large = at("dog", 42, 0, size=20).box, at("cat", 0, 0, size=200).box
    assert relations(small, large) == set()  # 42 - 22 = 20 of 42
    assert relations(at("dog", 45, 0, size=20).box, large) == {"right of"}
    assert relations(small, large, Rules(margin=0)) == {"right of"}
    tall = (30.0, -200.0, 50.0, 200.0)  # its height doesn't count across
    assert relations(tall, (-10.0, -10.0, 10.0, 10.0)) == {"right of"}


@pytest.mark.parametrize("tag", TAGS)
def test_a_score_must_exceed_the_threshold(tag: str) -> None:
    least = 0.9 if tag == "counting" else 0.3
    task = replace(DOGS, tag=tag)
    assert not judge(task, [at("dog", 0, 0, score=least)]).correct
    assert judge(task, [at("dog", 0, 0, score=least + 1e-9)]).correct


def test_sixteen_of_a_class_are_looked_at() -> None:
    dogs = [at("dog", 100 * index, 0, score=0.95 + index / 1000) for index in range(17)]
    kept = judge(DOGS, [*dogs, at("cat", 0, 0)]).kept
    assert kept == {"dog": tuple(reversed(dogs[1:])), "cat": (at("cat", 0, 0),)}
    assert not judge(GenEvalTask("counting", "x", (Clause("cat"),), (Clause("dog", 16),)), dogs).correct
    assert judge(DOGS, dogs).details["dog"][0] == (1550, -50, 1650, 50, 0.95 + 16 / 1000)


def test_overlapping_boxes_are_all_kept() -> None:
    assert judge(TWO, [at("dog", 0, 0, score=0.95), at("dog", 0, 0, score=0.96)]).correct


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
@pytest.mark.parametrize("seen", range(6))
def test_only_exclude_makes_a_count_exact(tag: str, wanted: int, seen: int) -> None:
    dogs = [at("dog", 100 * index, 0) for index in range(seen)]
    assert judge(GenEvalTask(tag, "x", (Clause("dog", wanted),)), dogs).correct == (seen >= wanted)
    exact = GenEvalTask(tag, "x", (Clause("dog", wanted),), (Clause("dog", wanted + 1),))
    assert judge(exact, dogs).correct == (seen == wanted)


def test_exclude_of_another_class() -> None:
    task = GenEvalTask("single_object", "a dog, no cat", (Clause("dog"),), (Clause("cat"),))
    alone, both = judge(task, [at("dog", 0, 0)]), judge(task, [at("dog", 0, 0), at("cat", 0, 0)])
    assert (alone.correct, alone.soft) == (True, 1)
    assert (both.correct, both.soft) == (False, 0.5)
    assert both.reasons == ("cat: fewer than 1 wanted, 1 found",)


def test_every_clause_must_hold_and_every_failure_is_told() -> None:
    task = GenEvalTask("x", "x", (Clause("dog"), Clause("cat", 2), Clause("cow", color="red")), (Clause("fox"),))
    verdict = judge(task, [at("dog", 0, 0), at("cat", 0, 0), at("cow", 0, 0, color="blue"), at("fox", 0, 0)])
    assert not verdict.correct
    assert verdict.reasons == (
        "cat: 2 wanted, 1 found",
        "cow: 1 red wanted, blue found",
        "fox: fewer than 1 wanted, 1 found",
    )
    assert (
        judge(GenEvalTask("x", "x", (Clause("dog"), Clause("cat"))), [at("dog", 0, 0), at("cat", 0, 0)]).reasons == ()
    )


@pytest.mark.parametrize(
    ("count", "colors", "correct"),
    [
        (1, ["red"], True),
        (1, ["blue"], False),
        (1, [None], False),
        (1, ["red", "blue"], True),  # the best one is red
        (1, ["blue", "red"], False),  # only the best one is looked at
        (2, ["red", "red"], True),
        (2, ["red", "blue"], False),
        (2, ["red", "blue", "red"], False),
        (2, ["red", "red", "blue"], True),
        (2, ["red"], False),
    ],
)
def test_the_best_ones_have_the_colour(count: int, colors: list[str | None], correct: bool) -> None:
    dogs = [at("dog", 0, 0, score=0.9 - index / 10, color=color) for index, color in enumerate(colors)]
    assert judge(GenEvalTask("colors", "x", (Clause("dog", count, "red"),)), dogs).correct == correct


def test_colours_stay_with_their_class() -> None:
    task = GenEvalTask("color_attr", "x", (Clause("dog", color="red"), Clause("cat", color="blue")))
    assert judge(task, [at("dog", 0, 0, color="red"), at("cat", 0, 0, color="blue")]).correct
    assert len(judge(task, [at("dog", 0, 0, color="blue"), at("cat", 0, 0, color="red")]).reasons) == 2


@pytest.mark.parametrize(
    ("relation", "x", "y"), [("left of", -1, 0), ("right of", 1, 0), ("above", 0, -1), ("below", 0, 1)]
)
def test_each_relation_by_where_the_dog_is(relation: str, x: int, y: int) -> None:
    picture = [at("cat", 500, 500), at("dog", 500 + 200 * x, 500 + 200 * y)]
    assert [other for other in RELATIONS if judge(beside(other), picture).correct] == [relation]


def test_every_object_stands_so_to_every_target() -> None:
    cats = [at("cat", 0, 0, score=0.9), at("cat", 300, 0, score=0.8)]
    dogs = [at("dog", 600, 0, score=0.9), at("dog", 150, 0, score=0.8)]
    assert judge(beside("right of", 1, 2), [*cats, *dogs]).correct
    assert judge(beside("right of", 2, 1), [*cats, *dogs]).correct
    verdict = judge(beside("right of", 2, 2), [*cats, *dogs])
    assert verdict.reasons == ("dog: right of cat wanted, left of found",)
    swapped = [replace(dog, score=1.7 - dog.score) for dog in dogs]  # the one in the middle is the best now
    assert not judge(beside("right of", 1, 2), [*cats, *swapped]).correct


def test_a_target_that_failed_fails_what_refers_to_it() -> None:
    verdict = judge(beside("right of"), [at("dog", 500, 0)])
    assert verdict.reasons == ("cat: 1 wanted, 0 found", "dog: nothing found for it to be right of")
    red = GenEvalTask("x", "x", (Clause("cat", color="red"), Clause("dog", position=("right of", 0))))
    assert len(judge(red, [at("cat", 0, 0, color="blue"), at("dog", 500, 0)]).reasons) == 2
    assert judge(beside("above"), [at("cat", 0, 0), at("dog", 0, 0)]).reasons[0].endswith("no relation found")


def test_the_target_is_the_clause_of_that_index() -> None:
    clauses = (Clause("cat"), Clause("cow"), Clause("dog", position=("left of", 1)))
    picture = [at("cat", 0, 0), at("dog", 300, 0), at("cow", 600, 0)]
    assert judge(GenEvalTask("position", "x", clauses), picture).correct
    assert not judge(
        GenEvalTask("position", "x", (*clauses[:2], Clause("dog", position=("left of", 0)))), picture
    ).correct


@pytest.mark.parametrize(("seen", "soft"), [(0, 0), (1, 0.25), (3, 0.75), (4, 1), (5, 0.75), (8, 0), (12, 0)])
def test_the_soft_score_counts_both_ways(seen: int, soft: float) -> None:
    four = GenEvalTask("counting", "x", (Clause("dog", 4),), (Clause("dog", 5),))
    assert judge(four, [at("dog", 100 * index, 0) for index in range(seen)]).soft == soft


def test_the_soft_score_is_the_mean_of_what_is_asked() -> None:
    task = GenEvalTask("x", "x", (Clause("cat"), Clause("dog", 2, "red", ("right of", 0))))
    cat = at("cat", 0, 0)
    red, blue = at("dog", 300, 0, color="red"), at("dog", 300, 0, color="blue")
    assert judge(task, [cat, red, red]).soft == 1
    assert judge(task, [cat, red, blue]).soft == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert judge(task, [cat, red]).soft == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert judge(task, [red, red]).soft == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert judge(beside("left of"), [cat, red]).soft == pytest.approx(2 / 3)  # no point for a relation that fails


def test_rules_that_make_no_sense() -> None:
    with pytest.raises(UsageError) as caught:
        Rules(least_score=float("nan"), most_per_class=0, margin=-1)
    assert len(caught.value.problems) == 3
    assert Rules() == GENEVAL


@law
@given(tasks(), detections(), st.randoms())
def test_the_order_of_detections_means_nothing(task: GenEvalTask, found: list[Detection], rng: object) -> None:
    shuffled = list(found) + found[:1]  # two alike
    before = judge(task, shuffled)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judge(task, shuffled) == before


@law
@given(tasks(), detections(), st.sampled_from(LABELS), st.floats(0, 1))
def test_what_scores_too_low_changes_nothing(
    task: GenEvalTask, found: list[Detection], label: str, score: float
) -> None:
    faint = at(label, 50, 50, score=score * GENEVAL.threshold(task.tag), color="red")
    assert judge(task, [faint, *found]) == judge(task, found)


def mirrored(
    task: GenEvalTask, found: list[Detection], exchange: dict[str, str], axis: int
) -> tuple[GenEvalTask, list[Detection]]:
    def clause(old: Clause) -> Clause:
        position = old.position and (exchange.get(old.position[0], old.position[0]), old.position[1])
        return replace(old, position=position)

    def flip(old: Detection) -> Detection:
        box = list(old.box)
        box[axis], box[axis + 2] = 1000 - box[axis + 2], 1000 - box[axis]
        return replace(old, box=tuple(box))

    return replace(task, include=tuple(map(clause, task.include))), list(map(flip, found))


@law
@given(tasks(), detections())
def test_a_mirror_swaps_left_and_right(task: GenEvalTask, found: list[Detection]) -> None:
    other = mirrored(task, found, {"left of": "right of", "right of": "left of"}, 0)
    assert judge(*other).soft == judge(task, found).soft
    assert judge(*other).correct == judge(task, found).correct


@law
@given(tasks(), detections())
def test_water_swaps_above_and_below(task: GenEvalTask, found: list[Detection]) -> None:
    other = mirrored(task, found, {"above": "below", "below": "above"}, 1)
    assert judge(*other).correct == judge(task, found).correct


@law
@given(tasks(), detections(), st.sampled_from([2, 8, 64]))
def test_the_size_of_the_picture_means_nothing(task: GenEvalTask, found: list[Detection], scale: int) -> None:
    larger = [replace(old, box=tuple(scale * edge for edge in old.box)) for old in found]
    assert judge(task, larger).reasons == judge(task, found).reasons


@law
@given(tasks(), detections())
def test_a_full_soft_score_is_a_correct_picture(task: GenEvalTask, found: list[Detection]) -> None:
    verdict = judge(task, found)
    assert 0 <= verdict.soft <= 1
    assert verdict.correct == (not verdict.reasons)
    assert verdict.correct or verdict.soft < 1


@law
@given(detections(), st.integers(1, 5))
def test_keeping_twice_is_keeping_once(found: list[Detection], most: int) -> None:
    once = select_detections(found, 0.3, most)
    assume(once)
    assert select_detections([one for kept in once.values() for one in kept], 0.3, most) == once
    assert all(list(kept) == sorted(kept, key=lambda one: -one.score) for kept in once.values())
