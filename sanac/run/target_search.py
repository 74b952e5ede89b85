"""The smallest candidate that keeps what a target asks for: all seen cheaply first, measured from small to large."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sanac.core import json_files
from sanac.core.artifact.model import open_model
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text
from sanac.judge.intervals import PromptScore, paired_difference
from sanac.judge.results import prompt_scores, read_results
from sanac.run.outcome import SCORE, RecipeOutcome, VariantResult, finished, make, rows_of, timed_of
from sanac.run.recipe import Target
from sanac.run.runner import RecipeRunner
from sanac.run.stage_graph import RecipePlan, Variant, plan_of
from sanac.verify.gates import numbers_of

_CHEAP = ("finetune", "export")  # what a first look leaves out
_RESULTS = "evaluate-shapes"


@dataclass(frozen=True)
class ScreenedVariant:
    """A candidate as it was seen cheaply: without training, few pictures, tuning prompts."""

    variant: Variant
    size: float
    low: float
    score: float
    high: float

    def hopeless(self, others: "Sequence[ScreenedVariant]") -> "ScreenedVariant | None":
        """One that is no larger and surely better."""
        return next((one for one in others if one.size <= self.size and one.low > self.high), None)


def run_target(plan: RecipePlan, runner: RecipeRunner) -> RecipeOutcome:
    """Recommend one, with reasons."""
    target = plan.recipe.target
    assert target
    reasons: list[str] = []
    for stage in plan.before:
        runner.run(stage)
    looks = _looks(plan, target, runner)
    candidates = promising(looks, target, reasons)
    score = plan.source_score()
    if score:
        runner.run(score)
    source = numbers_of(open_model(locate(runner.model)), score.folder(runner.workspace) if score else None)
    rows: list[VariantResult] = []
    chosen: VariantResult | None = None
    for look in candidates:
        make(plan, look.variant, runner)
        bench = plan.bench([look.variant])
        timed = runner.run(bench) if bench else None
        (row,) = rows_of(plan, [look.variant], source | timed_of(runner.model, timed), timed, runner)
        rows.append(row)
        missed = _missed(row, target, source, score.folder(runner.workspace) if score else None)
        missed += [verdict.text for verdict in row.verdicts if not verdict.passed]
        if not missed:
            reasons.append(f"{row.variant.name}: the smallest of what was measured that keeps every limit")
            chosen = row
            break
        reasons.append(f"{row.variant.name}: {'; '.join(missed)}")
    if chosen is None:
        reasons.append("no candidate keeps every limit: more training steps, other depths or schemes in [matrix]")
    ran = RecipeOutcome(plan, source, tuple(rows), tuple(runner.done.values()), chosen, tuple(reasons))
    return finished(ran, runner)


def _looks(plan: RecipePlan, target: Target, runner: RecipeRunner) -> list[ScreenedVariant]:
    """Every candidate without what costs much."""
    recipe = plan.recipe
    cheap = plan_of(replace(recipe, steps=tuple(s for s in recipe.steps if s.verb not in _CHEAP)), plan.identity)
    found = []
    for whole, bare in zip(plan.variants, cheap.variants, strict=True):
        for stage in bare.making:
            runner.run(stage)
        size = numbers_of(open_model(locate(runner.place(bare.last))))["size/bytes"]
        low = score = high = 1.0
        if recipe.of("evaluate") and target.min_score_ratio is not None:
            (stage,) = (
                one for one in cheap.looking(bare, images=target.images, prompts_split="tune") if one.verb == "evaluate"
            )
            seen = runner.run(stage, apart=True).data["overall"]
            low, score, high = seen["low"], seen["value"], seen["high"]
        found.append(ScreenedVariant(whole, size, low, score, high))
    return found


def promising(looks: Sequence[ScreenedVariant], target: Target, reasons: list[str]) -> list[ScreenedVariant]:
    """Near the front and small enough, from small to large."""
    if not looks:
        raise UsageError("there is no candidate", hint="add values to [matrix]")
    found = []
    for look in sorted(looks, key=lambda one: (one.size, -one.score)):
        if target.max_bytes is not None and look.size > target.max_bytes:
            reasons.append(f"{look.variant.name}: {bytes_text(int(look.size))}, over {bytes_text(target.max_bytes)}")
        elif better := look.hopeless(looks):
            note = f"{look.score:.3f} at first sight, {better.variant.name} is no larger and has {better.score:.3f}"
            reasons.append(f"{look.variant.name}: not measured further: {note}")
        else:
            found.append(look)
    return found


def _missed(row: VariantResult, target: Target, source: Mapping[str, float], base: Path | None) -> list[str]:
    """What of the target it doesn't keep."""
    found = []
    if target.max_bytes is not None and row.size > target.max_bytes:
        found.append(f"{bytes_text(int(row.size))}, over {bytes_text(target.max_bytes)}")
    most = target.max_latency_ratio
    if most is not None and (row.latency is None or row.latency > most):
        share = "was not timed" if row.latency is None else f"takes {row.latency:.3f} of the source's time"
        found.append(f"a picture {share}, {most:g} at most")
    least = target.min_score_ratio
    if least is not None and base is not None:
        ratio, low = score_ratio(Path(row.folder), base, source[SCORE], least)
        if low < 0:
            found.append(f"{ratio:.4f} of the source's score: the lower bound is {-low:.4f} short of {least:g} of it")
    return found


def score_ratio(folder: Path, base: Path, whole: float, least: float) -> tuple[float, float]:
    """The share of the source's score, and by how much the difference's lower bound keeps `least`; by the prompt.

    low(candidate - source) + (1 - least) * source >= 0
    """
    ours, theirs = (_scores(place / MEASUREMENTS) for place in (folder, base))
    difference = paired_difference(ours, theirs).interval
    if whole == 0:
        return 1.0, difference.low
    return (whole + difference.value) / whole, difference.low + (1 - least) * whole


def _scores(place: Path) -> list[PromptScore]:
    """Of the test prompts; what is held out comes after them, and is no part of the score."""
    results = read_results(place / f"{_RESULTS}.jsonl")
    return prompt_scores(results[: json_files.read_object(place / f"{_RESULTS}.json")["pictures"]])
