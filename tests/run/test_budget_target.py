"""A target with a cost per picture: points are known before anything runs, the best one within the budget is chosen."""

import json
from pathlib import Path

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.judge.intervals import Interval
from sanac.nn.step_costs import step_costs
from sanac.nn.stepwise import StepCost
from sanac.run import budget_search
from sanac.run.budget_search import FEW, BudgetSearch, ScreenedPoint
from sanac.run.outcome import VariantResult
from sanac.run.points import Point
from sanac.run.recipe import SAMPLES, Recipe, Target
from sanac.run.recipe_checks import read_recipe
from sanac.run.scores import Measured
from sanac.run.stage_graph import Variant, plan_of
from sanac.search.halving import cost_of
from sanac.search.picture_cost import picture_cost
from sanac.search.settings import SearchSettings
from tests.conftest import Sanac
from tests.run.small import write

DEPTHS = """\
model = "sanac:tiny"
sheet = false
[prune]
select = "bi"
num_prompts = 2
[evaluate]
suite = "shapes"
images = 12
steps = 2
search = "best-of"
search_verifier = ["shapes"]
[matrix]
"prune.target_blocks" = [12, 6]
"""
BUDGET = DEPTHS + "[target]\nmax_block_forwards = 24\nsamples = [1, 2]\nimages = 12\n"
BENCH = "[bench]\nsteps = 2\nrounds = 2\n"
KEPT = "evaluate-shapes-best-of-2"


def recipe(folder: Path, text: str) -> Recipe:
    (folder / "recipe.toml").write_text(text)
    return read_recipe(folder / "recipe.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('search = "best-of"\nsearch_verifier = ["shapes"]\n', "", "recipe.toml:14: target.samples needs a search"),
        ("samples = [1, 2]", "samples = [2, 1]", "target.samples is [2, 1]: not in ascending order"),
        ("samples = [1, 2]", "samples = [1, 1]", "target.samples is [1, 1]: not in ascending order"),
        ("samples = [1, 2]", "samples = [0, 2]", "target.samples is [0, 2]: each from 1 to 4,096"),
        ("samples = [1, 2]", "samples = []", "target.samples is [], not a list of whole numbers"),
        ("samples = [1, 2]", "samples = [1.5]", "not a list of whole numbers"),
        ("samples = [1, 2]", "samples = 2", "not a list of whole numbers"),
        ("max_block_forwards = 24", "max_block_forwards = 0", "target.max_block_forwards is 0, not a number above 0"),
        ("max_block_forwards = 24\n", 'max_bytes = "9MB"\n', "target.samples needs a cost per picture"),
        ("max_block_forwards = 24", "max_seconds = 1", "target.max_seconds needs times: add [bench]"),
        (
            "[target]\nmax_block_forwards = 24",
            "[bench]\n[target]\nmax_seconds = 1",
            "bench.steps differs from evaluate.",
        ),
        ('search = "best-of"', 'search = "gated"', "evaluate.search is gated, whose cost isn't known beforehand"),
        ('search = "best-of"', 'search = "best-of"\nn = 4', "evaluate.n is fixed, and target.samples decides it"),
        ('search = "best-of"', 'search = "best-of"\nmax_forwards = 9', "and target.max_block_forwards decides it"),
        ('search = "best-of"', 'search = "best-of"\nbackend = "onnx"', "a target's scores are those of the weights"),
    ],
)
def test_wrong_recipes(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert BUDGET.count(old) == 1
    with pytest.raises(UsageError) as caught:
        recipe(tmp_path, BUDGET.replace(old, new))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_a_budget_needs_scores(tmp_path: Path) -> None:
    before, _, after = BUDGET.partition("[evaluate]")
    text = before + "[matrix]" + after.partition("[matrix]")[2]
    with pytest.raises(UsageError) as caught:
        recipe(tmp_path, text)
    assert any(
        "target.max_block_forwards looks for the best score: add [evaluate]" in one for one in caught.value.problems
    )


def test_default_samples(tmp_path: Path) -> None:
    searched = recipe(tmp_path, BUDGET.replace("samples = [1, 2]\n", ""))
    assert searched.samples == SAMPLES
    plain = BUDGET.replace("samples = [1, 2]\n", "").replace('search = "best-of"\nsearch_verifier = ["shapes"]\n', "")
    assert recipe(tmp_path, plain).samples == (1,)
    alone = BUDGET.replace('[matrix]\n"prune.target_blocks" = [12, 6]\n', "").replace("num_", "target_blocks = 6\nnum_")
    assert recipe(tmp_path, alone).samples == (1, 2), "samples are something to choose from"


def test_other_recipes_keep_their_stages(tmp_path: Path) -> None:
    """What makes a model doesn't depend on a budget, and a single picture is evaluated without a search."""
    text = BUDGET.partition("[target]")[0]
    plain = plan_of(recipe(tmp_path, text.replace('search = "best-of"\nsearch_verifier = ["shapes"]\n', "")), "x")
    plan = plan_of(recipe(tmp_path, BUDGET), "x")
    assert [one.last.key for one in plan.variants if one.last] == [one.last.key for one in plain.variants if one.last]
    single = plan.sampled(1)
    assert single.source_score() == plain.source_score()
    assert single.evaluations(plan.variants[0]) == plain.evaluations(plain.variants[0])
    assert (single.measurement, plan.sampled(2).measurement) == ("evaluate-shapes", KEPT)


def test_what_a_picture_costs() -> None:
    """Twelve guided blocks count twelve; halving costs what its own formula says."""
    model = open_model(locate("sanac:tiny"))
    costs = step_costs(model, 10, 4.5)
    assert costs == (StepCost(2, 24),) * 10
    assert step_costs(model, 10, 1.0, blocks=6) == (StepCost(1, 6),) * 10
    assert step_costs(model, 10, 4.5, blocks=6, distilled=True) == (StepCost(1, 6),) * 10
    single, best_of = SearchSettings(), SearchSettings(search="best-of")
    assert (picture_cost(single, 1, costs), picture_cost(best_of, 4, costs)) == (120.0, 480.0)
    halving = SearchSettings(search="halving", look=(4, 6), keep=0.5)
    assert picture_cost(halving, 8, costs) == 12 * cost_of(8, (StepCost(1, 12),) * 10, [(4, 0.5), (6, 0.5)])


def test_too_small_for_any_point(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("run", write(BUDGET.replace("= 24", "= 11.5")))
    assert ran.code == 2, ran.err
    assert "too small for any point" in ran.err
    assert "prune.target_blocks=6, samples=1, costs 12 block-forwards" in ran.err
    assert not (tmp_path / "sanac-out").exists()


def test_dry_run_lists_the_points(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("run", write(BUDGET), "--dry-run", "--json")
    assert ran.code == 0, ran.err
    points = [(one["variant"][-2:], one["samples"], one["block_forwards"], one["over"]) for one in ran.json["points"]]
    assert points == [("12", 1, 24, False), ("12", 2, 48, True), ("=6", 1, 12, False), ("=6", 2, 24, False)]
    words = [stage["words"] for stage in ran.json["stages"]]
    assert sum("best-of" in one for one in words) == 1, "only the point within the budget is evaluated by a search"
    shown = sanac("run", "r.toml", "--dry-run").out
    assert shown.count("over the budget") == 1
    narrow = sanac("run", write(BUDGET.replace("= 24", "= 12")), "--dry-run", "--json").json["stages"]
    assert [stage["verb"] for stage in narrow] == ["evaluate", "prune", "evaluate"], (
        "a variant without points isn't made"
    )
    assert not (tmp_path / "sanac-out").exists()


def test_the_best_point_is_chosen(sanac: Sanac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Screened, measured, told: a cheaper point within the interval wins, and the outcome has its samples."""
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    gated = BUDGET + '[[gate]]\nmetric = "evaluate-shapes/overall"\nmin = 0.0\n'
    ran = sanac("run", write(gated), "--json", "-q")
    assert ran.code == 0, ran.err
    rows = {(row["variant"][-2:], row["samples"]): row for row in ran.json["variants"]}
    assert set(rows) == {("12", 1), ("=6", 1), ("=6", 2)}
    reasons = ran.json["reasons"]
    assert "prune.target_blocks=12, samples=2: 48 block-forwards per picture, over 24" in reasons
    assert (ran.json["samples"], ran.json["chosen"][-2:]) in {(row[1], row[0]) for row in rows}
    six = Path(rows["=6", 2]["out"])
    spent = json.loads((six / "measurements" / f"{KEPT}.json").read_text())["search"]["spent"]["block_forwards"]
    metrics = json.loads((six / "measurements" / "metrics.json").read_text())
    assert spent == 2 * 24 * (12 + 6), "what was foreseen is what was spent, by the suite and its held-out part"
    assert metrics[f"{KEPT}/overall"] == rows["=6", 2]["score"]
    assert metrics["evaluate-shapes/overall"] == rows["=6", 1]["score"], "no measurement is overwritten"
    assert ran.json["generate"].startswith(f'sanac generate {ran.json["out"]} "PROMPT" --steps 2')
    assert "| samples |" in summary.read_text()
    again = sanac("run", "r.toml")
    assert (again.code, "samples" in again.out, "generate with its samples: sanac generate" in again.out) == (
        0,
        True,
        True,
    )
    never = sanac("run", write(gated.replace("min = 0.0", "min = 1.1")), "--json", "-q")
    assert (never.code, never.json["chosen"], "samples" in never.json) == (5, None, False)
    assert "no point meets every limit" in never.json["reasons"][-1]
    kept = sanac("run", write(BUDGET + "min_score_ratio = 9\n"), "--json", "-q")
    assert (kept.code, sum("short of 9 of it" in one for one in kept.json["reasons"])) == (5, 3)


def test_seconds_of_a_picture(sanac: Sanac) -> None:
    """All candidates count; what takes too long is rejected before it is evaluated in full."""
    text = BUDGET.replace("max_block_forwards = 24", "max_seconds = 1000\nmax_latency_ratio = 1000") + BENCH
    ran = sanac("run", write(text.replace("[12, 6]", "[6]")), "--json", "-q")
    assert ran.code == 0, ran.err
    one, two = sorted(ran.json["variants"], key=lambda row: int(row["samples"]))
    assert (two["seconds"], two["latency_ratio"]) == (2 * one["seconds"], 2 * one["latency_ratio"])
    assert one["seconds"] > 0
    text = Path("r.toml").read_text().replace("max_seconds = 1000", "max_seconds = 1e-6")
    late = sanac("run", write(text), "--json", "-q")
    assert (late.code, late.json["variants"]) == (5, [])
    assert sum("at most 1e-06 s" in reason for reason in late.json["reasons"]) == 2


def screened(name: str, cost: float, score: float, size: float = 1.0) -> ScreenedPoint:
    return ScreenedPoint(Point(Variant(name, {}, ()), 1, cost, 1.0), size, score, Measured(Path(), name))


def test_what_beats_a_point() -> None:
    """No more expensive, no larger and no worse, and better in one of these."""
    one = screened("one", 10, 0.5)
    assert one.beaten_by(screened("two", 10, 0.6))
    assert one.beaten_by(screened("two", 9, 0.5))
    assert not one.beaten_by(screened("two", 9, 0.6, size=2.0)), "it is larger"
    assert not one.beaten_by(screened("two", 10, 0.5)), "it is the same"


NARROW, WIDE = 0.01, 0.2  # reach of the intervals below


def searching(
    monkeypatch: pytest.MonkeyPatch, folder: Path, truth: dict[str, float], reach: float
) -> tuple[BudgetSearch, list[str]]:
    """A search whose points score what `truth` says on test prompts, 'slow' is over a limit; and what it measured."""
    seen: list[str] = []

    def measured(self: BudgetSearch, point: Point) -> bool:
        name = point.variant.name
        seen.append(name)
        if name != "slow":
            numbers = {"evaluate-shapes/overall": truth.get(name, 0.5), "size/bytes": 0.5 if name == "int8" else 1.0}
            self.rows.append(VariantResult(point.variant, "", numbers, None, point=point))
            self.passed.append(self.rows[-1])
        return name != "slow"

    def difference(ours: Measured, theirs: Measured) -> Interval:
        gap = truth.get(ours.name, 0.5) - truth.get(theirs.name, 0.5)
        return Interval(gap, gap - reach, gap + reach, 0.95, 9)

    monkeypatch.setattr(BudgetSearch, "_measured", measured)
    monkeypatch.setattr(BudgetSearch, "_measurement", lambda _, row: Measured(Path(), row.variant.name))
    monkeypatch.setattr(budget_search, "difference", difference)
    plan = plan_of(recipe(folder, BUDGET), "x")
    return BudgetSearch(plan, None, Target(max_seconds=1.0)), seen  # type: ignore[arg-type]


def test_which_points_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The best few of the front; one over a time limit beats nothing any longer."""
    truth = {"hidden": 0.9, "cheap 8": 0.8, "cheap 7": 0.7, "cheap 6": 0.6, "worse": 0.2, "cheap 5": 0.2}
    search, seen = searching(monkeypatch, tmp_path, truth, NARROW)
    points = [screened("slow", 10, 0.9), screened("hidden", 10, 0.9, size=2.0), screened("worse", 30, 0.85, size=3.0)]
    points += [screened(f"cheap {cost}", cost, cost / 10) for cost in (8, 7, 6, 5)]
    chosen = search.choose_among(points)
    assert chosen
    assert (chosen.variant.name, len(search.rows)) == ("hidden", FEW)
    assert seen == ["slow", "hidden", "cheap 8", "cheap 7", "cheap 6"]
    assert [reason.partition(":")[0] for reason in search.reasons[:2]] == ["worse, samples=1", "cheap 5, samples=1"]
    assert "hidden, samples=1 costs no more and has 0.900" in search.reasons[0]
    few, seen = searching(monkeypatch, tmp_path, {}, NARROW)
    few.choose_among([screened("one", 10, 0.9), screened("two", 20, 0.9), screened("three", 9, 0.8)])
    assert seen == ["one", "three", "two"], "few points are all measured, the beaten one last"


def test_a_cheaper_point_wins_a_tie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not before its rivals are measured; of points that cost the same the best, of bits the fewest."""
    truth = {"best": 0.9, "near": 0.8, "far": 0.6, "rival": 0.85, "int8": 0.84}
    points = [screened("best", 40, 0.9), screened("near", 20, 0.8), screened("far", 10, 0.75)]
    points += [screened("more", 50, 0.91), screened("rival", 20, 0.7, size=2.0)]
    search, seen = searching(monkeypatch, tmp_path, truth, WIDE)
    chosen = search.choose_among(points)
    assert chosen
    assert (chosen.variant.name, seen[-1]) == ("rival", "rival"), search.reasons
    assert "0.0500 less than best, samples=1, within the interval, and cheaper" in search.reasons[-1]
    bits, _ = searching(monkeypatch, tmp_path, truth, WIDE)
    smaller = bits.choose_among([screened("rival", 20, 0.8), screened("int8", 20, 0.8, size=0.5)])
    assert smaller
    assert smaller.variant.name == "int8"
    sure, _ = searching(monkeypatch, tmp_path, truth, NARROW)
    best = sure.choose_among(points)
    assert best
    assert best.variant.name == "best"
    none, _ = searching(monkeypatch, tmp_path, truth, NARROW)
    assert none.choose_among([screened("slow", 1, 0.9)]) is None
    assert "no point meets every limit" in none.reasons[-1]
