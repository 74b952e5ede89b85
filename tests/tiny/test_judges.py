"""The judges beside sanac:tiny: small, whole, and right about images that they never saw."""

from pathlib import Path

import numpy as np
import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.judge.judge_files import PREVIEW_JUDGE, STATE_JUDGE, STATES, judge_files
from sanac.judge.preview_judge import PreviewJudgeVerifier
from sanac.judge.requests import requests_of
from sanac.judge.shapes import judge_pictures
from sanac.judge.state_judge import StateReader
from sanac.nn.generation import GenerationSettings
from sanac.runtime.pipeline import open_generator
from sanac.shapes.prompts import suite, unseen_suite
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene

MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def judge() -> PreviewJudgeVerifier:
    return PreviewJudgeVerifier.open(judge_files("sanac:tiny", PREVIEW_JUDGE), "cpu")


def test_they_are_small() -> None:
    folders = [judge_files("sanac:tiny", PREVIEW_JUDGE).folder, judge_files("sanac:tiny", STATE_JUDGE, STATES).folder]
    assert sum(path.stat().st_size for folder in folders for path in Path(folder).iterdir()) < MOST_BYTES
    StateReader.open(judge_files("sanac:tiny", STATE_JUDGE, STATES), "cpu")


def test_it_agrees_with_the_detector_on_images_of_the_model(judge: PreviewJudgeVerifier) -> None:
    prompts = [*suite("test", 60), *unseen_suite(60)]
    texts = [prompt.text for prompt in prompts]
    generator = open_generator(open_model(locate("sanac:tiny")))
    images = np.concatenate(list(generator.generate(texts, range(500, 620), GenerationSettings(batch=60))))
    right = np.array([verdict.correct for verdict in judge_pictures(prompts, list(images))])
    said = np.array(judge.scores(list(images), requests_of(texts))) > 0.5
    assert (said == right).mean() > 0.85
    assert said[right].mean() > said[~right].mean() + 0.4


def test_it_tells_a_prompt_from_its_neighbours(judge: PreviewJudgeVerifier) -> None:
    """A rendered scene shows its own prompt, and no prompt of another content."""
    prompts = [prompt for prompt in suite("test", 40) if prompt.content.tag in {"colors", "single_object"}]
    images = [render(draw_scene(one.content, np.random.default_rng(7), tidy=True), 64) for one in prompts]
    own = judge.scores(images, requests_of([one.text for one in prompts]))
    other = judge.scores(images, requests_of([one.text for one in prompts[1:] + prompts[:1]]))
    assert np.mean(own) > np.mean(other) + 0.5


def test_its_reasons_are_what_is_missing(judge: PreviewJudgeVerifier) -> None:
    shown = next(one for one in suite("test", 200) if one.content.tag == "two_object")
    (request,) = requests_of([shown.text])
    image = render(draw_scene(shown.content, np.random.default_rng(3), tidy=True), 64)
    single = next(one for one in suite("test", 200) if one.content.wanted[0] == shown.content.wanted[0])
    half = render(draw_scene(single.content, np.random.default_rng(3), tidy=True), 64)
    assert judge.reasons(image, request) == []
    assert judge.reasons(half, request) == [f"a {shown.content.wanted[1].shape}"]
