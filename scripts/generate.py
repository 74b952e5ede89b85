"""Writes what is made from the settings: option tables in docs/, the recipes' JSON Schema, the API's type stub.

python -m scripts.generate [--check]
"""

import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from sanac.api_methods import NOT_METHODS, documentation, keyword_settings
from sanac.core.settings import Setting, Settings, docs_table
from sanac.run.bundled import SCHEMA_FILE, schema_text
from sanac.run.settings import DemoSettings, RecipeRunSettings
from sanac.verbs import VERBS, Verb

ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"(<!-- options of ([\w ]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
_REPORTS = ("inspect", "analyze", "verify", "evaluate", "bench", "compare", "gate", "generate")


def settings_class(name: str) -> type[Settings]:
    """The settings of a command."""
    others: dict[str, type[Settings]] = {"run": RecipeRunSettings, "demo": DemoSettings}
    return others.get(name) or VERBS[name].settings_class()


def docs() -> Iterator[tuple[Path, str]]:
    """(page, its text with fresh tables) of every page with option tables."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "<!-- options of" in text:
            yield (
                page,
                _TABLE.sub(lambda match: f"{match[1]}\n{docs_table(settings_class(match[2]))}\n\n{match[3]}", text),
            )


def _fresh(match: re.Match[str]) -> str:
    return f"{match[1]}\n{docs_table(settings_class(match[2]))}\n\n{match[3]}"


def stub() -> str:
    """The type stub of the API's methods."""
    lines = [
        '"""Types of the verbs as methods, made from their settings by `make generate`; not edited by hand."""',
        "",
        "from collections.abc import Callable, Sequence",
        "from os import PathLike",
        "from typing import Any, Literal, TypeAlias",
        "",
        "from sanac.api import Report, SanaModel",
        "from sanac.core.settings import Setting",
        "from sanac.verbs import Verb",
        "",
        "HIDDEN: tuple[str, ...]",
        "NOT_METHODS: tuple[str, ...]",
        "_File: TypeAlias = str | PathLike[str]",
        "_Model: TypeAlias = str | PathLike[str] | SanaModel",
        "",
        "def keyword_settings(verb: Verb) -> list[Setting]: ...",
        "def documentation(verb: Verb) -> str: ...",
        "def signature(verb: Verb) -> Any: ...",
        "def _method(verb: Verb) -> Callable[..., Any]: ...",
        "",
        "class VerbMethods:",
        "    def call(",
        "        self, verb: Verb, settings: dict[str, Any], others: Sequence[Any] = ()",
        "    ) -> SanaModel | Report: ...",
    ]
    for verb in VERBS.values():
        if verb.name not in NOT_METHODS:
            lines += _stub_of(verb)
    return "\n".join(lines) + "\n"


def _stub_of(verb: Verb) -> Iterator[str]:
    hints = typing.get_type_hints(verb.settings_class())
    known = keyword_settings(verb)
    positional = [one for one in known if one.option.positional]
    yield f"    def {verb.name}("
    yield "        self,"
    others = "*models: _Model," if verb.models == "several" else "*,"
    yield f"        *{positional[0].name}: str," if positional else f"        {others}"
    for one in known:
        if not one.option.positional:
            default = "" if one.required else " = ..."
            yield f"        {one.name}: {_type_of(one, hints[one.name])}{default},"
    yield f"    ) -> {'Report' if verb.name in _REPORTS else 'SanaModel'}:"
    body = documentation(verb).replace("\\", "\\\\")
    first, *rest = body.splitlines()
    yield f'        """{first}'
    yield from (f"        {line}".rstrip() for line in rest)
    yield '        """'


_NAMES = {"Path": "_File", "ModelRef": "_Model", "LoraRef": "str", "DataRef": "_File", "Size": "int | str"}


def _type_of(setting: Setting, hint: Any) -> str:
    """The annotation of a keyword: what the setting accepts, not what it becomes."""
    plain = _NAMES.get(setting.kind.__name__, setting.kind.__name__)
    if setting.choices and not setting.option.comma:
        plain = f"Literal[{', '.join(repr(choice).replace(chr(39), chr(34)) for choice in setting.choices)}]"
    if setting.many:
        plain = f"{plain} | Sequence[{plain}]" + (" | str" if setting.option.comma and plain != "str" else "")
    return f"{plain} | None" if type(None) in get_args(hint) else plain


def outputs() -> Iterator[tuple[Path, str]]:
    """(file, its text) of everything that is generated."""
    yield from docs()
    yield ROOT / "sanac" / "recipes" / SCHEMA_FILE, schema_text()
    yield ROOT / "sanac" / "api_methods.pyi", stub()


def main() -> int:
    """Write the files, or say which are out of date."""
    stale = []
    for path, text in outputs():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    sys.stdout.write("".join(f"{name}\n" for name in stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
