"""The sheet at a recipe's end: the source's pictures beside those of the chosen variant, with sizes and scores."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.measurements import BEFORE_AFTER, measurements_in
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import SanacError, UsageError
from sanac.core.units import duration_text
from sanac.run.outcome import RecipeOutcome
from sanac.run.runner import RecipeRunner, StageResult
from sanac.run.stage_graph import RecipePlan, RecipeStage, Variant
from sanac.runtime.image_files import read_metadata, read_picture, save_image
from sanac.verify.comparison_sheet import draw_comparison

LONGEST = 120.0  # seconds of a sheet that the recipe doesn't ask for
_DONE = {"prune": "pruned", "grow": "grown", "finetune": "fine-tuned", "reinforce": "taught", "quantize": "quantized"}


def reason_for_none(plan: RecipePlan, model: Model, seconds: float) -> str:
    """Why the recipe makes no sheet, as text to show; '' if it makes one."""
    if plan.recipe.sheet is False or not any(variant.stages for variant in plan.variants):
        return "sheet = false" if plan.recipe.sheet is False else "no stage makes a model"
    try:
        check_complete(model)
    except UsageError as error:
        return error.message
    if plan.recipe.sheet is None and seconds > LONGEST:
        return f"its pictures take about {duration_text(seconds)}; `sheet = true` in the recipe generates them"
    return ""


def make_sheet(ran: RecipeOutcome, runner: RecipeRunner) -> Path | None:
    """Generate the pictures, unless they are cached, and write the sheet; None if there is nothing to show.

    A sheet that fails is a warning: the models are made and measured.
    """
    if ran.chosen is None or not ran.chosen.variant.stages:
        return None
    plan, variant = ran.plan, ran.chosen.variant
    runner.total = 0  # the stages are done: these aren't counted
    try:
        searched = ran.chosen.point is not None and ran.chosen.point.samples > 1
        # the pictures are of one noise each: the score of a search is not theirs
        scores = [None] * (1 + len(plan.shown(variant))) if searched else [*_scores(plan.scores(variant), runner)]
        compared = runner.run(plan.comparison(variant))
        return _written(compared, [*_names(plan, variant, compared)], scores, Path(ran.chosen.folder))
    except SanacError as error:
        runner.reporter.warn(f"no sheet of before and after: {error.message}{f': {error.why}' if error.why else ''}")
        return None


def _scores(stages: tuple[RecipeStage | None, ...], runner: RecipeRunner) -> Iterator[Mapping[str, float] | None]:
    """The score of each model on the sheet, with its interval; None where it isn't evaluated."""
    for stage in stages:
        yield runner.run(stage).data["overall"] if stage else None


def _names(plan: RecipePlan, variant: Variant, compared: StageResult) -> Iterator[str]:
    """The names above the columns: the source's, then what was done to it."""
    yield f"{compared.data['models'][0]['model']} (source)"
    done = ""
    for stage in variant.stages:
        word = str(stage.settings.get("scheme") or _DONE.get(stage.verb, ""))
        done = f"{done} + {word}" if done and word else done or word
        if stage in plan.shown(variant):
            yield done or variant.name or "result"


def _written(compared: StageResult, names: list[str], scores: list[Any], folder: Path) -> Path:
    """Draw the pictures of a comparison under these names and scores, unless that was done before."""
    prompts: list[str] = compared.data["prompts"]
    models = [
        {**entry, "model": name, "score": score}
        for entry, name, score in zip(compared.data["models"], names, scores, strict=True)
    ]
    key = json_files.key_of([compared.stage.key, models])
    path = measurements_in(folder) / BEFORE_AFTER
    if read_metadata(path).get("comparison") != key:
        home = ConfinedPath(compared.out)
        pictures = [[read_picture(home / name) for name in entry["pictures"]] for entry in models]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(draw_comparison(models, pictures, prompts), path, {"comparison": key})
    return path.path
