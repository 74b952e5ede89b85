"""`sanac run RECIPE` and `sanac recipes`: one file says what to do, one command does it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, common, workspace_option
from sanac.cli.output import DENIED, Result
from sanac.cli.tables import console, table
from sanac.core.errors import UsageError

if TYPE_CHECKING:
    from sanac.run.outcome import RecipeOutcome
    from sanac.run.stage_graph import RecipePlan

_BUNDLED = Path(__file__).parents[1] / "recipes"


@click.command(
    "run",
    short_help="Do what a recipe says.",
    epilog="""\b
Examples:
  sanac run demo
  sanac run recipe.toml --dry-run
  sanac run recipe.toml --workspace build --junit build/gates.xml --json""",
)
@click.argument("recipe", metavar="RECIPE")
@click.option("--model", metavar="MODEL", help="Another model than the recipe's.")
@workspace_option("Where everything is written.")
@click.option("--dry-run", is_flag=True, help="Print stages, sizes, memory and time; do nothing.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Verdicts as a JUnit file, too.")
@click.option("--mlflow", metavar="EXPERIMENT", help="Log settings, numbers and measurements there.")
@click.option("--push-to-hub", "repo", metavar="OWNER/NAME", help="Push what it ended in, if its gates say yes.")
@click.option("--public", is_flag=True, help="For everyone to see; a repository that is made is private otherwise.")
@common("seed", "device")
def command(
    recipe: str,
    model: str | None,
    workspace: Path,
    dry_run: bool,
    junit: Path | None,
    mlflow: str | None,
    repo: str | None,
    public: bool,
    common: Common,
) -> Result:
    """Do the stages of RECIPE, a TOML file or the name of a bundled one, and hold the outcome to its gates.

    All mistakes in it are told at once, before anything is begun. A stage that was done and whose outcome is still
    there is not done again; a run that was stopped goes on inside the stage. Exit 5 if a gate says no.
    """
    from sanac.run.estimate import estimate_recipe
    from sanac.run.outcome import run_all
    from sanac.run.recipe import read_recipe
    from sanac.run.runner import RecipeRunner, workspace_lock
    from sanac.run.stage_graph import plan_of
    from sanac.run.target_search import run_target

    asked = read_recipe(_place(recipe))
    word = model or asked.model
    opened = open_word(word, common)
    plan = plan_of(asked, opened.identity())
    foreseen = estimate_recipe(plan, opened)
    runner = RecipeRunner(_absolute(word), workspace.absolute(), common.reporter, _flags(common))
    if dry_run:
        return _plan(plan, foreseen, runner, common)
    with workspace_lock(runner.workspace):
        ran = (run_target if asked.target else run_all)(plan, runner)
        tell(ran, runner.workspace, junit, mlflow)
        pushed = _pushed(ran, repo, common, public=public) if repo else None
    status = "cached" if ran.cached and ran.passed else "ok" if ran.passed else "failed"
    out = ran.chosen.folder if ran.chosen else str(runner.workspace)
    data = ran.to_json() | ({"pushed": pushed} if repo else {})
    return Result(status, lambda: _show(ran, pushed), data, out, common.as_json, 0 if ran.passed else DENIED)


def _pushed(ran: "RecipeOutcome", repo: str, common: Common, *, public: bool) -> str | None:
    """Where it can be seen; nowhere if a gate said no."""
    from sanac.report.hub import push

    if not ran.passed or not ran.chosen or not ran.chosen.variant.making:
        common.reporter.warn("nothing was pushed: " + ("no model was made" if ran.passed else "a gate said no"))
        return None
    return push(Path(ran.chosen.folder), repo, common.reporter, private=not public)


def _place(word: str) -> Path:
    """A file, or a bundled recipe."""
    path = Path(word)
    if path.suffix == ".toml" or path.exists():
        return path
    return bundled(word)


def bundled(name: str) -> Path:
    """A recipe that sanac brings along."""
    path = _BUNDLED / f"{name}.toml"
    if name not in names():
        raise UsageError(f"there is no recipe {name!r}", why=f"there are {', '.join(names())}", hint="sanac recipes ls")
    return path


def names() -> list[str]:
    """Of all bundled recipes."""
    return sorted(entry.name.removesuffix(".toml") for entry in _BUNDLED.iterdir() if entry.name.endswith(".toml"))


def _absolute(word: str) -> str:
    return str(Path(word).absolute()) if Path(word).exists() else word


def _flags(common: Common) -> list[str]:
    """What every stage is told."""
    return ["--quiet"] if common.reporter.verbosity < 0 else ["-v"] * common.reporter.verbosity


def _plan(plan: "RecipePlan", foreseen: Mapping[str, Any], runner: Any, common: Common) -> Result:
    from sanac.core.units import bytes_text, duration_text
    from sanac.run.estimate import table_of
    from sanac.run.outcome import stages_left

    left = {stage.key: done for stage, done in stages_left(plan, runner)}
    stages = [
        {"verb": stage.verb, "words": [stage.verb, *stage.options], "out": str(stage.folder(runner.workspace)),
         "done": left[stage.key], **foreseen[stage.key].to_json()}
        for stage in plan.stages()
    ]  # fmt: skip
    seconds = sum(foreseen[key].seconds for key, done in left.items() if not done)
    memory = max((foreseen[key].memory for key, done in left.items() if not done), default=0)

    def show() -> None:
        titles, *rows = table_of(plan, foreseen, left)
        shown = table(tuple(titles[:2]), tuple(titles[2:]))
        for row in rows:
            shown.add_row(*row)
        console(color=False).print(shown)
        click.echo(f"about {duration_text(seconds)} and {bytes_text(int(memory))} of memory; nothing was done")

    data = {
        "recipe": plan.recipe.name,
        "stages": stages,
        "seconds": seconds,
        "variants": [v.name for v in plan.variants],
    }
    return Result("ok", show, data, None, common.as_json)


def tell(ran: "RecipeOutcome", workspace: Path, junit: Path | None, mlflow: str | None) -> None:
    """Everyone who waits for the outcome."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.report import ci, mlflow_log
    from sanac.run.outcome import table_of

    title = f"sanac run {ran.plan.recipe.name}"
    value = ran.to_json(names=True)
    metrics = {"passed": float(ran.passed), "failed": float(sum(not check.passed for check in ran.checks))}
    home = Path(ran.chosen.folder) if ran.chosen and ran.chosen.variant.making else workspace
    write_measurement(home, "gate", value, metrics)
    write_measurement(workspace, "run", value, {**metrics, **_flat(ran)})
    if junit:
        ci.junit(junit, title, ran.checks)
    ci.write_summary(ci.summary(title, ran.checks, table_of(ran)))
    for line in ci.annotations(ran.checks):
        click.echo(line, err=True)
    if mlflow:
        params = mlflow_log.flat(ran.plan.recipe.steps)
        params |= {key: str(value) for key, value in (ran.chosen.variant.values if ran.chosen else {}).items()}
        mlflow_log.log(mlflow, title, params, _flat(ran), [home / "measurements"])


def _flat(ran: "RecipeOutcome") -> dict[str, float]:
    return dict(ran.chosen.numbers) if ran.chosen else {}


def _show(ran: "RecipeOutcome", pushed: str | None = None) -> None:
    from sanac.run.outcome import NONE, table_of

    titles, *rows = table_of(ran)
    shown = table((titles[0],), tuple(titles[1:-1]))
    shown.add_column(titles[-1])
    for row in rows:
        shown.add_row(*row)
    console(color=False).print(shown)
    for reason in ran.reasons:
        click.echo(f"- {reason}")
    for check in ran.limits:
        click.echo(f"{'ok' if check.passed else 'NO'}  {check.text}")
    if ran.chosen:
        click.echo(f"{ran.chosen.folder}{' (cached: nothing had to be done)' if ran.cached else ''}")
    else:
        click.echo(f"NO  {NONE}: none")
    if pushed:
        click.echo(pushed)


@click.group(
    "recipes",
    short_help="Recipes that sanac brings along.",
    epilog="""\b
Examples:
  sanac recipes ls
  sanac recipes show demo
  sanac recipes cp demo recipe.toml""",
)
def recipes() -> None:
    """List, show or copy the bundled recipes."""


@recipes.command("ls")
@common("seed", "device")
def list_recipes(common: Common) -> Result:
    """Names, and what each is for."""
    about = {name: _first_line(name) for name in names()}

    def show() -> None:
        for name, line in about.items():
            click.echo(f"{name:24} {line}")

    return Result("ok", show, {"recipes": about}, None, common.as_json)


def _first_line(name: str) -> str:
    return bundled(name).read_text().splitlines()[0].lstrip("# ")


@recipes.command("show")
@click.argument("name")
@common("seed", "device")
def show_recipe(name: str, common: Common) -> Result:
    """The recipe NAME."""
    text = bundled(name).read_text()
    return Result("ok", lambda: click.echo(text, nl=False), {"name": name, "text": text}, None, common.as_json)


@recipes.command("cp")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@common("seed", "device")
def copy_recipe(name: str, file: Path, common: Common) -> Result:
    """Write the recipe NAME to FILE, to be changed."""
    text = bundled(name).read_text()
    if file.exists():
        raise UsageError(f"{file} is there already", hint="another name, or delete it")
    file.write_text(text)
    return Result("ok", lambda: click.echo(file), {"name": name}, str(file), common.as_json)
