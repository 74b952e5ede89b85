"""Prompts to choose settings by: familiar and unseen contents, none of which any score is reported on."""

from sanac.shapes.prompts import choosing_suite, suite, unseen_prompts, unseen_suite
from sanac.shapes.words import TAGS


def test_a_third_is_of_unseen_contents_as_tasks_of_their_own() -> None:
    chosen = choosing_suite(180)
    unseen = [task for task, prompt in chosen if prompt.content.held_out]
    assert len(unseen) == 60
    assert all(task.endswith(", unseen") for task in unseen)
    assert {task for task, _ in chosen} >= set(TAGS)
    assert choosing_suite(45) == chosen[:45], "few images are the first of many"


def test_nothing_that_is_chosen_by_is_reported_on() -> None:
    choosing = {prompt.text for _, prompt in choosing_suite(2000)}
    assert not choosing & {prompt.text for prompt in suite("test", 4000)}
    reported = {prompt.content for prompt in unseen_suite(2000)}
    assert not reported & {prompt.content for _, prompt in choosing_suite(2000)}, "not even in other words"
    assert all(unseen_prompts(tag, "tune") for tag in ("counting", "colors", "color_attr"))
