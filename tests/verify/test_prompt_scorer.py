"""Scores of variants on the user's prompts: what they are, that they are kept, and what they don't depend on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.progress import NullReporter
from sanac.judge.clip_score import ClipVerifier
from sanac.judge.halving import SuiteSettings, choose_by_images, images_of_finalist
from sanac.judge.intervals import PromptScore, paired_difference
from sanac.judge.model_folder import CONTRASTIVE, open_judge
from sanac.judge.verifier import Request
from sanac.nn.generation import GenerationSettings
from sanac.runtime.pipeline import open_generator
from sanac.verify.prompt_scorer import prompts_for_choices
from sanac.verify.shapes_suite import noise_seeds
from sanac.verify.suite_scorer import SubsetScorer, subset_scorer
from tests.conftest import Shared
from tests.judge.small_judges import save_clip

PROMPTS = ("two red circles", "a circle above a square", "three green triangles")
WHOLE = (0, 1, 2)


class Counting(NullReporter):
    """Counts the images that are generated."""

    def __init__(self) -> None:
        self.images = 0

    def advance(self, amount: int, state: str = "") -> None:
        self.images += amount


@pytest.fixture(scope="module")
def three(stranger: Path) -> Model:
    """Three blocks, two steps per image, and no vocabulary of the shapes world."""
    return open_model(locate(str(stranger)))


@pytest.fixture(scope="module")
def clip(shared: Shared) -> Path:
    """A small random CLIP."""

    def making(folder: Path) -> None:
        folder.mkdir()
        save_clip(folder)

    return shared("small-clip", making)


def scorer(
    model: Model, folder: Path, counting: Counting, prompts: Sequence[str] = PROMPTS, verifier: str = ""
) -> SubsetScorer:
    settings = SuiteSettings(6, 4.5, 4, 0, prompts=tuple(prompts), verifier=verifier)
    return subset_scorer(model, settings, ConfinedPath(folder) / "judged.json", "key", "cpu", counting)


def test_similarity_is_1_for_the_whole_model_and_less_with_every_block_that_goes(three: Model, tmp_path: Path) -> None:
    counting = Counting()
    found = scorer(three, tmp_path, counting)
    whole = found(WHOLE, {}, 6)
    assert [(one.right, one.images) for one in whole] == [(2.0, 2)] * 3, "each prompt twice"
    assert {one.prompt for one in whole} == set(PROMPTS)
    assert counting.images == 6, "the whole model's images, once"
    less = found((0, 2), {}, 6)
    assert all(0 <= one.right < 2 for one in less)
    assert paired_difference(less, whole).interval.value < 0
    again = Counting()
    kept = scorer(three, tmp_path, again)
    assert kept((0, 2), {}, 6) == less
    assert again.images == 0, "kept, by a scorer that was opened later"
    chosen = choose_by_images([(0, 2), WHOLE, (0,)], lambda one, count: found(one, {}, max(3, count)), 6)
    assert chosen == WHOLE


def test_a_stopped_scorer_goes_on_behind_its_last_batch(three: Model, tmp_path: Path) -> None:
    class Stopping(Counting):
        def advance(self, amount: int, state: str = "") -> None:
            super().advance(amount)
            if self.images == 16:  # 4 of the whole model and 4 of a variant; 2 more of the former, and 4 + 2
                raise KeyboardInterrupt

    first = scorer(three, tmp_path, Stopping())
    first((0, 2), {}, 4)
    with pytest.raises(KeyboardInterrupt):
        first((1, 2), {}, 6)
    again = Counting()
    found = scorer(three, tmp_path, again)((1, 2), {}, 6)
    other = scorer(three, tmp_path / "other", Counting())((1, 2), {}, 6)
    assert [one.right for one in found] == pytest.approx([one.right for one in other], abs=0.02)
    assert again.images == 2, "the whole model's images and the first batch are kept"


def test_a_verifier_s_scores_are_its_own(three: Model, clip: Path, tmp_path: Path) -> None:
    counting = Counting()
    found = scorer(three, tmp_path, counting, verifier=f"clip:{clip}")(WHOLE, {}, 6)
    assert counting.images == 6, "no reference is generated"
    verifier = ClipVerifier.open(open_judge(str(clip), CONTRASTIVE), "cpu")
    order = prompts_for_choices(PROMPTS, 6)
    generator = open_generator(three, "cpu")
    images = [one for some in generator.generate(order, noise_seeds(0, 6), GenerationSettings(2)) for one in some]
    scores = verifier.scores(images, [Request(prompt) for prompt in order])
    for one in found:
        own = [max(0.0, score) for score, prompt in zip(scores, order, strict=True) if prompt == one.prompt]
        assert one == PromptScore("prompts", one.prompt, pytest.approx(sum(own), abs=1e-3), 2)


def test_the_shapes_detector_is_not_asked_about_lighthouses(three: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't judge 'a lighthouse'"):
        _ = scorer(three, tmp_path, Counting(), ["a lighthouse"], "shapes").suite


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=9, unique=True), st.randoms(), st.integers(1, 40))
def test_the_order_of_the_file_decides_nothing(prompts: list[str], random: object, images: int) -> None:
    order = prompts_for_choices(prompts, images)
    random.shuffle(prompts)  # type: ignore[attr-defined]
    assert prompts_for_choices(prompts, images) == order
    counts = [order.count(prompt) for prompt in prompts]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("prompts", "typed", "images"), [(1, None, 48), (10, None, 50), (300, None, 300), (300, 64, 64)]
)
def test_every_prompt_is_shown_equally_often(prompts: int, typed: int | None, images: int) -> None:
    assert images_of_finalist(typed or 256, prompts, typed=typed is not None) == images
