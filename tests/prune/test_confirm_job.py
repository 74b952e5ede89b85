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
