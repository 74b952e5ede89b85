"""`sanac run RECIPE`: one file says what to do, one command does it; `sanac demo` runs a bundled one."""

from typing import Any

import click

from sanac.cli.command import GroupedCommand, epilog_of, result_of
from sanac.cli.model_argument import opener
from sanac.cli.options import Common, click_parameters, common_parameters, read_settings, take_common
from sanac.cli.output import Result
from sanac.cli.words import RecipeWord
from sanac.run.settings import DemoSettings, RecipeRunSettings
from sanac.verbs import make_context

SHORT_HELP = "Run the stages of a recipe."
DEMO_HELP = "A first look: a small model before and after, in a minute."


def command() -> click.Command:
    """The `run` command."""
    parameters = [
        click.Argument(["recipe"], required=False, metavar="RECIPE", type=RecipeWord()),
        *click_parameters(RecipeRunSettings),
        *common_parameters(),
    ]
    return GroupedCommand(
        "run",
        params=parameters,
        callback=_run,
        help=RecipeRunSettings.__doc__,
        short_help=SHORT_HELP,
        epilog=epilog_of(RecipeRunSettings.EXAMPLES),
    )


def _run(recipe: str | None, **values: Any) -> Result:
    from sanac.run.job import run

    common = take_common(values)
    missing = () if recipe else ("RECIPE is missing: a TOML file, or a name that `sanac recipes ls` lists",)
    settings = read_settings("run", RecipeRunSettings, values, missing)
    assert isinstance(settings, RecipeRunSettings)
    assert recipe
    outcome = run(recipe, settings, make_context(common.reporter, opener(common)), _flags(common))
    for line in outcome.annotations:
        click.echo(line, err=True)
    return result_of(outcome, common)


def demo_command() -> click.Command:
    """The `demo` command."""
    return GroupedCommand(
        "demo",
        params=[*click_parameters(DemoSettings), *common_parameters()],
        callback=_demo,
        help=DemoSettings.__doc__,
        short_help=DEMO_HELP,
        epilog=epilog_of(DemoSettings.EXAMPLES),
    )


def _demo(**values: Any) -> Result:
    from sanac.run.demo import run

    common = take_common(values)
    settings = read_settings("demo", DemoSettings, values)
    assert isinstance(settings, DemoSettings)
    outcome = run(settings, make_context(common.reporter, opener(common)), _flags(common))
    return result_of(outcome, common)


def _flags(common: Common) -> tuple[str, ...]:
    """The verbosity of every stage."""
    verbosity = common.reporter.verbosity
    return ("--quiet",) if verbosity < 0 else ("-v",) * verbosity
