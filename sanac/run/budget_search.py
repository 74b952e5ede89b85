"""Finds the point with the best score for a cost per picture: screens what is within the budget, measures the best few.

Of the points that were measured in full, the best score wins; a cheaper one wins if its paired difference by prompt to
the best one doesn't exclude zero. Before it wins, others that cost no more are measured, too, unless screening tells
that they are worse.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.settings import settings_of
from sanac.core.units import bytes_text
from sanac.judge.intervals import Interval
from sanac.nn.step_costs import step_costs
from sanac.run.outcome import (
    RecipeOutcome,
    VariantResult,
    finished,
    latencies,
    rows_of,
    seconds_of,
    timed_of,
    with_front,
)
from sanac.run.points import Point, evaluation_of, points_of
from sanac.run.recipe import Target
from sanac.run.runner import RecipeRunner, StageResult
from sanac.run.scores import Measured, difference, short_of
from sanac.run.stage_graph import RecipePlan, RecipeStage, Variant, plan_of
from sanac.run.stage_words import words
from sanac.run.target_search import CHEAP
from sanac.search.picture_cost import BRANCHES
from sanac.verbs import VERBS
from sanac.verify.gates import numbers_of

FEW = 4  # points that are measured in full
_AS_GENERATED = {"search_verifier": "verifier"}  # settings of evaluate under another name in generate
_NOT_GENERATED = ("seed", "batch", "device")


@dataclass(frozen=True)
class ScreenedPoint:
    """A point within the budget, with its score on few images of tuning prompts."""

    point: Point
    size: float
    score: float
    measured: Measured | None = None

    @property
    def cost(self) -> tuple[float, float]:
        """Block-forwards, then bytes: what is cheaper."""
        return self.point.block_forwards, self.size

    def beaten_by(self, other: "ScreenedPoint") -> bool:
        """Whether another point is no more expensive, no larger and no worse, and better in one of these."""
        ours, theirs = (*self.cost, -self.score), (*other.cost, -other.score)
        return ours != theirs and all(mine >= its for mine, its in zip(ours, theirs, strict=True))

    def rivals(self, other: "ScreenedPoint") -> bool:
        """Whether it costs no more than another point, and may be as good: screening doesn't exclude it."""
        if self.point.block_forwards > other.point.block_forwards or not self.measured or not other.measured:
            return False
        return difference(self.measured, other.measured).high >= 0


@dataclass
class BudgetSearch:
    """The state of a search for the best point."""

    plan: RecipePlan
    runner: RecipeRunner
    target: Target
    source: dict[str, float] = field(default_factory=dict)
    base: Measured | None = None  # the source's evaluation
    reasons: list[str] = field(default_factory=list)
    rows: list[VariantResult] = field(default_factory=list)
    passed: list[VariantResult] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)  # point -> where its evaluation is

    def screened(self, points: Sequence[Point]) -> Iterator[ScreenedPoint]:
        """The points within the limits that are known before times, each with its score on tuning prompts."""
        recipe = self.plan.recipe
        kept = tuple(step for step in recipe.steps if step.verb not in CHEAP)
        bare = plan_of(replace(recipe, steps=kept), self.plan.identity)
        for whole, cheap in zip(self.plan.variants, bare.variants, strict=True):
            open_points = [point for point in points if point.variant.name == whole.name and self._affordable(point)]
            if not open_points:
                continue
            for stage in cheap.stages:
                self.runner.run(stage)
            model = open_model(locate(self.runner.place(cheap.last)))
            size = numbers_of(model)["size/bytes"]
            known = {point.samples: point for point in points_of(self.plan, whole, model)}
            for samples in (point.samples for point in open_points):
                point = known[samples]
                if self.target.max_bytes is not None and size > self.target.max_bytes:
                    self.reject(point, f"{bytes_text(int(size))}, over {bytes_text(self.target.max_bytes)}")
                elif self._affordable(point):
                    yield ScreenedPoint(point, size, *self._look(bare.sampled(samples), cheap))

    def _affordable(self, point: Point) -> bool:
        """Whether the point is not known to be over the budget; notes the reason."""
        text = point.over(self.target.max_block_forwards)
        if text:
            self.reject(point, text)
        return not text

    def _look(self, plan: RecipePlan, variant: Variant) -> tuple[float, Measured]:
        """The score on few images of tuning prompts, and where it is."""
        stages = plan.evaluations(variant, images=self.target.images, prompts_split="tune")
        (stage,) = (one for one in stages if one.verb == "evaluate")
        done = self.runner.run(stage, detached=True)
        return float(done.data["overall"]["value"]), Measured(done.out, plan.measurement)

    def reject(self, point: Point, *texts: str) -> None:
        """Note why a point is not chosen."""
        self.reasons.append(f"{point.name}: {'; '.join(texts)}")

    def choose_among(self, screened: Sequence[ScreenedPoint]) -> VariantResult | None:
        """Measure the best few in full, by their score on tuning prompts, and choose: first those that no other beats.

        A point that turns out to be over a limit no longer beats others. Where none of the few keeps every limit, the
        other unbeaten points are measured, too; and those that rival the chosen one.
        """
        alive, left = list(screened), list(screened)

        def measure(one: ScreenedPoint) -> None:
            left.remove(one)
            if not self._measured(one.point):
                alive.remove(one)

        while left and (len(self.rows) < FEW or not self.passed):
            front = [one for one in left if not any(map(one.beaten_by, alive))]
            if not front and len(self.rows) >= FEW:
                break
            measure(min(front or left, key=_rank))
        while (chosen := self._winner()) and (rivals := self._rivals(chosen, screened, left)):
            measure(min(rivals, key=_rank))
        for one in left:
            better = next(filter(one.beaten_by, alive), None)
            why = f"{better.point.name} costs no more and has {better.score:.3f}" if better else "others are better"
            self.reject(one.point, f"not measured: score {one.score:.3f} in screening; {why}")
        self._explain(chosen)
        return chosen

    def _rivals(
        self, chosen: VariantResult, screened: Sequence[ScreenedPoint], left: Sequence[ScreenedPoint]
    ) -> list[ScreenedPoint]:
        """Points that aren't measured yet, cost no more than the chosen one and may be as good."""
        ours = next((one for one in screened if one.point.name == chosen.name), None)
        return [one for one in left if ours and one.rivals(ours)]

    def _measured(self, point: Point) -> bool:
        """Make a point's variant in full and time it; if it is within all limits but the score's, measure it."""
        plan, runner, variant = self.plan.sampled(point.samples), self.runner, point.variant
        for stage in variant.stages:
            runner.run(stage)
        made = open_model(locate(runner.place(variant.last)))
        point = next(one for one in points_of(self.plan, variant, made) if one.samples == point.samples)
        bench = plan.bench([variant])
        timed = runner.run(bench) if bench else None
        seconds = _times(seconds_of(timed).get(runner.place(variant.last)), point)
        if missed := [*self._over(point, numbers_of(made)["size/bytes"], seconds, timed)]:
            self.reject(point, *missed)
            return False
        for stage in plan.evaluations(variant):
            done = runner.run(stage)
            if stage.verb == "evaluate":
                self.folders[point.name] = done.out
        (row,) = rows_of(plan, [variant], self.source | timed_of(runner.model, timed), timed, runner)
        row = replace(row, point=point, seconds=seconds, latency=_times(row.latency, point))
        self.rows.append(row)
        failed = [verdict.text for verdict in row.verdicts if not verdict.passed]
        least, short = self.target.min_score_ratio, list[str]()
        if least is not None and self.base is not None:
            short = short_of(self._measurement(row), self.base, self.source[self.base.metric], least)
        if failed or short:
            self.reject(point, *short, *failed)
        else:
            self.passed.append(row)
        return not failed

    def _over(self, point: Point, size: float, seconds: float | None, timed: StageResult | None) -> Iterator[str]:
        """The limits of size and time that a point misses, as text."""
        target, place = self.target, self.runner.place(point.variant.last)
        if text := point.over(target.max_block_forwards):
            yield text
        if target.max_bytes is not None and size > target.max_bytes:
            yield f"{bytes_text(int(size))}, over {bytes_text(target.max_bytes)}"
        if target.max_seconds is not None and (seconds is None or seconds > target.max_seconds):
            takes = "was not timed" if seconds is None else f"takes {seconds:.3f} s"
            yield f"a picture {takes}, at most {target.max_seconds:g} s"
        most, ratio = target.max_latency_ratio, _times(latencies(timed).get(place), point)
        if most is not None and (ratio is None or ratio > most):
            takes = "was not timed" if ratio is None else f"takes {ratio:.3f} of the source's time"
            yield f"a picture {takes}, at most {most:g}"

    def _measurement(self, row: VariantResult) -> Measured:
        return Measured(self.folders[row.name], row.measurement)

    def _best(self) -> VariantResult:
        return max(self.passed, key=lambda row: (row.score or 0.0, -_forwards(row), -row.size))

    def _gap(self, row: VariantResult, best: VariantResult) -> Interval:
        """How much better a row is than the best one, paired by prompt: at most zero in its value."""
        return difference(self._measurement(row), self._measurement(best))

    def _winner(self) -> VariantResult | None:
        """The cheapest point that isn't shown to be worse than the best one; the smallest where only bits differ."""
        if not self.passed:
            return None
        best = self._best()
        equal = [row for row in self.passed if row is best or self._gap(row, best).high >= 0]
        chosen = min(equal, key=lambda row: (_forwards(row), -(row.score or 0.0), row.size))
        alike = [row for row in equal if _shape(row) == _shape(chosen)]
        return min(alike, key=lambda row: (row.size, -(row.score or 0.0)))

    def _explain(self, chosen: VariantResult | None) -> None:
        """Note why each point that keeps every limit is chosen or isn't; the chosen one comes last."""
        if chosen is None:
            self.reasons.append("no point meets every limit: a larger budget, other depths or schemes in [matrix]")
            return
        best = self._best()
        for row in sorted(self.passed, key=lambda row: row is chosen):
            gap = self._gap(row, best)
            said = f"{row.name}: score {row.score:.4f}, {_forwards(row):g} block-forwards per picture"
            less = f"{-gap.value:.4f} less than {best.name}"
            if row is chosen and row is best:
                self.reasons.append(f"{said}: the best point within every limit")
            elif row is chosen:
                cheaper = "cheaper" if _forwards(row) < _forwards(best) else "smaller"
                self.reasons.append(f"{said}: {less}, within the interval, and {cheaper}")
            elif row is best or gap.high >= 0:
                cheaper = "cheaper" if _forwards(chosen) < _forwards(row) else "smaller or better"
                self.reasons.append(f"{said}; {chosen.name} is within the interval, and {cheaper}")
            else:
                self.reasons.append(f"{said}, {less}, beyond the interval")


def run_budget(plan: RecipePlan, points: Sequence[Point], runner: RecipeRunner) -> RecipeOutcome:
    """Run the search over these points; the outcome has the recommended one, its samples and the reasons."""
    target = plan.recipe.target
    assert target
    search = BudgetSearch(plan, runner, target)
    for stage in plan.source_stages:
        runner.run(stage)
    single = plan.sampled(1)
    score = single.source_score()
    if score:
        runner.run(score)
        search.base = Measured(score.folder(runner.workspace), single.measurement)
    source = open_model(locate(runner.model))
    search.source |= numbers_of(source, score.folder(runner.workspace) if score else None)
    chosen = search.choose_among(list(search.screened(points)))
    rows = with_front(search.rows)
    chosen = next((row for row in rows if chosen and row.name == chosen.name), None)
    settings = evaluation_of(single)
    costs = step_costs(source, settings.steps, settings.guidance)
    outcome = RecipeOutcome(
        plan.sampled(chosen.point.samples) if chosen and chosen.point else plan,
        search.source,
        rows,
        tuple(runner.done.values()),
        chosen,
        tuple(search.reasons),
        sum(cost.block_forwards for cost in costs) / BRANCHES,
        _command(plan, chosen) if chosen else "",
    )
    return finished(outcome, runner)


def _command(plan: RecipePlan, row: VariantResult) -> str:
    """`sanac generate` with a point's model, search and samples."""
    assert row.point
    step = plan.sampled(row.point.samples).recipe.scored
    assert step
    known = settings_of(VERBS["generate"].settings_class())
    named = {_AS_GENERATED.get(name, name): value for name, value in step.settings.items()}
    settings = {name: value for name, value in named.items() if name in known and name not in _NOT_GENERATED}
    options = shlex.join(words("generate", settings, plan.recipe.base))
    return f'sanac generate {shlex.quote(row.folder)} "PROMPT" {options}'.rstrip()


def _rank(one: ScreenedPoint) -> tuple[float, tuple[float, float]]:
    """The order in which points are measured: the best score first, of equal ones the cheapest."""
    return -one.score, one.cost


def _forwards(row: VariantResult) -> float:
    """Block-forwards of a picture at a row's point."""
    assert row.point
    return row.point.block_forwards


def _shape(row: VariantResult) -> tuple[float, int]:
    """What points have in common that only differ in the bits of their weights."""
    assert row.point
    return row.point.block_forwards, row.point.samples


def _times(one: float | None, point: Point) -> float | None:
    """The time of a picture with all its candidates, from that of a single one."""
    return None if one is None else one * point.candidates


def affordable_stages(plan: RecipePlan, points: Sequence[Point], most: float | None) -> tuple[RecipeStage, ...]:
    """The stages of a plan without the evaluations of points over the budget, and the variants that have no other."""
    within = {(point.variant.name, point.samples) for point in points if not point.over(most)}
    source = plan.sampled(1).source_score()
    dropped: set[str] = set()
    kept = {source.key} if source else set()
    for variant in plan.variants:
        for samples in plan.recipe.samples:
            keys = {stage.key for stage in plan.sampled(samples).evaluations(variant)}
            (kept if (variant.name, samples) in within else dropped).update(keys)
        alive = any((variant.name, samples) in within for samples in plan.recipe.samples)
        (kept if alive else dropped).update(stage.key for stage in variant.stages)
    return tuple(stage for stage in plan.stages() if stage.key in kept or stage.key not in dropped)
