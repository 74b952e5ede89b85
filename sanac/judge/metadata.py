"""GenEval metadata: what each prompt asks for, one JSON line each, validated before judging."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.judge.detections import is_plain_text
from sanac.judge.jsonl import read_lines

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
MOST_PER_CLASS = 16  # the rules consider at most this many detections of a class, so a clause can't ask for more


@dataclass(frozen=True, slots=True)
class Clause:
    """A required object: `count` of a class, optionally of one colour, and in a relation to all objects of a clause.

    `position` is (relation, index of the other clause).
    """

    label: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The clause in GenEval's metadata format."""
        value: dict[str, Any] = {"class": self.label, "count": self.count}
        if self.color is not None:
            value["color"] = self.color
        if self.position is not None:
            value["position"] = list(self.position)
        return value


@dataclass(frozen=True, slots=True)
class GenEvalTask:
    """A prompt with what its image must show (`include`) and must not show (`exclude`: `count` or more)."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    def __post_init__(self) -> None:
        """Reject tasks that no image can satisfy or that can't be judged."""
        _raise(task_problems(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """The task in GenEval's metadata format, keys in its order."""
        value: dict[str, Any] = {"tag": self.tag, "include": [clause.to_json() for clause in self.include]}
        if self.exclude:
            value["exclude"] = [clause.to_json() for clause in self.exclude]
        return value | {"prompt": self.prompt}


def read_metadata(path: Path, *, tags: Collection[str] = TAGS) -> list[GenEvalTask]:
    """The tasks in a metadata file; InvalidInput lists every malformed line and every tag outside `tags`."""
    return read_lines(path, partial(parse_task, tags=tags))


def parse_task(value: Any, *, tags: Collection[str] = TAGS) -> GenEvalTask:
    """The task in one parsed line of metadata; InvalidInput lists all its problems.

    Unknown tags are refused because the tag selects the threshold: `countings` would be judged with the wrong one.
    """
    problems = list(task_problems(value))
    if not problems and value["tag"] not in tags:
        problems.append(f"the tag {_short(value['tag'])} is not one of {', '.join(tags)}")
    _raise(problems)
    include, exclude = (tuple(map(_clause, value.get(key, ()))) for key in ("include", "exclude"))
    return GenEvalTask(value["tag"], value["prompt"], include, exclude)


def unknown_words(tasks: Sequence[GenEvalTask], labels: Collection[str], colors: Collection[str]) -> list[str]:
    """Classes and colours in `tasks` that are not among the detector's `labels` and `colors`."""
    clauses = [clause for task in tasks for clause in (*task.include, *task.exclude)]
    asked = {clause.label for clause in clauses} - set(labels)
    return sorted(asked | {clause.color for clause in clauses if clause.color is not None} - set(colors))


def task_problems(value: Any) -> Iterator[str]:
    """All problems of one metadata object."""
    if not isinstance(value, dict):
        yield f"it is {_short(value)}, not an object"
        return
    yield from _key_problems(value, "it", {"tag", "prompt", "include"}, {"exclude"})
    for key in ("tag", "prompt"):
        if key in value and not is_plain_text(value[key]):
            yield f"{key} is {_short(value[key])}, not a line of text"
    groups = {"include": value.get("include", ()), "exclude": value.get("exclude", ())}
    for key, clauses in groups.items():
        if key in value and not isinstance(clauses, list):
            yield f"{key} is {_short(clauses)}, not a list"
            return
        for index, clause in enumerate(clauses):
            yield from _clause_problems(clause, key, index)
    if not groups["include"]:
        yield "include asks for nothing"
    yield from _contradictions(**groups)


def _clause_problems(value: Any, key: str, index: int) -> Iterator[str]:
    where = f"{key} {index}"
    if not isinstance(value, dict):
        yield f"{where} is {_short(value)}, not an object"
        return
    yield from _key_problems(value, where, {"class", "count"}, {"color", "position"} if key == "include" else set())
    for name in ("class", "color"):
        if name in value and not is_plain_text(value[name]):
            yield f"{where}: {name} is {_short(value[name])}, not a line of text"
    if "count" in value and not _is_count(value["count"]):
        yield f"{where}: count is {_short(value['count'])}, not a whole number from 1 to {MOST_PER_CLASS}"
    if "position" in value:
        yield from _position_problems(value["position"], where, index)


def _position_problems(value: Any, where: str, index: int) -> Iterator[str]:
    if not isinstance(value, list) or len(value) != 2:
        yield f"{where}: position is {_short(value)}, not [relation, index of the target]"
        return
    relation, target = value
    if relation not in RELATIONS:
        yield f"{where}: the relation {_short(relation)} is not one of {', '.join(RELATIONS)}"
    if type(target) is not int or not 0 <= target < index:
        yield f"{where}: the target {_short(target)} is not the index of an earlier clause"


def _key_problems(value: dict[str, Any], where: str, needed: set[str], optional: set[str]) -> Iterator[str]:
    yield from (f"{where} has no {key}" for key in sorted(needed - set(value)))
    yield from (f"{where} has the unknown key {_short(key)}" for key in sorted(set(value) - needed - optional))


def _contradictions(include: Sequence[Any], exclude: Sequence[Any]) -> Iterator[str]:
    wanted: dict[str, int] = {}
    for clause in filter(_is_countable, include):
        wanted[clause["class"]] = max(clause["count"], wanted.get(clause["class"], 0))
    for index, clause in enumerate(exclude):
        if _is_countable(clause) and clause["count"] <= wanted.get(clause["class"], 0):
            yield f"exclude {index} forbids the {wanted[clause['class']]} that include asks for"


def _is_countable(clause: Any) -> bool:
    return isinstance(clause, dict) and isinstance(clause.get("class"), str) and _is_count(clause.get("count"))


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_PER_CLASS


def _clause(value: dict[str, Any]) -> Clause:
    position = value.get("position")
    return Clause(value["class"], value["count"], value.get("color"), tuple(position) if position else None)


def _raise(problems: Iterator[str] | list[str]) -> None:
    listed = list(problems)
    if listed:
        raise InvalidInput("the metadata of a prompt is malformed", why=listed[0], problems=listed)


def _short(value: Any) -> str:
    """A value for messages: the beginning of a scalar, the type of a container."""
    return repr(value)[:60] if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
