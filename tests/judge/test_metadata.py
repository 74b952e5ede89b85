"""GenEval's metadata: what it says survives, and what is malformed is named with its line."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import InvalidInput
from sanac.judge import jsonl
from sanac.judge.metadata import Clause, GenEvalTask, parse_task, read_metadata, unknown_words
from tests.judge.worlds import law, line, tasks

GENUINE = """\
{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], "prompt": "a photo of two clocks"}
{"tag": "position", "include": [{"class": "teddy bear", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}], "prompt": "a photo of a dog right of a teddy bear"}
{"tag": "color_attr", "include": [{"class": "wine glass", "count": 1, "color": "purple"}, {"class": "apple", "count": 1, "color": "black"}], "prompt": "a photo of a purple wine glass and a black apple"}
"""  # noqa: E501


def written(folder: Path, *values: Any) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return path


@law
@given(tasks())
def test_a_task_survives_json(task: GenEvalTask) -> None:
    assert parse_task(json.loads(json.dumps(task.to_json()))) == task


def test_genuine_lines_are_written_as_they_were(tmp_path: Path) -> None:
    path = written(tmp_path, GENUINE.rstrip("\n"))
    tasks = read_metadata(path)
    assert "".join(f"{json.dumps(task.to_json())}\n" for task in tasks) == GENUINE
    assert tasks[1].include[1] == Clause("dog", 1, None, ("right of", 0))
    path.write_text(GENUINE.replace("\n", "\r\n").rstrip())
    assert read_metadata(path) == tasks


def two(**second: Any) -> dict[str, Any]:
    return line(tag="position", include=[{"class": "cat", "count": 1}, {"class": "dog", "count": 1, **second}])


MALFORMED: dict[str, tuple[Any, str]] = {
    "no JSON": ("nonsense", "not valid JSON"),
    "a blank line": ("", "not valid JSON"),
    "a list": ([], "does not hold a JSON object"),
    "a key twice": ('{"tag": "counting", "tag": "counting"}', "'tag' appears twice"),
    "NaN": (json.dumps(line(include=[{"class": "dog", "count": float("nan")}])), "NaN"),
    "nested without end": ("[" * 100_000, "not valid JSON"),
    "no prompt": ({"tag": "counting", "include": line()["include"]}, "it has no prompt"),
    "an unknown key": (line(colour="red"), "unknown key 'colour'"),
    "an unknown tag": (line(tag="countings"), "the tag 'countings' is not one of"),
    "a tag in a list": (line(tag=["counting"]), "tag is a list"),
    "a prompt that is a number": (line(prompt=3), "prompt is 3"),
    "a prompt of half a character": (line(prompt="\ud800"), "prompt is"),
    "an empty prompt": (line(prompt=" "), "prompt is"),
    "nothing to include": (line(include=[]), "include asks for nothing"),
    "include in an object": (line(include={"class": "dog"}), "include is a dict, not a list"),
    "exclude of null": (line(exclude=None), "exclude is None"),
    "a clause of text": (line(include=["dog"]), "include 0 is 'dog', not an object"),
    "a clause without a class": (line(include=[{"count": 1}]), "include 0 has no class"),
    "a class of null": (line(include=[{"class": None, "count": 1}]), "include 0: class is None"),
    "a misspelt colour": (two(colour="red"), "include 1 has the unknown key 'colour'"),
    "no count": (line(include=[{"class": "dog"}]), "include 0 has no count"),
    "a colour in exclude": (line(exclude=[{"class": "dog", "count": 3, "color": "red"}]), "unknown key 'color'"),
    "a count of 0": (line(include=[{"class": "dog", "count": 0}]), "count is 0"),
    "a negative count": (line(include=[{"class": "dog", "count": -2}]), "count is -2"),
    "a count of true": (line(include=[{"class": "dog", "count": True}]), "count is True"),
    "a broken count": (line(include=[{"class": "dog", "count": 2.0}]), "count is 2.0"),
    "more than are looked at": (line(include=[{"class": "dog", "count": 17}]), "count is 17"),
    "a count without end": (line(include=[{"class": "dog", "count": 10**4000}]), "count is 1000"),
    "an unknown relation": (two(position=["beside", 0]), "relation 'beside' is not one of"),
    "a relation in a list": (two(position=[["left of"], 0]), "relation a list is not one of"),
    "a position of one": (two(position=["left of"]), "position is a list"),
    "a position of text": (two(position="left of"), "position is 'left of'"),
    "itself as target": (two(position=["left of", 1]), "target 1 is not the index"),
    "a later target": (two(position=["left of", 2]), "target 2 is not the index"),
    "a target from the end": (two(position=["left of", -1]), "target -1 is not the index"),
    "false as target": (two(position=["left of", False]), "target False is not the index"),
    "include against exclude": (line(exclude=[{"class": "dog", "count": 2}]), "exclude 0 forbids the 2"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_named(name: str, tmp_path: Path) -> None:
    value, said = MALFORMED[name]
    with pytest.raises(InvalidInput) as caught:
        read_metadata(written(tmp_path, line(), value, line()))
    assert all(problem.startswith("line 2: ") for problem in caught.value.problems)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
    assert max(map(len, caught.value.problems)) < 300


def test_every_malformed_line_is_reported_with_all_its_problems(tmp_path: Path) -> None:
    broken = two(position=["beside", 7]) | {"prompt": 5}
    with pytest.raises(InvalidInput) as caught:
        read_metadata(written(tmp_path, "{", line(), broken, line(tag="x")))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["line 1", *["line 3"] * 3, "line 4"]


def test_other_tags_are_named_by_the_caller(tmp_path: Path) -> None:
    path = written(tmp_path, line(tag="mine"))
    assert read_metadata(path, tags=["mine"])[0].tag == "mine"


def test_a_task_that_cannot_be_judged_is_not_constructed() -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        GenEvalTask("position", "a dog", (Clause("dog", position=("left of", 0)),))
    with pytest.raises(InvalidInput):
        GenEvalTask("counting", "no dog", ())


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(json.dumps(line()).encode()[:-2] + b'\xe9"}')
    os.mkfifo(tmp_path / "pipe")
    said = {"empty": "is empty", "latin": "malformed lines", "pipe": "is not a file", ".": "cannot read"}
    for name, words in (said | {"missing": "cannot read", "nul\0": "cannot read"}).items():
        with pytest.raises(InvalidInput, match=words):
            read_metadata(tmp_path / name)
    path = written(tmp_path, *[line()] * 3)
    monkeypatch.setattr(jsonl, "MOST_LINES", 2)
    with pytest.raises(InvalidInput, match="too many lines"):
        read_metadata(path)
    monkeypatch.setattr(jsonl, "MOST_BYTES", 99)
    with pytest.raises(InvalidInput, match="too large"):
        read_metadata(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["dog", "left of"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["class", "count", "x"]), inner),
    max_leaves=5,
)


@law
@given(st.sampled_from(["tag", "include", "exclude", "prompt"]), JUNK, st.booleans())
def test_whatever_a_line_says_there_is_no_traceback(key: str, junk: Any, within: bool) -> None:
    value = line(include=[{"class": "cat", "count": 1} | {key: junk}]) if within else line(**{key: junk})
    with suppress(InvalidInput):
        task = parse_task(value)
        assert task.to_json() == {key: part for key, part in value.items() if part != []}


def test_words_a_detector_doesn_t_know() -> None:
    task = GenEvalTask("colors", "x", (Clause("dog", color="teal"), Clause("cat")), (Clause("axolotl", 3),))
    assert unknown_words([task], ["dog", "cat"], ["red"]) == ["axolotl", "teal"]
    assert unknown_words([task], ["dog", "cat", "axolotl"], ["teal"]) == []
