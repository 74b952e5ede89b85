"""Best of N: the best candidate wins, budgets hold exactly, and a stopped search goes on to the same winners."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.judge.requests import check_requests, requests_of
from sanac.judge.verifier import Picture, Request
from sanac.runtime.generate import plan_pictures
from sanac.runtime.pipeline import GenerationSettings
from sanac.search.best_of import rank_candidates
from sanac.search.budget import Budget, forwards_of
from sanac.search.settings import GenerateSettings
from sanac.search.verifiers import open_verifier
from tests.conftest import Sanac

PROMPTS = ("a circle above a square", "three green triangles")
BEST = ("--search", "best-of", "--verifier", "shapes", "--steps", "3")


class Painter:
    """Generates images whose brightness is the last digit of their seed."""

    name, device = "painter", "cpu"

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], *_: object) -> "list[np.ndarray]":
        assert len(prompts) == len(seeds)
        self.seeds += seeds
        return [np.stack([np.full((8, 8, 3), seed % 10, np.uint8) for seed in seeds])]


class Near:
    """A verifier whose optimum is known: brightness 7."""

    id = "near seven"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        assert len(images) == len(requests)
        return [-abs(float(image.mean()) - 7) for image in images]


def ranked(out: Path, painter: Painter, budget: Budget, n: int = 10) -> list[int]:
    out.mkdir(exist_ok=True)
    every = plan_pictures(PROMPTS, n, 0, out, {"model": "painter"})
    planned = [every[:n], every[n:]]
    requests = [Request(prompt) for prompt in PROMPTS]
    how = GenerationSettings(4, batch=3)
    found = rank_candidates(painter, requests, planned, how, Near(), budget, 8, NULL_REPORTER)
    return [ranking.winner.planned.seed for ranking in found]


def test_the_optimum_is_found_and_paid_for(tmp_path: Path) -> None:
    painter, budget = Painter(), Budget()
    assert ranked(tmp_path, painter, budget) == [7, 17]
    assert len(painter.seeds) == 20
    assert (budget.forwards, budget.decodes, budget.verifier_calls) == (160, 20, 20)


@pytest.mark.parametrize("most", [16, 23, 24, 100, 159, 160])
def test_a_budget_is_never_exceeded_and_shared_by_the_prompts(tmp_path: Path, most: int) -> None:
    painter, budget = Painter(), Budget(most)
    ranked(tmp_path, painter, budget)
    assert budget.forwards <= most
    assert budget.forwards + 8 > most, "nor is one candidate left out that it pays for"
    first, second = (sum(seed // 10 == prompt for seed in painter.seeds) for prompt in (0, 1))
    assert first - second in {0, 1}


def test_what_was_made_before_is_not_made_again(tmp_path: Path) -> None:
    whole = ranked(tmp_path / "whole", Painter(), Budget())
    painter = Painter()
    ranked(tmp_path / "parts", painter, Budget(70))
    before = len(painter.seeds)
    budget = Budget()
    assert ranked(tmp_path / "parts", painter, budget) == whole
    assert len(painter.seeds) == 20
    assert before == 8
    assert budget.forwards == 160, "candidates of an earlier run are paid for, too"


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_out_of_time_every_prompt_has_its_first_candidate(tmp_path: Path, seconds: float) -> None:
    painter = Painter()
    found = ranked(tmp_path, painter, Budget(max_seconds=seconds))
    assert found == ([1, 10] if seconds == 0 else [7, 17])
    assert painter.seeds[:2] == [0, 10]
    assert len(painter.seeds) == (3 if seconds == 0 else 20), "the batch that was begun, and no other"


def test_the_example_in_help_can_be_judged() -> None:
    (example,) = [line for line in GenerateSettings.EXAMPLES if "--search" in line]
    words = shlex.split(example)
    check_requests([words[words.index("--verifier") + 1]], requests_of([words[3]]))


def test_the_members_of_an_ensemble_keep_their_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, requests = [np.full((4, 4, 3), light, np.uint8) for light in (3, 7, 9)], requests_of(PROMPTS[:1]) * 3
    monkeypatch.setattr("sanac.search.verifiers._open", lambda _word, _device: Near())
    first = open_verifier(("one", "two"), "cpu", ConfinedPath(tmp_path)).scores(images, requests)
    assert first == [0.0, 1.0, 0.5]
    monkeypatch.setattr(Near, "scores", lambda *_: pytest.fail("asked again"))
    assert open_verifier(("one", "two"), "cpu", ConfinedPath(tmp_path)).scores(images, requests) == first


def test_forwards_count_both_branches_of_guided_steps() -> None:
    assert forwards_of(None, 20, 2, 4.5) == 40
    assert forwards_of(None, 20, 2, 1.0) == 20
    assert forwards_of(None, 2, 1, 4.5) == 2
    half = Schedule((0, 1), (999, 500), (1, 2), (True, False))
    assert forwards_of(half, 2, 2, 4.5) == 3
    with pytest.raises(UsageError, match="--max-forwards 79 is too small"):
        Budget(79).check(40, 2)


def test_winners_are_the_best_by_the_detector_and_can_be_made_again(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("generate", "sanac:tiny", *PROMPTS, *BEST, "--n", "3", "--out", "best", "--json")
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "best" / "search.json").read_text())
    assert report["spent"]["forwards"] == 2 * 3 * 3 * 2
    for prompt in report["prompts"]:
        scores = [candidate["score"] for candidate in prompt["candidates"]]
        assert scores == sorted(scores, reverse=True)
    seed = report["prompts"][1]["candidates"][0]["seed"]
    winner = tmp_path / "best" / f"three-green-triangles-{seed}.png"
    told = json.loads(Image.open(winner).text["search"])
    assert told["n"] == told["candidates"] == 3
    again = ("generate", "sanac:tiny", PROMPTS[1], "--steps", "3", "--seed", seed, "--out", "again")
    assert sanac(*again).code == 0
    alone = np.asarray(Image.open(tmp_path / "again" / winner.name)).astype(int)
    assert np.abs(alone - np.asarray(Image.open(winner))).max() <= 1
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "best" / "candidates").iterdir()}
    assert sanac("generate", "sanac:tiny", *PROMPTS, *BEST, "--n", "3", "--out", "best").code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "best" / "candidates").iterdir()} == files


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*PROMPTS, "--search", "best-of"), "--search best-of needs --verifier"),
        ((PROMPTS[0], *BEST, "--n", "0"), "--n"),
        ((*PROMPTS, *BEST, "--max-forwards", "11"), "--max-forwards 11 is too small"),
        (("a photo of a cat", *BEST), "shapes can't judge 'a photo of a cat'"),
        ((PROMPTS[0], "--verifier", "shapes"), "--verifier requires --search best-of"),
        ((PROMPTS[0], "--search", "best-of", "--verifier", "taste"), "names 'taste'"),
    ],
)
def test_what_can_not_be_searched(sanac: Sanac, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ran = sanac("generate", "sanac:tiny", *words, "--out", "best")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "best").exists()
