"""`sanac run`: the stages of a recipe, from the first one to the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.context import Context, Outcome
from sanac.core.errors import SanacError
from sanac.core.units import bytes_text, duration_text
from sanac.core.view import Block, Table, path_text
from sanac.report.hub import push
from sanac.run.before_after import make_sheet, reason_for_none
from sanac.run.budget_search import affordable_stages, run_budget
from sanac.run.bundled import recipe_file
from sanac.run.estimate import StageEstimate, estimate_recipe, sheet_seconds
from sanac.run.estimate import table_of as estimates_table
from sanac.run.outcome import NONE, RecipeOutcome, run_all, table_of
from sanac.run.points import Point, forecast
from sanac.run.publish import publish
from sanac.run.recipe_checks import read_recipe
from sanac.run.runner import RecipeRunner, workspace_lock
from sanac.run.settings import RecipeRunSettings
from sanac.run.stage_graph import RecipePlan, RecipeStage, plan_of
from sanac.run.target_search import run_target
from sanac.verbs import VERBS, resolve


def run(word: str, settings: RecipeRunSettings, context: Context, flags: tuple[str, ...] = ()) -> Outcome:
    """Run a recipe; `flags` are added to the command line of every stage."""
    recipe = read_recipe(recipe_file(word))
    source = settings.model or recipe.model
    model = context.open(source)
    plan = plan_of(recipe, model.identity())
    estimates = estimate_recipe(plan, model)
    points = forecast(plan, model, {key: one.blocks for key, one in estimates.items()}) if recipe.budget else ()
    none = reason_for_none(plan, model, seconds := sheet_seconds(plan, model, estimates))
    _check_installed(plan)
    total = 0 if recipe.target else len(list(plan.stages()))
    runner = RecipeRunner(_absolute(source), settings.workspace.absolute(), context.reporter, flags, total)
    if settings.dry_run:
        return _planned(plan, points, estimates, runner, 0.0 if none or _sheet_is_made(plan, runner) else seconds)
    with workspace_lock(runner.workspace):
        ran = run_budget(plan, points, runner) if points else (run_target if recipe.target else run_all)(plan, runner)
        sheet = None if none else make_sheet(ran, runner)
        annotations = publish(ran, runner.workspace, settings.junit, settings.mlflow)
        pushed = _push(ran, settings, context) if settings.push_to_hub else None
    status = "cached" if ran.cached and ran.passed else "ok" if ran.passed else "failed"
    out = Path(ran.chosen.folder) if ran.chosen else runner.workspace
    data = (
        ran.to_json() | {"sheet": str(sheet) if sheet else None} | ({"pushed": pushed} if settings.push_to_hub else {})
    )
    return Outcome(status, data, out, ran, partial(_show_outcome, ran, source, sheet or none, pushed), annotations)


def _sheet_is_made(plan: RecipePlan, runner: RecipeRunner) -> bool:
    """Whether the pictures of a variant's sheet are cached."""
    return any(runner.known(plan.comparison(variant)) for variant in plan.variants if variant.stages)


def _check_installed(plan: RecipePlan) -> None:
    """Raise, before any stage runs, if a later one needs something that isn't installed."""
    problems: list[SanacError] = []
    for stage in plan.stages():
        check = VERBS[stage.verb].ready
        try:
            if check:
                resolve(check)(stage.typed_settings)
        except SanacError as error:
            problems.append(error)
    if problems:
        first = problems[0]
        message = f"this recipe can't be run to its end here: {first.message}"
        raise type(first)(message, why=first.why, hint=first.hint, problems=[one.message for one in problems])


def _absolute(word: str) -> str:
    return str(Path(word).absolute()) if Path(word).exists() else word


def _planned(
    plan: RecipePlan,
    points: Sequence[Point],
    estimates: Mapping[str, StageEstimate],
    runner: RecipeRunner,
    sheet: float,
) -> Outcome:
    """The stages, which are done, and how long the others take; `sheet`: seconds of the sheet, 0 for none."""
    most = plan.recipe.target.max_block_forwards if plan.recipe.target else None
    planned = affordable_stages(plan, points, most) if points else plan.stages()
    done = {stage.key: runner.known(stage) for stage in planned}
    left = [estimates[key] for key, known in done.items() if not known]
    seconds = sum(one.seconds for one in left) + sheet
    stages = [
        {
            "verb": stage.verb,
            "words": [stage.verb, *stage.options],
            "out": str(stage.folder(runner.workspace)),
            "done": done[stage.key],
            **estimates[stage.key].to_json(),
        }
        for stage in planned
    ]
    data: dict[str, Any] = {"recipe": plan.recipe.name, "stages": stages, "seconds": seconds}
    data["variants"] = [variant.name for variant in plan.variants]
    if points:
        data["points"] = [
            {"variant": one.variant.name, **one.to_json(), "exact": one.exact, "over": bool(one.over(most))}
            for one in points
        ]
    return Outcome("ok", data, view=plan, show=partial(_show_plan, planned, points, most, estimates, done, sheet))


def _push(ran: RecipeOutcome, settings: RecipeRunSettings, context: Context) -> str | None:
    """The address of what was pushed; nothing is pushed if a gate failed."""
    if not ran.passed or not ran.chosen or not ran.chosen.variant.stages:
        why = "no model was made" if ran.passed else "a gate failed"
        context.reporter.warn(f"nothing was pushed: {why}")
        return None
    assert settings.push_to_hub
    return push(Path(ran.chosen.folder), settings.push_to_hub, context.reporter, private=not settings.public)


def _show_plan(
    stages: Sequence[RecipeStage],
    points: Sequence[Point],
    most: float | None,
    estimates: Mapping[str, StageEstimate],
    done: Mapping[str, bool],
    sheet: float,
) -> Iterator[Block]:
    """A row per point of a budget, a row per stage, then the time and the memory of those that are left."""
    if points:
        costs = [f"{'' if one.exact else 'at most '}{one.block_forwards:g}" for one in points]
        marks = ["over the budget" if one.over(most) else "" for one in points]
        names = [one.name for one in points]
        yield Table(("point",), ("block-forwards per picture",), tuple(zip(names, costs, marks, strict=True)), ("",))
    titles, *rows = estimates_table(stages, estimates, done)
    yield Table(tuple(titles[:2]), tuple(titles[2:]), tuple(map(tuple, rows)))
    left = [estimates[key] for key, known in done.items() if not known]
    memory = bytes_text(int(max((one.memory for one in left), default=0.0)))
    seconds = sum(one.seconds for one in left) + sheet
    ends = ", with a sheet of before and after" if sheet else ""
    yield f"about {duration_text(seconds)} and {memory} of memory{ends}; nothing was run"


def show_table(ran: RecipeOutcome) -> Iterator[Block]:
    """A row for the source and for each variant: weights, time per image, score."""
    titles, *rows = table_of(ran)
    yield Table((titles[0],), tuple(titles[1:-1]), tuple(map(tuple, rows)), (titles[-1],))


def _show_sheet(sheet: Path | str | None) -> Iterator[str]:
    """Where the sheet is, or why there is none."""
    if isinstance(sheet, Path):
        yield f"before and after, side by side: {path_text(sheet)}"
    elif sheet:
        yield f"no sheet of before and after: {sheet}"


def _show_outcome(ran: RecipeOutcome, source: str, sheet: Path | str | None, pushed: str | None) -> Iterator[Block]:
    """A row per variant, the reasons, the checks, the chosen artifact, its sheet or why there is none, what to do."""
    yield from show_table(ran)
    yield from (f"- {reason}" for reason in ran.reasons)
    yield from (f"{'ok' if check.passed else 'NO'}  {check.text}" for check in ran.limits)
    if ran.chosen:
        folder = path_text(Path(ran.chosen.folder))
        backend = ', backend="onnx"' if any(Path(folder).glob("*/model.onnx")) else ""
        yield f"{folder}{' (cached: nothing had to be run)' if ran.cached else ''}"
        yield f'load it with sanac.load_pipeline("{folder}"{backend})'
        if ran.command:
            yield f"generate with its samples: {ran.command.replace(ran.chosen.folder, folder, 1)}"
        yield from _show_sheet(sheet)
        yield f"with times and more prompts: sanac compare {source} {folder}"
    else:
        yield f"NO  {NONE}: none"
    if pushed:
        yield pushed
