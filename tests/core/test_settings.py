"""Laws of settings: reading is idempotent, words and values agree, everything wrong is said at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.core.settings import (
    ModelRef,
    Option,
    Settings,
    Size,
    build,
    canonical_name,
    docs_table,
    flag_name,
    json_schema,
    problems_of,
    settings_of,
)
from sanac.verbs import VERBS


@dataclass(frozen=True, kw_only=True)
class Base(Settings):
    """Base."""

    TITLE: ClassVar[str] = "Base options"

    count: Annotated[int, Option("A count.", "N", ge=1, le=9)] = 3


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """Example."""

    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("first", "second"),)

    first: Annotated[int | None, Option("First.", gt=0)] = None
    second: Annotated[float | None, Option("Second.", lt=2, aliases=("zweite",), stored="z")] = None
    kinds: Annotated[tuple[Literal["a", "b"], ...], Option("Kinds.", comma=True)] = ()
    size: Annotated[Size, Option("Size.", recipe=False)] = Size(10)  # noqa: RUF009
    where: Annotated[Path | None, Option("Where.")] = None
    model: Annotated[ModelRef | None, Option("Model.")] = None
    on: Annotated[bool, Option("On.")] = False


KNOWN = settings_of(Example)


def test_fields_own_ones_first_then_inherited() -> None:
    assert list(KNOWN) == ["first", "second", "kinds", "size", "where", "model", "on", "count"]
    assert [KNOWN["first"].group, KNOWN["count"].group] == ["Options", "Base options"]
    assert (KNOWN["kinds"].many, KNOWN["kinds"].choices, KNOWN["size"].kind) == (True, ("a", "b"), Size)
    assert (KNOWN["count"].range_shown, KNOWN["first"].range_shown, KNOWN["count"].default_shown) == (
        "1 to 9",
        "above 0",
        "3",
    )
    assert (canonical_name(Example, "zweite"), flag_name("dry_run")) == ("second", "--dry-run")


@given(
    st.integers(-5, 15), st.floats(allow_nan=True, allow_infinity=True), st.lists(st.sampled_from("abc"), unique=True)
)
def test_a_value_and_its_word_are_the_same(count: int, second: float, kinds: list[str]) -> None:
    values = {"count": count, "second": second, "kinds": kinds or ["a"]}
    words = {"count": str(count), "second": repr(second), "kinds": ",".join(kinds or ["a"])}
    typed = [key for key, _ in problems_of(Example, values)]
    assert typed == [key for key, _ in problems_of(Example, words, text=True)]
    assert ("count" in typed) == (not 1 <= count <= 9)
    assert ("second" in typed) == (not math.isfinite(second) or second >= 2 or abs(second) >= 1e300)
    assert ("kinds" in typed) == ("c" in kinds)
    if not typed:
        made = build(Example, values)
        assert made == build(Example, words, text=True)
        again = {name: getattr(made, name) for name in ("count", "second", "kinds")}
        assert build(Example, again) == made, "what was read reads as itself"
        assert made.typed == {"count", "second", "kinds"}


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        build(Example, {"count": 0, "kinds": "a,x", "cuont": 1, "size": "big", "on": 1, "where": 3, "first": True})
    assert caught.value.problems == (
        "count is 0: at least 1",
        "kinds is 'x', not one of a, b",
        "there is no setting 'cuont': did you mean 'count'?",
        "size is 'big', not a size such as '2GB'",
        "on is 1, not true or false",
        "where is 3, not a path",
        "first is True, not a whole number",
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "one of first, second is required"),
        ({"first": 1, "second": 1}, "first and second contradict each other"),
        ({"first": 1, "zweite": 1.0}, "contradict each other"),
        ({"first": None}, "is required"),
        ({"first": 1, "kinds": ""}, "names nothing"),
        ({"first": 1, "model": "a\0b"}, "not a model"),
        ({"first": 1, "size": -5}, "not a size"),
        ({"first": 1.5}, "not a whole number"),
    ],
)
def test_refusals(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(Example, values)


def test_earlier_names_are_read_but_not_shown() -> None:
    assert build(Example, {"zweite": 1.0}).second == 1.0
    assert "zweite" not in docs_table(Example)
    schema = json_schema(Example)
    assert "size" not in schema["properties"], "no recipe may set it"
    assert "zweite" not in schema["properties"]
    assert list(problems_of(Example, {"size": "1MB"}, recipe=True))


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_no_verb_has_two_meanings_for_a_name(verb) -> None:
    settings = verb.settings_class()
    known = settings_of(settings)
    aliases = [old for one in known.values() for old in one.option.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(known)
    assert all(name in known for group in settings.ONE_OF for name in group)
