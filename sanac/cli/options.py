"""Click options made from a settings class, and the options that every command has."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from sanac.cli.words import SettingWord
from sanac.console import ConsoleReporter
from sanac.core.checkpoint.locate import TINY
from sanac.core.errors import UsageError
from sanac.core.settings import Setting, Settings, build, canonical_name, flag_name, missing_of, settings_of

_RUN = {"seed": "Seed of everything random.", "device": "cpu, cuda or cuda:N."}


@dataclass(frozen=True)
class Common:
    """What the user said about how to run, whichever the command."""

    as_json: bool
    color: bool
    reporter: ConsoleReporter

    @property
    def interactive(self) -> bool:
        """Whether a question can be asked."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()


class SettingOption(click.Option):
    """An option of a settings class; help lists it under the title of the class that declares it."""

    def __init__(self, setting: Setting, flag: str, *, hidden: bool = False) -> None:
        self.group = setting.group
        name = f"{setting.name}" if not hidden else flag.removeprefix("--").replace("-", "_")
        words = [flag, name]
        if setting.kind is bool:
            super().__init__(words, is_flag=True, default=False, help=setting.option.help, hidden=hidden)
            return
        super().__init__(
            words,
            type=SettingWord(setting),
            multiple=setting.many,
            default=None,
            metavar=_metavar(setting),
            help=_help(setting),
            hidden=hidden,
        )


def _metavar(setting: Setting) -> str:
    if setting.choices and len("|".join(setting.choices)) <= 48:
        return f"[{'|'.join(setting.choices)}]"
    return setting.option.metavar or setting.name.upper()


def _help(setting: Setting) -> str:
    option = setting.option
    choices = f" One of {', '.join(setting.choices)}." if setting.choices and _metavar(setting)[0] != "[" else ""
    notes = [setting.range_shown] if setting.range_shown else []
    notes += [f"default: {setting.default_shown}"] if setting.default_shown else []
    notes += ["required"] if setting.required else []
    return f"{option.help}{choices}" + (f"  [{'; '.join(notes)}]" if notes else "")


def click_parameters(settings: type[Settings]) -> list[click.Parameter]:
    """Arguments and options of a command from its settings."""
    found: list[click.Parameter] = []
    for setting in settings_of(settings).values():
        if setting.option.positional:
            found.append(click.Argument([setting.name], nargs=-1, required=False, metavar=setting.option.metavar))
            continue
        found.append(SettingOption(setting, setting.flag))
        found += [SettingOption(setting, flag_name(old), hidden=True) for old in setting.option.aliases]
    return found


def common_parameters(known: Sequence[str] = ()) -> list[click.Option]:
    """The options of every command; --seed and --device, where a command has no use for them, are hidden."""
    unused = [name for name in _RUN if name not in known]
    return [
        *(click.Option([flag_name(name)], hidden=True, help=_RUN[name]) for name in unused),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on stdout, on failure too."),
        click.Option(["-v", "--verbose"], count=True, help="Print details."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print only the result, warnings and errors."),
        click.Option(["--no-color"], is_flag=True, help="Plain text; NO_COLOR=1 does the same."),
    ]


def take_common(values: dict[str, Any], known: Sequence[str] = ()) -> Common:
    """Take the common options out of a command's values."""
    verbose, quiet, no_color = (values.pop(name) for name in ("verbose", "quiet", "no_color"))
    color = not no_color and not os.environ.get("NO_COLOR")
    reporter = ConsoleReporter(-1 if quiet else verbose, color=color)
    for name in _RUN:
        if name not in known and values.pop(name, None) is not None:
            reporter.warn(f"--{name} has no effect here")
    return Common(values.pop("as_json"), color, reporter)


def read_settings(
    command: str, settings: type[Settings], values: Mapping[str, Any], missing: Sequence[str] = (), why: str = ""
) -> Settings:
    """The settings that were typed; UsageError with every complaint, those about missing models first.

    `why` explains, where something required was left out.
    """
    known, typed = settings_of(settings), _typed(settings, values)

    def naming(name: str) -> str:
        one = known.get(canonical_name(settings, name))
        return (one.option.metavar or name).rstrip(".") if one and one.option.positional else flag_name(name)

    problems, error = list(missing), None
    try:
        found = build(settings, typed, naming, text=True)
    except UsageError as complaint:
        error = complaint
        problems += complaint.problems or [complaint.message]
    if not problems:
        return found
    required = [*missing, *(text for _, text in missing_of(settings, list(typed), naming))]
    hint = (error.hint if error else "") or f"sanac {command} --help"
    if required:
        example = next((line for line in settings.EXAMPLES if TINY in line), settings.EXAMPLES[0])
        hint = f"{example}   (all options: sanac {command} --help)"
    why = (error.why if error else "") or (why if required else "")
    raise UsageError(problems[0], why=why, hint=hint, problems=problems) from error


def _typed(settings: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their present names; several words of one setting in one tuple, and flags only where they were set."""
    known, found = settings_of(settings), dict[str, Any]()
    for word, value in values.items():
        name = canonical_name(settings, word)
        if value in (None, False, ()):
            continue
        if not known[name].many:
            found[name] = value
            continue
        parts = [part for one in value for part in (one if isinstance(one, tuple) else (one,))]
        found[name] = (*found.get(name, ()), *parts)
    return found
