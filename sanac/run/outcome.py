"""Runs all variants of a recipe and reports size, score, latency and checks of each, and the chosen variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sanac.core.artifact.model import open_model
from sanac.core.artifact.workspace import record
from sanac.core.check import Check
from sanac.core.checkpoint.locate import locate
from sanac.run.points import Point
from sanac.run.runner import RecipeRunner, StageResult
from sanac.run.stage_graph import RecipePlan, Variant
from sanac.verify.gates import judge, measured_in, numbers_of

SCORED = "evaluate-shapes"  # the measurement whose score stands for a model
NONE = "variants that keep every limit"


@dataclass(frozen=True)
class VariantResult:
    """Measurements and checks of one variant."""

    variant: Variant
    folder: str
    numbers: Mapping[str, float]
    latency: float | None  # time per image relative to the source model
    verdicts: tuple[Check, ...] = ()
    ahead: bool = True  # Pareto-optimal in size, latency, cost and score
    measurement: str = SCORED  # whose score it is
    point: Point | None = None  # with a budget: candidates and cost of a picture
    seconds: float | None = None  # of a picture with all its candidates

    @property
    def size(self) -> float:
        """Bytes of weights."""
        return self.numbers["size/bytes"]

    @property
    def score(self) -> float | None:
        """Shapes score; None if it wasn't evaluated."""
        return self.numbers.get(f"{self.measurement}/overall")

    @property
    def name(self) -> str:
        """The variant's name, with its samples where there is a budget."""
        return self.point.name if self.point else self.variant.name

    @property
    def passed(self) -> bool:
        """Whether all checks of the variant passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def to_json(self, *, names: bool = False) -> dict[str, Any]:
        """The variant as JSON; with `names`, folders are shortened to their names."""
        out = Path(self.folder).name if names else self.folder
        found = {"variant": self.variant.name, "out": out, "bytes": self.size, "score": self.score}
        gates = [verdict.to_json() for verdict in self.verdicts]
        found |= {"latency_ratio": self.latency, "ahead": self.ahead, "passed": self.passed, "gates": gates}
        return found | (self.point.to_json() | {"seconds": self.seconds} if self.point else {})


@dataclass(frozen=True)
class RecipeOutcome:
    """Outcome of a recipe run."""

    plan: RecipePlan
    source: Mapping[str, float]
    rows: tuple[VariantResult, ...]
    done: tuple[StageResult, ...]
    chosen: VariantResult | None  # the recipe's result
    reasons: tuple[str, ...] = ()
    source_forwards: float | None = None  # with a budget: block-forwards of a picture of the source
    command: str = ""  # with a budget: how the result generates with its samples

    @property
    def source_score(self) -> float | None:
        """The source's score; with a budget that of single pictures."""
        plan = self.plan.sampled(1) if self.plan.recipe.budget else self.plan
        return self.source.get(f"{plan.measurement}/overall")

    @property
    def limits(self) -> tuple[Check, ...]:
        """Checks of the chosen variant; without one, the failed checks of all variants."""
        if self.chosen:
            return self.chosen.verdicts
        named = [(row.name, verdict) for row in self.rows for verdict in row.verdicts if not verdict.passed]
        return tuple(replace(verdict, name=f"{name}: {verdict.name}") for name, verdict in named)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks that decide the result."""
        if self.chosen:
            return self.limits
        none = Check(NONE, 0.0, 1.0, most=False, note="; ".join(self.reasons[-3:]))
        return (none, *self.limits)

    @property
    def passed(self) -> bool:
        """Whether a variant was chosen and all its checks passed."""
        return self.chosen is not None and all(check.passed for check in self.checks)

    @property
    def cached(self) -> bool:
        """Whether all stages were cached."""
        return all(done.status == "cached" for done in self.done)

    def to_json(self, *, names: bool = False) -> dict[str, Any]:
        """The outcome as JSON; with `names`, folders are shortened to their names."""
        stages = [
            {
                "verb": done.stage.verb,
                "status": done.status,
                "out": done.out.name if names else str(done.out),
                "seconds": round(done.seconds, 2),
            }
            for done in self.done
        ]
        found = {
            "recipe": self.plan.recipe.name,
            "passed": self.passed,
            "stages": stages,
            "source": {"bytes": self.source["size/bytes"], "score": self.source_score},
            "variants": [row.to_json(names=names) for row in self.rows],
            "chosen": self.chosen.variant.name if self.chosen else None,
            "reasons": list(self.reasons),
            "checks": [check.to_json() for check in self.checks],
        }
        if self.chosen and self.chosen.point:
            found |= {"samples": self.chosen.point.samples, "generate": self.command}
        return found


def _of_stage(done: StageResult) -> Check | None:
    """One check for a stage's comparison: the number of its checks that failed; None without a comparison."""
    found = done.data.get("verify") or done.data
    figures = found.get("figures") if isinstance(found, Mapping) else None
    if not isinstance(figures, list) or not figures:
        return None
    failed = [str(figure.get("name")) for figure in figures if not figure.get("passed")]
    name = f"{done.stage.verb}: the same function"
    return Check(name, float(len(failed)), 0.0, most=True, note=", ".join(failed) or "figures beyond their limits")


def run_all(plan: RecipePlan, runner: RecipeRunner) -> RecipeOutcome:
    """Run all stages of all variants and choose the smallest variant that passes its checks."""
    for stage in plan.source_stages:
        runner.run(stage)
    score = plan.source_score()
    if score:
        runner.run(score)
    for variant in plan.variants:
        make(plan, variant, runner)
    bench = plan.bench(plan.variants)
    bench_result = runner.run(bench) if bench else None
    source = numbers_of(open_model(locate(runner.model)), score.folder(runner.workspace) if score else None)
    source |= timed_of(runner.model, bench_result)
    rows = rows_of(plan, plan.variants, source, bench_result, runner)
    chosen = next((row for row in sorted(rows, key=lambda row: row.size) if row.passed), None)
    reasons = ("the smallest variant that meets all limits",) if len(rows) > 1 and chosen else ()
    chosen = chosen or (rows[0] if len(rows) == 1 else None)
    return finished(RecipeOutcome(plan, source, rows, tuple(runner.done.values()), chosen, reasons), runner)


def make(plan: RecipePlan, variant: Variant, runner: RecipeRunner) -> None:
    """Run the stages that make a variant, and the evaluations of its final artifact."""
    for stage in (*variant.stages, *plan.evaluations(variant)):
        runner.run(stage)


def rows_of(
    plan: RecipePlan,
    variants: Sequence[Variant],
    source: Mapping[str, float],
    bench_result: StageResult | None,
    runner: RecipeRunner,
) -> tuple[VariantResult, ...]:
    """Results of the variants, with Pareto-optimal ones marked."""
    step = plan.recipe.of("bench")
    ratios = latencies(bench_result) if step and step.baseline else {}
    rows = []
    for variant in variants:
        place = runner.place(variant.last)
        numbers = numbers_of(open_model(locate(place)))
        if not variant.stages:
            numbers = {**numbers, **source, **_measured_apart(plan, variant, runner)}
        verdicts = (*_compared(variant, runner), *judge(plan.recipe.gates, _gated(plan, numbers), source))
        rows.append(VariantResult(variant, place, numbers, ratios.get(place), verdicts, measurement=plan.measurement))
    return with_front(rows)


def _measured_apart(plan: RecipePlan, variant: Variant, runner: RecipeRunner) -> dict[str, float]:
    """Metrics of a variant that is the source itself, whose evaluations have folders of their own."""
    done = (runner.done[stage.key] for stage in plan.evaluations(variant) if stage.key in runner.done)
    return {name: value for result in done for name, value in measured_in(result.out).items()}


def _gated(plan: RecipePlan, numbers: Mapping[str, float]) -> Mapping[str, float]:
    """Metrics as gates name them: with a budget, `evaluate-shapes/...` is measured with the point's samples."""
    if not plan.recipe.budget:
        return numbers
    prefix = f"{plan.measurement}/"
    own = {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}
    return {**numbers, **{f"{SCORED}/{name}": value for name, value in own.items()}}


def with_front(rows: Sequence[VariantResult]) -> tuple[VariantResult, ...]:
    """The rows, each with whether it is Pareto-optimal among them."""
    return tuple(replace(row, ahead=not any(_beats(other, row) for other in rows)) for row in rows)


def _compared(variant: Variant, runner: RecipeRunner) -> tuple[Check, ...]:
    """Checks from the verify and export stages of a variant."""
    makers = {stage.key for stage in variant.stages}
    mine = [
        done
        for done in runner.done.values()
        if done.stage.key in makers or (done.stage.source and done.stage.source.key in makers)
    ]
    found = [_of_stage(done) for done in mine if done.stage.verb in {"verify", "export"}]
    return tuple(verdict for verdict in found if verdict)


def _beats(one: VariantResult, other: VariantResult) -> bool:
    """Whether `one` dominates `other`: no worse in size, latency, cost and score, and better in at least one."""
    pairs = [(one.size, other.size)]
    if one.latency is not None and other.latency is not None:
        pairs.append((one.latency, other.latency))
    if one.score is not None and other.score is not None:
        pairs.append((-one.score, -other.score))
    if one.point is not None and other.point is not None:
        pairs.append((one.point.block_forwards, other.point.block_forwards))
    return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def timed_of(model: str, bench_result: StageResult | None) -> dict[str, float]:
    """A model's metrics from a benchmark of several models."""
    known = measured_in(bench_result.out) if bench_result else {}
    prefix = f"bench/{model}/"
    return {f"bench/{name.removeprefix(prefix)}": value for name, value in known.items() if name.startswith(prefix)}


def seconds_of(bench_result: StageResult | None) -> dict[str, float]:
    """Seconds of an image of each model on its fastest backend."""
    found: dict[str, float] = {}
    for subject in bench_result.data["subjects"] if bench_result else ():
        count, batch = next(iter(subject["batches"].items()))
        if "image" in batch["seconds"]:
            seconds = batch["seconds"]["image"]["median"] / int(count)
            found[subject["model"]] = min(seconds, found.get(subject["model"], seconds))
    return found


def latencies(bench_result: StageResult | None) -> dict[str, float]:
    """Latency of each model on its fastest backend, relative to the first subject."""
    found: dict[str, float] = {}
    for subject in bench_result.data["subjects"] if bench_result else ():
        batch = next(iter(subject["batches"].values()))
        ratio = 1 / batch["faster than the first"]["median"]
        found[subject["model"]] = min(ratio, found.get(subject["model"], ratio))
    return found


def finished(outcome: RecipeOutcome, runner: RecipeRunner) -> RecipeOutcome:
    """Record the chosen artifact as the workspace's newest one; returns the outcome."""
    if outcome.chosen and outcome.chosen.variant.last:
        record(runner.workspace, runner.model, Path(outcome.chosen.folder))
    return outcome


def table_of(outcome: RecipeOutcome) -> list[list[str]]:
    """Table of the outcome: header, source and a row per variant, without empty columns."""
    from sanac.core.units import bytes_text

    def cells(
        name: str,
        size: float,
        latency: float | None,
        score: float | None,
        mark: str,
        samples: int | None,
        forwards: float | None,
    ) -> list[str]:
        counts = [str(samples) if samples else "", f"{forwards:g}" if forwards is not None else ""]
        times = f"{latency:.2f}" if latency is not None else ""
        return [name, *counts, bytes_text(int(size)), times, f"{score:.3f}" if score is not None else "", mark]

    bench_result = 1.0 if any(row.latency for row in outcome.rows) else None
    forwards = outcome.source_forwards
    about = (outcome.source["size/bytes"], bench_result, outcome.source_score, "")
    rows = [cells("source", *about, 1 if forwards is not None else None, forwards)]
    for row in outcome.rows:
        marks = [
            "chosen" if row is outcome.chosen else "",
            "on the Pareto front" if row.ahead and len(outcome.rows) > 1 else "",
        ]
        marks += [] if row.passed else ["misses a limit"]
        mark = ", ".join(filter(None, marks))
        point = (row.point.samples, row.point.block_forwards) if row.point else (None, None)
        rows.append(cells(row.variant.name or "result", row.size, row.latency, row.score, mark, *point))
    titles = ["variant", "samples", "block-forwards", "weights", "time per image", "score", ""]
    columns = zip(titles, *rows, strict=True)
    held = [(title, *column) for title, *column in columns if any(column) or not title]
    return [list(row) for row in zip(*held, strict=True)]
