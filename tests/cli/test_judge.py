"""`sanac judge`: a group of verbs, whose help, options and errors read as those of every verb."""

import re

import click
import pytest

from sanac.cli.app import app
from sanac.cli.verb_group import VerbGroup, group_of
from sanac.verbs import GROUPS, VERBS
from tests.conftest import Sanac

TWO_WORDS = [name for name in VERBS if " " in name]


def test_every_verb_of_two_words_is_in_its_group() -> None:
    assert {name.split()[0] for name in TWO_WORDS} == set(GROUPS)
    assert not set(GROUPS) & set(VERBS), "a name is a verb or a group"
    listed = app.list_commands(click.Context(app))
    assert [name for name in listed if name in GROUPS] == list(GROUPS)
    assert not [name for name in listed if " " in name]


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_lists_its_verbs(name: str, sanac: Sanac) -> None:
    group = app.get_command(click.Context(app), name)
    assert isinstance(group, VerbGroup)
    inside = [verb for key, verb in VERBS.items() if key.startswith(f"{name} ")]
    assert group.list_commands(click.Context(group)) == [verb.name.split()[1] for verb in inside]
    shown = sanac(name, "--help").out
    assert f"Usage: sanac {name} " in shown
    assert GROUPS[name] in shown
    for verb in inside:
        assert verb.short_help in shown
        assert all(line in shown for line in verb.settings_class().EXAMPLES)
    assert GROUPS[name] in sanac("--help").out
    assert group_of(name).short_help == GROUPS[name]
    ran = sanac(name)
    assert (ran.code, f"Usage: sanac {name} " in ran.err) == (2, True)


@pytest.mark.parametrize("name", TWO_WORDS)
def test_help_of_a_verb_of_two_words(name: str, sanac: Sanac) -> None:
    shown = sanac(*name.split(), "--help").out
    assert f"Usage: sanac {name} " in shown
    assert f"Examples:\n    sanac {name} " in shown
    groups = re.findall(r"^([A-Z][\w ]*):\n((?:  +\S.*\n)+)", shown, re.MULTILINE)
    sizes = {title: len(re.findall(r"^  -", text, re.MULTILINE)) for title, text in groups}
    assert max(sizes.values()) <= 8, sizes
    for option in ("--json", "-v, --verbose", "-q, --quiet", "--no-color", "--seed"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["judge", "trian"], 2, ["there is no command 'judge trian': did you mean 'train'?", "sanac judge --help"]),
        (["judge", "train"], 2, ["--out is required", "sanac judge train sanac:tiny --out judge"]),
        (["judge", "train", "--out", "j"], 2, ["MODEL or --labels is missing", "sanac judge train sanac:tiny"]),
        (["judge", "train", "sanac:tiny", "--labels", "x", "--out", "j"], 2, ["'sanac:tiny' was taken as MODEL"]),
        (["judge", "train", "sanac:tiny", "sanac:tiny", "--out", "j"], 2, ["sanac:tiny is named twice"]),
        (["judge", "train", "sanac:tiny", "--base", "x", "--out", "j"], 2, ["--base requires --labels"]),
        (["judge", "train", "sanac:tiny", "--rank", "4", "--out", "j"], 2, ["--rank requires --base"]),
        (["judge", "train", "--labels", "x", "--looks", "4", "--out", "j"], 2, ["--looks is for images that a MODEL"]),
        (["judge", "train", "--labels", "none.jsonl", "--out", "j"], 3, ["cannot read none.jsonl"]),
        (["judge", "train", "sanac:tiny", "--order", "halton", "--out", "j"], 2, ["requires a token generator"]),
        (["judge", "train", "sanac:tiny", "--hold-out", "1", "--out", "j"], 2, ["--hold-out is 1: below 1"]),
    ],
)
def test_wrong_command_lines(arguments: list[str], code: int, words: list[str], sanac: Sanac) -> None:
    ran = sanac(*arguments)
    assert ran.code == code
    assert all(word in ran.err for word in words), ran.err
    in_json = sanac(*arguments, "--json").json
    assert (in_json["status"], in_json["exit"]) == ("error", code)
