"""Finds the smallest candidate that meets a recipe's target: screens all cheaply, then measures from small to large."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text
from sanac.run.outcome import RecipeOutcome, VariantResult, finished, make, rows_of, timed_of
from sanac.run.recipe import Target
from sanac.run.runner import RecipeRunner
from sanac.run.scores import Measured, short_of
from sanac.run.stage_graph import RecipePlan, Variant, plan_of
from sanac.verify.gates import numbers_of

CHEAP = ("finetune", "export")  # verbs that the screening skips


@dataclass(frozen=True)
class ScreenedVariant:
    """Screening result of a candidate: without training, on few images of tuning prompts."""

    variant: Variant
    size: float
    low: float
    score: float
    high: float

    def hopeless(self, others: "Sequence[ScreenedVariant]") -> "ScreenedVariant | None":
        """Another candidate that is no larger and has a significantly better score; None if there is none."""
        return next((one for one in others if one.size <= self.size and one.low > self.high), None)


def run_target(plan: RecipePlan, runner: RecipeRunner) -> RecipeOutcome:
    """Run the target search; the outcome has the recommended variant and the reasons."""
    target = plan.recipe.target
    assert target
    reasons: list[str] = []
    for stage in plan.source_stages:
        runner.run(stage)
    all_screened = _screen(plan, target, runner)
    candidates = promising(all_screened, target, reasons)
    score = plan.source_score()
    if score:
        runner.run(score)
    source = numbers_of(open_model(locate(runner.model)), score.folder(runner.workspace) if score else None)
    rows: list[VariantResult] = []
    chosen: VariantResult | None = None
    for screened in candidates:
        make(plan, screened.variant, runner)
        bench = plan.bench([screened.variant])
        bench_result = runner.run(bench) if bench else None
        (row,) = rows_of(plan, [screened.variant], source | timed_of(runner.model, bench_result), bench_result, runner)
        rows.append(row)
        base = Measured(score.folder(runner.workspace), plan.measurement) if score else None
        missed = _missed(row, target, source, base)
        missed += [verdict.text for verdict in row.verdicts if not verdict.passed]
        if not missed:
            reasons.append(f"{row.variant.name}: the smallest measured variant that meets every limit")
            chosen = row
            break
        reasons.append(f"{row.variant.name}: {'; '.join(missed)}")
    if chosen is None:
        reasons.append("no candidate meets every limit: try more training steps, other depths or schemes in [matrix]")
    outcome = RecipeOutcome(plan, source, tuple(rows), tuple(runner.done.values()), chosen, tuple(reasons))
    return finished(outcome, runner)


def _screen(plan: RecipePlan, target: Target, runner: RecipeRunner) -> list[ScreenedVariant]:
    """Screen every candidate without the expensive stages."""
    recipe = plan.recipe
    cheap = plan_of(replace(recipe, steps=tuple(s for s in recipe.steps if s.verb not in CHEAP)), plan.identity)
    found = []
    for whole, bare in zip(plan.variants, cheap.variants, strict=True):
        for stage in bare.stages:
            runner.run(stage)
        size = numbers_of(open_model(locate(runner.place(bare.last))))["size/bytes"]
        low = score = high = 1.0
        if recipe.of("evaluate") and target.min_score_ratio is not None:
            (stage,) = (
                one
                for one in cheap.evaluations(bare, images=target.images, prompts_split="tune")
                if one.verb == "evaluate"
            )
            seen = runner.run(stage, detached=True).data["overall"]
            low, score, high = seen["low"], seen["value"], seen["high"]
        found.append(ScreenedVariant(whole, size, low, score, high))
    return found


def promising(all_screened: Sequence[ScreenedVariant], target: Target, reasons: list[str]) -> list[ScreenedVariant]:
    """Candidates worth measuring, from small to large: small enough and not dominated; adds reasons for the others."""
    if not all_screened:
        raise UsageError("the recipe has no candidates", hint="add values to [matrix]")
    found = []
    for screened in sorted(all_screened, key=lambda one: (one.size, -one.score)):
        if target.max_bytes is not None and screened.size > target.max_bytes:
            reasons.append(
                f"{screened.variant.name}: {bytes_text(int(screened.size))}, over {bytes_text(target.max_bytes)}"
            )
        elif better := screened.hopeless(all_screened):
            note = f"score {screened.score:.3f}; {better.variant.name} is no larger and has {better.score:.3f}"
            reasons.append(f"{screened.variant.name}: dropped after screening: {note}")
        else:
            found.append(screened)
    return found


def _missed(row: VariantResult, target: Target, source: Mapping[str, float], base: Measured | None) -> list[str]:
    """The limits of the target that a variant misses, as text."""
    found = []
    if target.max_bytes is not None and row.size > target.max_bytes:
        found.append(f"{bytes_text(int(row.size))}, over {bytes_text(target.max_bytes)}")
    most = target.max_latency_ratio
    if most is not None and (row.latency is None or row.latency > most):
        share = "was not timed" if row.latency is None else f"takes {row.latency:.3f} of the source's time"
        found.append(f"an image {share}, at most {most:g}")
    least = target.min_score_ratio
    if least is not None and base is not None:
        ours = Measured(Path(row.folder), row.measurement)
        found += short_of(ours, base, source[base.metric], least)
    return found
