"""Scenes are judged right for their own prompt and wrong for others: the whole chain, from picture to verdict."""

import numpy as np
import pytest

from sanac.core.errors import InvalidInput
from sanac.judge.metadata import parse_task
from sanac.judge.shapes import judge_pictures, look
from sanac.shapes.prompts import Content, ItemSpec, contents, phrasings, suite
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene
from sanac.shapes.words import TAGS


def _picture(content: Content, seed: int = 0) -> np.ndarray:
    return render(draw_scene(content, np.random.default_rng(seed)))


def test_scenes_satisfy_their_own_prompts() -> None:
    prompts = suite("test", 240)
    verdicts = judge_pictures(prompts, [_picture(prompt.content, index) for index, prompt in enumerate(prompts)])
    assert [prompt.text for prompt, verdict in zip(prompts, verdicts, strict=True) if not verdict.correct] == []


@pytest.mark.parametrize("tag", TAGS)
def test_every_prompt_is_a_task_of_genevals(tag: str) -> None:
    for content in contents(tag):
        task = parse_task(phrasings(content)[0].metadata)
        assert (task.tag, task.to_json()) == (tag, phrasings(content)[0].metadata)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (Content("single_object", (ItemSpec("circle"),)), Content("single_object", (ItemSpec("square"),))),
        (Content("counting", (ItemSpec("circle", None, 3),)), Content("counting", (ItemSpec("circle", None, 2),))),
        (Content("counting", (ItemSpec("circle", None, 3),)), Content("counting", (ItemSpec("circle", None, 4),))),
        (Content("colors", (ItemSpec("circle", "red"),)), Content("colors", (ItemSpec("circle", "blue"),))),
        (
            Content("position", (ItemSpec("circle"), ItemSpec("cross")), "left of"),
            Content("position", (ItemSpec("circle"), ItemSpec("cross")), "right of"),
        ),
        (
            Content("position", (ItemSpec("circle"), ItemSpec("cross")), "above"),
            Content("position", (ItemSpec("cross"), ItemSpec("circle")), "above"),
        ),
        (
            Content("color_attr", (ItemSpec("circle", "red"), ItemSpec("cross", "blue"))),
            Content("color_attr", (ItemSpec("circle", "blue"), ItemSpec("cross", "red"))),
        ),
    ],
    ids=["other shape", "one too few", "one too many", "other colour", "other side", "swapped", "colours swapped"],
)
def test_a_scene_of_something_else_is_wrong(asked: Content, shown: Content) -> None:
    prompt = phrasings(asked)[0]
    for seed in range(10):
        assert not judge_pictures([prompt], [_picture(shown, seed)])[0].correct
        assert judge_pictures([prompt], [_picture(asked, seed)])[0].correct


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    assert not any(verdict.correct for verdict in judge_pictures(suite("test", 8), list(noise)))


def test_what_is_no_picture_is_bad_input() -> None:
    with pytest.raises(InvalidInput, match="image to judge is invalid"):
        look(np.full((8, 8, 3), np.inf, np.float32))
