"""Searches as they are typed: winners, budgets, resuming, and what is refused."""

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanac.core.artifact.model import open_model
from sanac.core.artifact.schedule import Schedule
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.json_files import pretty
from sanac.core.settings import settings_of
from sanac.judge.judge_files import save_judge
from sanac.judge.requests import check_requests, requests_of
from sanac.judge.state_judge import StateJudge, StateJudgeShape
from sanac.judge.verifier import Request
from sanac.nn.pipeline_config import noise_levels
from sanac.nn.stepwise import Noise
from sanac.runtime.stepwise import StepwiseSana
from sanac.search.budget import Budget
from sanac.search.generator_search import GeneratorSearch
from sanac.search.judging import SearchJudge
from sanac.search.pool import Candidate, Dropped, Found, Origin, Restart, forwards, origin_of
from sanac.search.searcher import Searcher, SearchJournal
from sanac.search.settings import GenerateSettings
from sanac.search.strategies import STRATEGIES, SearchPlan
from sanac.search.verifiers import open_verifier
from tests.conftest import Sanac, Shared
from tests.judge.small_judges import save_clip, save_llava, save_qwen
from tests.search.number_generator import Near, NumberGenerator, painted, value_of

PROMPTS = ("a circle above a square", "three green triangles")
BEST = ("--search", "best-of", "--verifier", "shapes", "--steps", "3")
ONE = forwards(NumberGenerator().costs)


def searcher(budget: Budget, n: int = 10, strategy: str = "best-of", looks: Sequence[int] = ()) -> Searcher:
    return Searcher(NumberGenerator(), SearchJudge(Near()), SearchPlan(strategy, n, 3, tuple(looks)), budget)


def test_every_strategy_has_a_name() -> None:
    assert set(settings_of(GenerateSettings)["search"].choices) == {"single", *STRATEGIES}


@pytest.mark.parametrize("most", [2 * ONE, 3 * ONE - 1, 3 * ONE, 100, 20 * ONE - 1, 20 * ONE])
def test_a_budget_is_shared_by_the_prompts(most: int) -> None:
    budget = Budget(most)
    one = searcher(budget)
    counts = []
    for number, prompt in enumerate(PROMPTS):
        found, spent = one.search(Request(prompt), range(10 * number, 10 * number + 10), len(PROMPTS) - number)
        counts.append(len(found.candidates))
        assert spent["decodes"] == spent["verifier_calls"] == len(found.candidates)
    assert budget.spent["forwards"] == one.generator.spent.forwards == sum(counts) * ONE <= most
    assert budget.spent["forwards"] + ONE > min(most, 20 * ONE), "no candidate is left out that it pays for"
    assert abs(counts[0] - counts[1]) <= 1


def test_a_budget_for_less_than_an_image_is_refused() -> None:
    with pytest.raises(UsageError, match=f"--max-forwards {2 * ONE - 1} is too small"):
        searcher(Budget(2 * ONE - 1)).check(2)
    searcher(Budget(2 * ONE)).check(2)


def test_what_an_earlier_run_finished_is_paid_for_and_not_made_again() -> None:
    kept: dict[Origin, np.ndarray] = {}
    whole, _ = searcher(Budget()).search(Request("a"), range(10), 1)
    first = searcher(Budget(4 * ONE))
    first.search(Request("a"), range(10), 1, kept.__setitem__)
    assert len(kept) == 4
    budget = Budget(7 * ONE)
    second = searcher(budget)
    found, spent = second.search(Request("a"), range(10), 1, kept.__setitem__, kept.get)
    assert second.generator.spent.forwards == 3 * ONE
    assert spent["forwards"] == 7 * ONE
    assert [one.score for one in found.candidates] == [one.score for one in whole.candidates[:7]]


def test_the_journal_gives_back_what_was_found(tmp_path: Path) -> None:
    origins = [
        Origin(Noise(3).turned(5, 0.9)),
        Origin(Noise(4), draft=True),
        Origin(Noise(6)).restarted(8, Restart(4, Noise(9), "a number, more")),
    ]
    assert [origin_of(json.loads(json.dumps(origin.to_json()))) for origin in origins] == origins
    pictures = {origin: painted([10 * place])[0] for place, origin in enumerate(origins)}
    found = Found([Candidate(one, place / 3, pictures[one]) for place, one in enumerate(origins)])
    found.dropped = [Dropped(origins[0], 2, 0.25)]
    spent = {"forwards": 5, "block_forwards": 10, "decodes": 2, "verifier_calls": 3}
    file = ConfinedPath(tmp_path) / "journal.jsonl"
    SearchJournal(file, "key").put(1, {"prompt": "a"}, found, spent)
    with file.open("ab") as lines:
        lines.write(b'{"key": "key", "number": 2, "cand')
    journal = SearchJournal(file, "key")
    again = journal.get(1, {"prompt": "a"}, pictures.get)
    assert again is not None
    assert again[1] == spent
    assert again[0].winner == found.winner
    assert again[0].dropped == found.dropped
    assert journal.get(2, {"prompt": "a"}, pictures.get) is None, "a line that was cut off"
    assert SearchJournal(file, "other").get(1, {"prompt": "a"}, pictures.get) is None
    assert journal.get(1, {"prompt": "b"}, pictures.get) is None, "another prompt"
    SearchJournal(file, "key").put(3, {"prompt": "a"}, found, spent)
    assert SearchJournal(file, "key").get(3, {"prompt": "a"}, pictures.get), "behind the line that was cut off"
    del pictures[origins[1]]
    assert journal.get(1, {"prompt": "a"}, pictures.get) is None, "an image is missing"


def test_a_winner_follows_from_its_origin() -> None:
    """What is recorded of a winner makes it again: noise, turns, restarts and prompts."""
    judge = SearchJudge(Near())
    for strategy, looks in (("zero-order", ()), ("paths", (4, 6)), ("prm", (4, 6)), ("reflection", ())):
        search = GeneratorSearch(Request("a"), NumberGenerator(), judge, 3)
        plan = SearchPlan(strategy, 16, 3, looks, until=2.0)
        for candidate in plan.run(search, [Noise(seed) for seed in range(16)]).candidates:
            made = replayed(NumberGenerator(), candidate.origin)
            assert judge.score([made], Request("a")) == [candidate.score]


def replayed(generator: NumberGenerator, origin: Origin) -> np.ndarray:
    images = generator.start(["a"], [origin.noise])
    for taken, restart in origin.restarts:
        while images.done < taken:
            images.advance()
        images = generator.restart(["a"], images.guesses, [restart.noise], restart.step)
    found: np.ndarray = images.finish()[0]
    return found


def test_the_example_in_help_can_be_judged() -> None:
    (example,) = [line for line in GenerateSettings.EXAMPLES if "--search" in line]
    words = shlex.split(example)
    check_requests([words[words.index("--verifier") + 1]], requests_of([words[3]]))


def test_the_members_of_an_ensemble_keep_their_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, requests = list(painted([60, 70, 75])), requests_of(PROMPTS[:1]) * 3
    monkeypatch.setattr("sanac.search.verifiers._open", lambda _word, _device: Near())
    first = open_verifier(("one", "two"), "cpu", ConfinedPath(tmp_path)).scores(images, requests)
    assert first == [0.0, 1.0, 0.5]
    monkeypatch.setattr(Near, "scores", lambda *_: pytest.fail("asked again"))
    assert open_verifier(("one", "two"), "cpu", ConfinedPath(tmp_path)).scores(images, requests) == first


def test_ranks_are_those_among_all_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are scored as they are finished, but ranks of one batch say nothing about another."""
    monkeypatch.setattr("sanac.search.verifiers._open", lambda _word, _device: Near())
    one = searcher(Budget(), n=7)
    one.judge = SearchJudge(open_verifier(("one", "two"), "cpu", ConfinedPath(tmp_path)))
    found, _ = one.search(Request("a"), range(7), 1)
    assert sorted(candidate.score for candidate in found.candidates) == pytest.approx(np.linspace(0, 1, 7))
    assert found.winner.origin.noise.seed == min(range(7), key=lambda seed: abs(value_of(Noise(seed)) - 70))


def test_winners_are_the_best_by_the_detector_and_can_be_made_again(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("generate", "sanac:tiny", *PROMPTS, *BEST, "--n", "3", "--out", "best", "--json")
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "best" / "search.json").read_text())
    assert report["spent"]["forwards"] == 2 * 3 * 3 * 2
    for prompt in report["prompts"]:
        scores = [candidate["score"] for candidate in prompt["candidates"]]
        assert scores == sorted(scores, reverse=True)
    seed = report["prompts"][1]["candidates"][0]["origin"]["seed"]
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
        ((PROMPTS[0], "--verifier", "shapes"), "--verifier requires --search"),
        ((PROMPTS[0], "--search", "best-of", "--verifier", "taste"), "names 'taste'"),
        ((PROMPTS[0], *BEST, "--keep", "0.3"), "--keep requires --search halving"),
        ((PROMPTS[0], *BEST[2:], "--search", "halving", "--look", "2,1"), "--look is not in ascending order"),
        ((PROMPTS[0], *BEST[2:], "--search", "halving", "--look", "3"), "--look 3 is not before the last of 3 steps"),
        ((PROMPTS[0], "--search", "prm", "--verifier", "shapes", "--steps", "1"), "needs two steps or more"),
        (
            (PROMPTS[0], "--search", "zero-order", "--verifier", "shapes,clip:MODEL"),
            "--search zero-order needs a single verifier",
        ),
        ((PROMPTS[0], "--until", "0.9"), "--until requires --search best-of or reflection"),
    ],
)
def test_what_can_not_be_searched(sanac: Sanac, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ran = sanac("generate", "sanac:tiny", *words, "--out", "best")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("strategy", ["best-of", "halving", "zero-order"])
def test_a_stopped_search_goes_on_to_the_same_winners(
    sanac: Sanac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Stopped within the second prompt: the first one is read, and the budget counts it."""
    words = ("generate", "sanac:tiny", *PROMPTS, "--search", strategy, "--verifier", "shapes", "--steps", "4")
    words = (*words, "--n", "4", "--batch", "2", "--max-forwards", "60")
    assert sanac(*words, "--out", "whole").code == 0
    begun, start = [], StepwiseSana.start

    def stopping(self: StepwiseSana, prompts: Sequence[str], noises: Sequence[Noise]) -> object:
        begun.append(prompts[0])
        if begun.count(PROMPTS[1]) == 2:
            raise KeyboardInterrupt
        return start(self, prompts, noises)

    monkeypatch.setattr(StepwiseSana, "start", stopping)
    assert sanac(*words, "--out", "parts").code == 130
    assert not (tmp_path / "parts" / "search.json").exists()
    begun.clear()
    monkeypatch.setattr(StepwiseSana, "start", lambda *how: begun.append(how[1][0]) or start(*how))
    assert sanac(*words, "--out", "parts").code == 0
    assert PROMPTS[0] not in begun
    whole, parts = (json.loads((tmp_path / out / "search.json").read_text()) for out in ("whole", "parts"))
    assert parts["prompts"] == whole["prompts"]
    counts = ("forwards", "block_forwards", "decodes")
    assert [parts["spent"][name] for name in counts] == [whole["spent"][name] for name in counts]
    assert parts["spent"]["forwards"] <= 60
    assert sanac(*words, "--out", "parts", "--seed", "9").code == 0, "another seed is another search"


def test_a_candidates_file_of_another_model_is_not_taken(sanac: Sanac, tmp_path: Path) -> None:
    assert sanac("generate", "sanac:tiny", PROMPTS[0], *BEST, "--n", "2", "--out", "best").code == 0
    ran = sanac("generate", "sanac:tiny", PROMPTS[0], *BEST[:-1], "5", "--n", "2", "--out", "best")
    assert ran.code == 2
    assert "would be lost" in ran.err
    assert "its steps is 3, this command's is 5" in ran.err


def test_other_prompts_in_one_folder_keep_to_themselves(sanac: Sanac, tmp_path: Path) -> None:
    """A journal knows its prompts and what they were allowed, and winners take the place of no other image."""
    words = ("--search", "best-of", "--verifier", "shapes", "--steps", "2", "--n", "2", "--json", "--out", "best")
    first = sanac("generate", "sanac:tiny", PROMPTS[0], *words)
    assert sanac("generate", "sanac:tiny", PROMPTS[1], *words).code == 0
    again = sanac("generate", "sanac:tiny", PROMPTS[0], *words)
    assert again.json["prompts"] == first.json["prompts"]
    both = sanac("generate", "sanac:tiny", *PROMPTS, *words, "--max-forwards", "16")
    assert both.code == 0, both.err
    assert both.json["spent"]["forwards"] <= 16
    other = sanac("generate", "sanac:tiny", PROMPTS[0], "--steps", "1", "--out", "plain")
    assert other.code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    ran = sanac("generate", "sanac:tiny", PROMPTS[0], *words[:-1], "plain")
    assert ran.code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "plain").iterdir()} == before


def test_heads_that_do_not_fit_are_refused(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    save_judge(StateJudge(shape := StateJudgeShape(1, 12, 6)), shape.to_json(), ConfinedPath(tmp_path) / "head")
    words = ("--search", "halving", "--verifier", "shapes", "--steps", "4", "--n", "2", "--out", "best")
    ran = sanac("generate", pipeline, PROMPTS[0], *words, "--previews", "states:head")
    assert ran.code == 3
    assert "doesn't fit" in ran.err
    scheduled = Path(shutil.copytree(pipeline, tmp_path / "scheduled"))
    levels = noise_levels(open_model(locate(str(pipeline))), 4)
    made = Schedule((0, 5, 2, 1, 4, 3), levels, (2, 4, 6, 6), (True,) * 4)
    (scheduled / "schedule.json").write_bytes(pretty(made.to_json()))
    ran = sanac("generate", scheduled, PROMPTS[0], *words, "--previews", "states:sanac:tiny")
    assert ran.code == 2
    assert "leave out block 3" in ran.err


@pytest.mark.parametrize(
    ("strategy", "more", "said"),
    [
        ("reflection", (), "--search reflection needs --until with this verifier"),
        ("gated", (), "--search gated needs --potential with this verifier"),
        ("prm", ("--n", "4"), "--n 4 is too few for --search prm"),
    ],
)
def test_a_search_says_what_it_lacks(
    sanac: Sanac, small_judges: Path, strategy: str, more: tuple[str, ...], said: str
) -> None:
    words = ("--search", strategy, "--verifier", f"clip:{small_judges}/clip", "--steps", "20", *more)
    ran = sanac("generate", "sanac:tiny", PROMPTS[0], *words, "--out", "best")
    assert ran.code == 2
    assert said in ran.err


def test_a_draft_is_made_again_by_what_it_records(sanac: Sanac, tmp_path: Path) -> None:
    words = ("generate", "sanac:tiny", PROMPTS[0], "--search", "two-stage", "--verifier", "shapes", "--steps", "6")
    ran = sanac(*words, "--n", "3", "--draft-steps", "4", "--out", "best", "--json")
    assert ran.code == 0, ran.err
    drafts = [one for one in ran.json["prompts"][0]["candidates"] if one["origin"].get("draft")]
    assert len(drafts) == 3
    assert len(ran.json["prompts"][0]["candidates"]) == 4
    (draft,) = (tmp_path / "best" / "candidates").glob(f"*-{drafts[0]['origin']['seed']}-*.png")
    text = Image.open(draft).text
    steps = json.loads(text["settings"])["steps"]
    assert steps == 4
    again = ("generate", "sanac:tiny", text["prompt"], "--seed", text["seed"], "--steps", str(steps), "--out", "again")
    assert sanac(*again).code == 0
    (made,) = (tmp_path / "again").glob("*.png")
    assert np.abs(np.asarray(Image.open(made)).astype(int) - np.asarray(Image.open(draft))).max() <= 1
    winner = next(path for path in (tmp_path / "best").glob("a-circle*.png"))
    told = json.loads(Image.open(winner).text["search"])
    assert told["settings"]["draft_steps"] == 4


def test_previews_are_read_by_a_head_on_the_models_states(sanac: Sanac, tmp_path: Path) -> None:
    """Without a decode for previews, also where blocks are gone."""
    assert sanac("prune", "sanac:tiny", "--keep", "0-2,5-11", "--out", "pruned").code == 0
    words = (
        "generate",
        "pruned",
        PROMPTS[0],
        "--search",
        "halving",
        "--verifier",
        "shapes",
        "--steps",
        "5",
        "--n",
        "4",
    )
    ran = sanac(*words, "--previews", "states:sanac:tiny", "--out", "best", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["reader"].startswith("state judge")
    assert ran.json["spent"]["decodes"] == 1, "the finished one"
    assert len(ran.json["prompts"][0]["dropped"]) == 3


def test_clarity_is_measured_once_and_decides_where_gates_look(sanac: Sanac) -> None:
    words = (
        "generate",
        "sanac:tiny",
        PROMPTS[0],
        "--search",
        "gated",
        "--verifier",
        "shapes",
        "--steps",
        "6",
        "--n",
        "3",
    )
    first = sanac(*words, "--out", "one", "--json")
    assert first.code == 0, first.err
    assert "where previews become clear" in first.err
    again = sanac(*words, "--out", "two", "--json")
    assert "where previews become clear" not in again.err
    assert again.json["looks"] == first.json["looks"]
    typed = sanac(*words, "--look", "2,5", "--out", "three", "--json")
    assert typed.json["looks"] == [2, 5]
    assert again.json["spent"]["forwards"] <= 3 * 12


@pytest.fixture(scope="module")
def small_judges(shared: Shared) -> Path:
    """Small random judges of the real classes."""

    def making(folder: Path) -> None:
        for name, save in (("clip", save_clip), ("llava", save_llava), ("qwen", save_qwen)):
            (folder / name).mkdir(parents=True)
            save(folder / name)

    return shared("judges", making)


@pytest.mark.parametrize("words", ["vlm:{}/llava", "atoms:{}/qwen", "clip:{}/clip", "vlm:{}/qwen,clip:{}/clip"])
def test_judges_of_the_real_classes_choose(sanac: Sanac, tmp_path: Path, small_judges: Path, words: str) -> None:
    words = words.replace("{}", str(small_judges))
    ran = sanac(
        "generate", "sanac:tiny", PROMPTS[0], *BEST[:2], "--verifier", words, "--steps", "2", "--n", "2", "--json"
    )
    assert ran.code == 0, ran.err
    first, second = ran.json["prompts"][0]["candidates"]
    assert first["score"] >= second["score"]
    assert ran.json["spent"]["verifier_calls"] == 2


@pytest.mark.parametrize(
    "word", ["vlm:someone/judge", "atoms:someone/judge", "clip:someone/judge", "judge:someone/judge"]
)
def test_a_judge_that_is_not_here_is_fetched_by_the_user(sanac: Sanac, tmp_path: Path, word: str) -> None:
    ran = sanac("generate", "sanac:tiny", PROMPTS[0], *BEST[:2], "--verifier", word, "--out", "best")
    assert ran.code == 4
    assert "hf download someone/judge" in ran.err
    assert not (tmp_path / "best").exists()
