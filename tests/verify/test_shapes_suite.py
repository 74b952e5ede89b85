"""The shapes suite: what an evaluation must show of a generator whose truth is known."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.judge.results import read_results
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Pictures
from sanac.shapes.prompts import Prompt, suite
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene
from sanac.verify.shapes_suite import Evaluation, evaluate, examples
from tests.conftest import Sanac


class Renderer:
    """Paints what is asked for, but for tasks that it gets wrong; always the same picture if it has collapsed."""

    name = "renderer"

    def __init__(self, wrong: str = "", *, collapsed: bool = False) -> None:
        self.wrong, self.collapsed = wrong, collapsed
        known = [prompt for split in ("test", "tune", "held-out") for prompt in suite(split, 3000)]
        self.prompts: dict[str, Prompt] = {prompt.text: prompt for prompt in known}

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: GenerationSettings, reporter=NULL_REPORTER
    ) -> Iterator[Pictures]:
        for text, seed in zip(prompts, seeds, strict=True):
            content = self.prompts[text].content
            rng = np.random.default_rng(int.from_bytes(text.encode()[:8]) if self.collapsed else seed)
            picture = render(draw_scene(content, rng))
            yield np.full_like(picture, 255)[None] if content.tag == self.wrong else picture[None]


def _evaluate(generator: Renderer, images: int = 240, **options) -> Evaluation:
    return evaluate(generator, images, GenerationSettings(), 0, options.get("split", "test"), NULL_REPORTER)


@pytest.fixture(scope="module")
def perfect() -> Evaluation:
    return _evaluate(Renderer())


def test_a_renderer_is_right_and_near(perfect: Evaluation) -> None:
    assert perfect.summary.overall.value == 1
    assert all(score.value == 1 for score in perfect.summary.tasks.values())
    assert perfect.held_out
    assert perfect.held_out.value == 1
    assert perfect.distance.frechet < 3 * perfect.distance.frechet_floor
    assert len(perfect.pictures) == 240 + 60


def test_a_task_that_goes_wrong_costs_a_sixth(perfect: Evaluation) -> None:
    found = _evaluate(Renderer(wrong="counting"))
    assert found.summary.tasks["counting"].value == 0
    assert found.summary.overall.value == pytest.approx(5 / 6)
    assert found.held_out
    assert found.held_out.value < 1, "counting is among what is held out, and judged apart"
    assert found.distance.frechet > 3 * perfect.distance.frechet


def test_the_same_seed_asks_and_judges_the_same(perfect: Evaluation) -> None:
    again = _evaluate(Renderer())
    assert again.to_json() == perfect.to_json()
    assert again.prompts == perfect.prompts


def test_held_out_prompts_never_count(perfect: Evaluation) -> None:
    assert not any(prompt.content.held_out for prompt in perfect.prompts[:240])
    assert all(prompt.content.held_out for prompt in perfect.prompts[240:])
    assert perfect.summary.pictures == 240


def test_tuning_and_test_prompts_differ(perfect: Evaluation) -> None:
    tuned = _evaluate(Renderer(), 48, split="tune")
    assert not {prompt.text for prompt in tuned.prompts[:48]} & {prompt.text for prompt in perfect.prompts[:240]}


def test_examples_show_every_task(perfect: Evaluation) -> None:
    shown = examples(perfect, 4)
    assert len(shown) == 24
    assert [perfect.results[index].task.tag for index in shown[::4]] == list(perfect.summary.tasks)


def test_it_is_all_json(perfect: Evaluation) -> None:
    assert json.loads(json.dumps(perfect.to_json(), allow_nan=False)) == perfect.to_json()


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        _evaluate(Renderer(), 11)


def test_a_suite_over_the_winners_of_a_search(sanac: Sanac, tmp_path: Path) -> None:
    """Every image is the best of its noises, the first of which is the one that it has without a search."""
    words = ("evaluate", "sanac:tiny", "--suite", "shapes", "--images", "12", "--steps", "3")
    plain = sanac(*words, "--out", "found", "--json")
    assert plain.code == 0, plain.err
    searched = (*words, "--search", "best-of", "--n", "2", "--search-verifier", "shapes", "--out", "found", "--json")
    ran = sanac(*searched)
    assert ran.code == 0, ran.err
    assert "also chooses them" in ran.err
    assert ran.json["search"]["spent"]["forwards"] == (12 + 6) * 2 * 3 * 2
    first, best = (
        [result.correct for result in read_results(tmp_path / "found" / "measurements" / f"{name}.jsonl")]
        for name in ("evaluate-shapes", "evaluate-shapes-best-of-2")
    )
    assert all(winner >= single for winner, single in zip(best, first, strict=True))
    assert sum(best) > sum(first)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--search", "halving"), "--search halving needs --search-verifier"),
        (("--n", "4"), "--n requires --search"),
        (("--search-verifier", "shapes"), "--search-verifier requires --search"),
        (
            ("--search", "best-of", "--search-verifier", "shapes", "--max-forwards", "9"),
            "--max-forwards 9 is too small",
        ),
    ],
)
def test_searches_that_can_not_be_evaluated(sanac: Sanac, words: tuple[str, ...], said: str) -> None:
    ran = sanac("evaluate", "sanac:tiny", "--suite", "shapes", "--images", "12", *words, "--out", "found")
    assert ran.code == 2
    assert said in ran.err
