"""A click command from a verb: read its settings, run it, show what came of it."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.options import Common, SettingOption, click_parameters, common_parameters, read_settings, take_common
from sanac.cli.output import DENIED, Result
from sanac.cli.tables import print_view
from sanac.cli.words import Word, model_word
from sanac.core.settings import ADVANCED, COMMON, Settings, settings_of
from sanac.verbs import Verb, make_context

if TYPE_CHECKING:
    from sanac.core.context import Outcome

_NEEDED = ("one", "several")  # kinds of verbs that can't do without a model
_MODEL = "a folder, a .safetensors or .pth file, a hub id, an artifact, or sanac:tiny"
_WORDS = {"DIR": "the folder of an artifact, or one with measurements"}
_WITHOUT = {
    "source": "MODEL was left out, too: then it is the workspace's source, else $SANAC_MODEL, else the released model",
    "newest": "MODEL was left out, too: then it is the workspace's newest artifact",
}
_EXIT = {"failed": DENIED, "error": 4}


class GroupedCommand(click.Command):
    """A command whose help lists options under titles."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verb's own options first, then those of each group, then advanced and common ones."""
        groups: dict[str, list[tuple[str, str]]] = {Settings.TITLE: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                title = parameter.group if isinstance(parameter, SettingOption) else COMMON
                groups.setdefault(title, []).append(record)
        last = (ADVANCED, COMMON)
        for title, records in sorted(groups.items(), key=lambda pair: last.index(pair[0]) if pair[0] in last else -1):
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
        verb.name.rpartition(" ")[2],
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
    kind = Word("dir", path="dir") if verb.argument == "DIR" else model_word(any_kind=verb.takes_tokens)
    if verb.models in {"several", "any"}:
        metavar = f"{verb.argument}..." if verb.models == "several" else f"[{verb.argument}]..."
        return [click.Argument(["models"], nargs=-1, required=False, metavar=metavar, type=kind)]
    metavar = f"[{verb.argument}]" if optional else verb.argument
    return [click.Argument(["models"], required=False, metavar=metavar, type=kind)]


def _run(verb: Verb, values: dict[str, Any], known: tuple[str, ...]) -> Result:
    from sanac.cli.model_argument import opener

    models = values.pop("models", None)
    words = models if isinstance(models, tuple) else (models,) if models is not None else ()
    common = take_common(values, known)
    missing = [f"{verb.argument} is missing: {_WORDS.get(verb.argument, _MODEL)}"] if not words else []
    settings = read_settings(
        verb.name, verb.settings_class(), values, missing if verb.models in _NEEDED else (), _why(verb, words)
    )
    outcome = verb.call(words, settings, make_context(common.reporter, opener(common)))
    for line in outcome.annotations:
        click.echo(line, err=True)
    return result_of(outcome, common)


def _why(verb: Verb, words: tuple[str, ...]) -> str:
    """What became of the models, for a command that lacks something else."""
    if words and verb.models == "one":
        return f"{words[0]!r} was taken as {verb.argument}"
    return "" if words else _WITHOUT.get(verb.models, "")


def result_of(outcome: "Outcome", common: Common) -> Result:
    """What to print of an outcome."""
    out = str(outcome.out) if outcome.out is not None else None
    show = partial(print_view, outcome.show, color=common.color)
    return Result(outcome.status, show, outcome.data, out, common.as_json, _EXIT.get(outcome.status, 0))
