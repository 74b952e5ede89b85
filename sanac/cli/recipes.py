"""`sanac recipes`: the bundled recipes, and the JSON Schema of recipes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sanac.cli.command import GroupedCommand
from sanac.cli.options import common_parameters, take_common
from sanac.cli.output import Result
from sanac.cli.words import RecipeWord
from sanac.core.errors import UsageError

SHORT_HELP = "Bundled recipes, and the JSON Schema of recipes."


def group() -> click.Group:
    """The `recipes` group."""
    found = click.Group(
        "recipes",
        invoke_without_command=True,
        callback=_bare,
        help="List, show or copy the bundled recipes; print the JSON Schema that editors complete recipes with.\n\n"
        "Without a command, list them.",
        short_help=SHORT_HELP,
        epilog="""\b
Examples:
  sanac recipes
  sanac recipes show demo
  sanac recipes cp demo recipe.toml
  sanac recipes schema > sanac-recipe.schema.json""",
    )
    name = click.Argument(["name"], metavar="NAME", type=RecipeWord(path=""))
    file = click.Argument(["file"], metavar="FILE", type=click.Path(path_type=Path))
    found.add_command(_command("ls", _list, "Print the names, and what each recipe is for."))
    found.add_command(_command("show", _show, "Print the recipe NAME.", name))
    found.add_command(_command("cp", _copy, "Copy the recipe NAME to FILE, and the schema beside it.", name, file))
    found.add_command(_command("schema", _schema, "Print the JSON Schema of recipes."))
    return found


def _command(name: str, body: Callable[..., Result], text: str, *arguments: click.Parameter) -> click.Command:
    def callback(**values: Any) -> Result:
        as_json = take_common(values).as_json
        return body(as_json=as_json, **values)

    return GroupedCommand(name, params=[*arguments, *common_parameters()], callback=callback, help=text)


@click.pass_context
def _bare(context: click.Context, /) -> Result | None:
    """List the recipes where no command is named."""
    return _list(as_json=False) if context.invoked_subcommand is None else None


def _list(*, as_json: bool) -> Result:
    from sanac.run.bundled import first_comment, names

    about = {name: first_comment(name) for name in names()}

    def show() -> None:
        for name, line in about.items():
            click.echo(f"{name:24} {line}")

    return Result("ok", show, {"recipes": about}, None, as_json)


def _show(name: str, *, as_json: bool) -> Result:
    from sanac.run.bundled import bundled

    text = bundled(name).read_text(encoding="utf-8")
    return Result("ok", lambda: click.echo(text, nl=False), {"name": name, "text": text}, None, as_json)


def _copy(name: str, file: Path, *, as_json: bool) -> Result:
    from sanac.core.atomic import write_atomically
    from sanac.run.bundled import SCHEMA_FILE, bundled, schema_text

    text = bundled(name).read_bytes()
    if file.exists():
        raise UsageError(f"{file} already exists", hint="another name, or delete it")
    write_atomically(file, text)
    schema = file.with_name(SCHEMA_FILE)
    if not schema.exists():
        write_atomically(schema, schema_text().encode())
    return Result("ok", lambda: click.echo(file), {"name": name, "schema": str(schema)}, str(file), as_json)


def _schema(*, as_json: bool) -> Result:
    from sanac.run.bundled import recipe_schema, schema_text

    return Result("ok", lambda: click.echo(schema_text(), nl=False), {"schema": recipe_schema()}, None, as_json)
