"""Completes the words of a command line in the shell: models, files, folders, choices, bundled recipes."""

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from sanac.core.checkpoint.locate import BUNDLED, TINY
from sanac.core.settings import DataRef, LoraRef, ModelRef, Setting


class Word(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A word that is read later; here it is only completed: from some words, or as a path."""

    def __init__(self, name: str, words: Iterable[str] = (), *, path: str = "") -> None:
        self.name = name
        self.words, self.path = tuple(words), path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Words that begin with what was typed, and paths."""
        del ctx, param
        found = [word for word in self.words if word.startswith(incomplete)]
        if not self.path:
            return [CompletionItem(word) for word in found]
        if not found:
            return [CompletionItem(incomplete, type=self.path)]  # the shell knows best how to complete a path
        return [CompletionItem(word) for word in (*found, *_paths(incomplete, folders=self.path == "dir"))]


class SettingWord(Word):
    """A word of a setting; all complaints about settings are made later, together."""

    def __init__(self, setting: Setting) -> None:
        words, path = setting.choices, ""
        if setting.kind is ModelRef:
            words, path = (TINY,), "file"
        elif setting.kind is DataRef:
            words, path = ("shapes",), "dir"
        elif setting.kind in {Path, LoraRef}:
            path = "dir" if setting.option.metavar == "DIR" else "file"
        super().__init__(setting.name, words, path=path)
        self.comma = setting.option.comma

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """As for every word; after a comma, the choices that are not named yet."""
        before, comma, last = incomplete.rpartition(",")
        if not self.comma or not comma:
            return super().shell_complete(ctx, param, incomplete)
        named = before.split(",")
        return [
            CompletionItem(f"{before},{word}") for word in self.words if word.startswith(last) and word not in named
        ]


def model_word(name: str = "model", *, any_kind: bool = False) -> Word:
    """A model: a bundled one, a folder or a file; with `any_kind` also a token generator."""
    return Word(name, BUNDLED if any_kind else (TINY,), path="file")


class RecipeWord(Word):
    """A recipe: the name of a bundled one, or a file."""

    def __init__(self, *, path: str = "file") -> None:
        super().__init__("recipe", path=path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of bundled recipes, read when they are asked for."""
        from sanac.run.bundled import names

        return Word(self.name, names(), path=self.path).shell_complete(ctx, param, incomplete)


def _paths(incomplete: str, *, folders: bool) -> list[str]:
    """Files and folders of the current folder whose name begins with what was typed; no hidden ones."""
    try:
        entries = sorted(Path().iterdir())
    except OSError:
        return []
    shown = [one for one in entries if one.name.startswith(incomplete) and (incomplete or one.name[0] != ".")]
    return [f"{one.name}/" if one.is_dir() else one.name for one in shown if not folders or one.is_dir()]
