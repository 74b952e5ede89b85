"""`prune --confirm`: images decide between subsets that the velocity finds nearly equal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.context import Context
from sanac.judge.intervals import PromptScore
from sanac.prune.job import run
from sanac.prune.settings import PruneSettings
from tests.conftest import Sanac

FEW = {"num_prompts": 8, "timesteps": 4, "images": 48, "confirm": "shapes"}
FLAGS = ("--num-prompts", "8", "--timesteps", "4", "--images", "48", "--confirm", "shapes")


class Liking:
    """Judges that like one subset of blocks."""

    def __init__(self) -> None:
        self.judged: list[tuple[tuple[int, ...], int, int]] = []
        self.liked: tuple[int, ...] = ()

    def __call__(self, *_: Any) -> "Liking":
        return self

    def score(self, kept: Sequence[int], changes: Mapping[str, Tensor], count: int) -> Sequence[PromptScore]:
        self.judged.append((tuple(kept), len(changes), count))
        right = 1.0 if tuple(kept) == self.liked else 0.5
        return [PromptScore("one", str(number), float(number < right * count), 1) for number in range(count)]


@pytest.mark.parametrize("compensate", [False, True])
def test_the_subset_that_images_like_is_kept(pipeline: Path, tmp_path: Path, compensate: bool) -> None:
    judges = Liking()
    context = Context(subset_scorer=lambda *_: judges.score)
    settings = PruneSettings(target_blocks=4, workspace=tmp_path, compensate=compensate, **FEW)
    first = run(str(pipeline), settings, context)
    assert first.passed
    near = json.loads(next(tmp_path.glob("search-*/search.json")).read_text())["near"]
    assert len(near) > 1
    repaired = [changes > 0 for _, changes, _ in judges.judged]
    assert any(repaired) == compensate, "each is judged as it would be shipped"
    judges.liked = tuple(near[-1])
    for folder in tmp_path.glob("confirm-*"):
        (folder / "confirm.json").unlink()
    run(str(pipeline), settings, context)
    made = open_model(locate(str(run(str(pipeline), settings, context).out)))
    assert made.manifest is not None
    assert made.manifest.origins == judges.liked
    assert made.manifest.settings["search"]["confirm"]["suite"] == "shapes"


@pytest.mark.slow
def test_real_images_decide_and_the_choice_is_kept(sanac: Sanac, tmp_path: Path) -> None:
    words = ("prune", "sanac:tiny", "--target-blocks", "10", *FLAGS)
    ran = sanac(*words)
    assert ran.code == 0, ran.err
    assert "judging" in ran.err
    (found,) = (json.loads(path.read_text()) for path in tmp_path.glob("sanac-out/confirm-*/confirm.json"))
    scores = {tuple(one["kept"]): one["score"] for one in found["judged"]}
    assert found["kept"] in [list(kept) for kept in scores]
    again = sanac(*words)
    assert "cached" in again.out
    assert "judging" not in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep", "0-5", "--confirm", "shapes"), "--confirm decides between the subsets"),
        (("--target-blocks", "6", "--select", "bi", "--confirm", "shapes"), "--confirm decides between the subsets"),
        (("--target-blocks", "6", "--images", "64"), "--images requires --confirm"),
    ],
)
def test_wrong_words(sanac: Sanac, words: tuple[str, ...], said: str) -> None:
    ran = sanac("prune", "sanac:tiny", *words)
    assert ran.code == 2
    assert said in ran.err


CONFIRM = ("--confirm", "prompts", "--confirm-prompts", "cats.txt")


def test_the_user_s_prompts_decide_for_any_model(sanac: Sanac, stranger: Path, tmp_path: Path) -> None:
    """A model without the shapes world's words, real images, and their similarity to the whole model's."""
    Path("cats.txt").write_text("a lighthouse at dusk\ntwo cats\n")
    words = ("prune", stranger, "--target-blocks", "1", "--num-prompts", "4")
    refused = sanac(*words, "--confirm", "shapes")
    assert (refused.code, "--confirm prompts --confirm-prompts FILE" in refused.err) == (2, True)
    assert not (tmp_path / "sanac-out").exists(), "said before anything is searched"
    ran = sanac(*words, *CONFIRM)
    assert ran.code == 0, ran.err
    (found,) = (json.loads(path.read_text()) for path in tmp_path.glob("sanac-out/confirm-*/confirm.json"))
    assert all(0 < one["score"] < 1 for one in found["judged"])
    made = open_model(locate(str(next(tmp_path.glob("sanac-out/prune-*")))))
    assert made.manifest is not None
    assert made.manifest.origins == tuple(found["kept"])
    about = made.manifest.settings["search"]["confirm"]
    assert (about["suite"], about["images"]) == ("prompts", 48)
    assert about["judge"].startswith("similarity")
    assert "cached" in sanac(*words, *CONFIRM).out
    Path("cats.txt").write_text("a lighthouse at dusk\nthree cats\n")
    other = sanac(*words, *CONFIRM, "--dry-run")
    assert "to be computed first" in other.out, "other prompts are another choice"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--confirm", "prompts"), 2, "--confirm prompts needs --confirm-prompts"),
        (("--confirm", "shapes", "--confirm-prompts", "cats.txt"), 2, "only applies with --confirm prompts"),
        (("--verifier", "shapes"), 2, "--verifier only applies with --confirm prompts"),
        ((*CONFIRM, "--verifier", "shapes"), 2, "can't judge 'a cat'"),
        ((*CONFIRM, "--verifier", "vlm:no/where"), 4, "the judge no/where is not on this machine"),
        (CONFIRM, 3, "line 2 repeats line 1: 'a cat'"),
    ],
)
def test_prompts_that_can_not_decide_end_before_the_search(
    sanac: Sanac, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("cats.txt").write_text("a cat\na cat\n" if code == 3 else "a cat\n")
    ran = sanac("prune", "sanac:tiny", "--target-blocks", "6", *words)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert not Path("sanac-out").exists()
