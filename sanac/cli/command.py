"""A click command from a verb: read its settings, run it, show what came of it."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.options import Common, SettingOption, click_parameters, common_parameters, read_settings, take_common
from sanac.cli.output import DENIED, Result
from sanac.cli.tables import print_view
from sanac.core.settings import settings_of
from sanac.verbs import Verb, make_context

if TYPE_CHECKING:
    from sanac.core.context import Outcome

_EXIT = {"failed": DENIED, "error": 4}


class GroupedCommand(click.Command):
    """A command whose help lists options under titles."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options first, then those of each group, then the common ones."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        common = "Common options"
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                title = parameter.group if isinstance(parameter, SettingOption) else common
                groups.setdefault(title, []).append(record)
        for title, records in sorted(groups.items(), key=lambda pair: pair[0] == common):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def epilog_of(examples: Iterable[str]) -> str:
    """Examples as the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


def command_of(verb: Verb) -> click.Command:
    """The command of a verb."""
    settings = verb.settings_class()
    known = tuple(settings_of(settings))
    parameters: list[click.Parameter] = [*_models(verb), *click_parameters(settings), *common_parameters(known)]

    def callback(**values: Any) -> Result:
        return _run(verb, values, known)

    return GroupedCommand(
        verb.name,
        params=parameters,
        callback=callback,
        help=settings.__doc__,
        short_help=verb.short_help,
        epilog=epilog_of(settings.EXAMPLES),
    )


def _models(verb: Verb) -> list[click.Parameter]:
    optional = verb.models in {"source", "newest"}
    if verb.models == "none":
        return []
    if verb.models == "several":
        return [click.Argument(["models"], nargs=-1, required=True, metavar=f"{verb.argument}...")]
    metavar = f"[{verb.argument}]" if optional else verb.argument
    return [click.Argument(["models"], required=not optional, metavar=metavar)]


def _run(verb: Verb, values: dict[str, Any], known: tuple[str, ...]) -> Result:
    from sanac.cli.model_argument import opener

    models = values.pop("models", None)
    words = models if isinstance(models, tuple) else (models,) if models is not None else ()
    common = take_common(values, known)
    settings = read_settings(verb.name, verb.settings_class(), values)
    outcome = verb.call(words, settings, make_context(common.reporter, opener(common)))
    for line in outcome.annotations:
        click.echo(line, err=True)
    return result_of(outcome, common)


def result_of(outcome: "Outcome", common: Common) -> Result:
    """What to print of an outcome."""
    out = str(outcome.out) if outcome.out is not None else None
    show = partial(print_view, outcome.show, color=common.color)
    return Result(outcome.status, show, outcome.data, out, common.as_json, _EXIT.get(outcome.status, 0))
