"""Every setting of every verb is the same on the command line, in recipes, in Python and in docs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sanac.api import SanaModel
from sanac.api_methods import HIDDEN, NOT_METHODS
from sanac.cli.command import command_of
from sanac.cli.options import SettingOption
from sanac.core.settings import Setting, Settings, json_schema, problems_of, settings_of
from sanac.run.bundled import SCHEMA_FILE, recipe_schema
from sanac.run.settings import DemoSettings, RecipeRunSettings
from sanac.verbs import MODELS, VERBS, recipe_verbs, resolve
from scripts.generate import outputs

ROOT = Path(__file__).parents[1]
ALL = [(verb.name, one) for verb in VERBS.values() for one in settings_of(verb.settings_class()).values()]
IDS = [f"{name}.{one.name}" for name, one in ALL]


def beyond(setting: Setting) -> list[object]:
    """Values outside the bounds."""
    option, found = setting.option, []
    found += [option.ge - 1] if option.ge is not None else []
    found += [option.le + 1] if option.le is not None else []
    found += [option.gt] if option.gt is not None else []
    found += [option.lt] if option.lt is not None else []
    return [int(value) if setting.kind is int else float(value) for value in found]


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_the_table_names_what_exists(verb) -> None:
    assert verb.models in MODELS
    assert issubclass(verb.settings_class(), Settings)
    for reference in (verb.run, verb.before, verb.cost, *verb.after):
        assert not reference or callable(resolve(reference)), reference
    assert verb.settings_class().EXAMPLES, "every verb shows how it is typed"
    assert all(line.startswith("sanac ") for line in verb.settings_class().EXAMPLES)


@pytest.mark.parametrize(("verb", "setting"), ALL, ids=IDS)
def test_on_the_command_line(verb: str, setting: Setting) -> None:
    command = command_of(VERBS[verb])
    if setting.option.positional:
        assert any(isinstance(one, click.Argument) and one.name == setting.name for one in command.params)
        return
    (option,) = [one for one in command.params if isinstance(one, SettingOption) and one.name == setting.name]
    assert (option.opts, option.hidden, option.multiple) == ([setting.flag], False, setting.many)
    assert option.is_flag == (setting.kind is bool)
    shown = option.help or ""
    assert shown.startswith(setting.option.help)
    assert setting.default_shown in shown
    if setting.kind is not bool:
        assert setting.range_shown in shown
        assert all(choice in f"{shown} {option.metavar}" for choice in setting.choices)
    for old in setting.option.aliases:
        flag = f"--{old.replace('_', '-')}"
        (alias,) = [one for one in command.params if isinstance(one, SettingOption) and flag in one.opts]
        assert alias.hidden


@pytest.mark.parametrize(("verb", "setting"), ALL, ids=IDS)
def test_in_recipes(verb: str, setting: Setting) -> None:
    settings = VERBS[verb].settings_class()
    wrong = [*beyond(setting), *(["no such choice"] if setting.choices else [])]
    wrong += [3] if setting.kind not in {int, float} and not setting.many and setting.kind.__name__ != "Size" else []
    for value in wrong:
        complaints = [text for _, text in problems_of(settings, {setting.name: value}, recipe=setting.option.recipe)]
        assert complaints, f"{value!r} is accepted"
        assert setting.name in complaints[0]
    if verb not in recipe_verbs() or not setting.option.recipe:
        assert list(problems_of(settings, {setting.name: 1}, recipe=True)) or setting.option.recipe
        return
    schema = json_schema(settings)["properties"][setting.name]
    assert schema["description"] == setting.option.help
    one = schema if "anyOf" not in schema else schema["anyOf"][1]["items"]
    assert one.get("enum", []) == ([] if setting.option.comma else list(setting.choices))
    assert [one.get(key) for key in ("minimum", "maximum")] == [setting.option.ge, setting.option.le]


@pytest.mark.parametrize(("verb", "setting"), ALL, ids=IDS)
def test_in_python(verb: str, setting: Setting) -> None:
    if verb in NOT_METHODS or setting.name in HIDDEN:
        return
    method = getattr(SanaModel, verb)
    parameter = inspect.signature(method).parameters[setting.name]
    expected = inspect.Parameter.VAR_POSITIONAL if setting.option.positional else inspect.Parameter.KEYWORD_ONLY
    assert parameter.kind == expected
    if not setting.option.positional:
        assert parameter.default == (inspect.Parameter.empty if setting.required else setting.default)
    line = next(line for line in (method.__doc__ or "").splitlines() if line.startswith(f"    {setting.name}: "))
    assert setting.option.help in line
    assert setting.range_shown in line
    assert setting.default_shown in line
    assert all(choice in line for choice in setting.choices)


@pytest.mark.parametrize(("verb", "setting"), ALL, ids=IDS)
def test_in_docs(verb: str, setting: Setting) -> None:
    page = (ROOT / "docs" / f"{verb.split(maxsplit=1)[0]}.md").read_text()
    table = re.search(rf"<!-- options of {verb} -->(.*?)<!-- end of options -->", page, re.DOTALL)
    assert table, f"docs/{verb}.md has no table of options"
    first = setting.option.metavar if setting.option.positional else f"`{setting.flag}`"
    row = next(line for line in table[1].splitlines() if line.startswith(f"| {first} |"))
    assert setting.option.help in row
    assert setting.range_shown in row
    assert all(choice in row for choice in setting.choices)


def test_what_is_generated_is_up_to_date() -> None:
    stale = [path.name for path, text in outputs() if path.read_text() != text]
    assert not stale, "make generate"


@pytest.mark.parametrize(("name", "settings"), [("run", RecipeRunSettings), ("demo", DemoSettings)])
def test_the_settings_of_run_are_in_its_page(name: str, settings: type[Settings]) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert all(f"`{one.flag}`" in page for one in settings_of(settings).values())


def test_bundled_recipes_name_the_schema() -> None:
    for recipe in (ROOT / "sanac" / "recipes").glob("*.toml"):
        assert recipe.read_text().splitlines()[0] == f"#:schema ./{SCHEMA_FILE}", recipe.name
    assert set(recipe_schema()["properties"]) == {"model", "sheet", "matrix", "target", "gate", *recipe_verbs()}


def test_the_table_loads_no_framework() -> None:
    code = (
        "import sys\nfrom sanac.verbs import VERBS\n"
        "for verb in VERBS.values(): verb.settings_class()\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
