"""`sanac demo`: the bundled recipe `quick`, and what it did as commands to type."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from sanac.core.context import Context, Outcome
from sanac.core.view import Block, path_text
from sanac.run.job import run as run_recipe
from sanac.run.job import show_table
from sanac.run.outcome import RecipeOutcome
from sanac.run.settings import DemoSettings, RecipeRunSettings

RECIPE = "quick"


def run(settings: DemoSettings, context: Context, flags: tuple[str, ...] = ()) -> Outcome:
    """Run the recipe; the outcome shows its table, its commands and where the sheet is."""
    recipe_settings = RecipeRunSettings(workspace=settings.workspace, dry_run=settings.dry_run)
    outcome = run_recipe(RECIPE, recipe_settings, context, flags)
    ran = outcome.view
    if not isinstance(ran, RecipeOutcome) or ran.chosen is None:
        return outcome
    done = commands(ran, settings.workspace)
    data = {**outcome.data, "commands": done}
    return replace(outcome, data=data, show=partial(_show, ran, done, outcome.data["sheet"]))


def commands(ran: RecipeOutcome, workspace: Path) -> list[str]:
    """The commands that made the chosen variant, and one that compares its models; typed again, they are cached."""
    assert ran.chosen is not None
    models, found = [ran.plan.recipe.model], []
    for stage in ran.chosen.variant.stages:
        out = str(stage.folder(workspace))
        found.append(" ".join(["sanac", stage.verb, models[-1], *stage.options, "--out", out]))
        models.append(out)
    return [*found, " ".join(["sanac", "compare", *models])]


def _show(ran: RecipeOutcome, done: list[str], sheet: str | None) -> Iterator[Block]:
    yield from show_table(ran)
    yield "what it did, as commands:"
    yield from (f"  {line}" for line in done)
    yield "next: `sanac run demo` is the whole job; `sanac prune MODEL --target-blocks N` starts with a model of yours"
    if sheet:
        yield f"the pictures of all three, side by side: {path_text(Path(sheet))}"
