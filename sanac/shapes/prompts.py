"""The shapes world's prompts: their texts, their contents, and the split into train, tune, test and held-out."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from sanac.shapes.words import (
    CLOSINGS,
    COLORS,
    HELD_OUT,
    NUMBERS,
    OPENINGS,
    RELATIONS,
    SAYING,
    SHAPES,
    TAGS,
    Kind,
    plural,
)

Split = Literal["train", "tune", "test", "held-out"]


@dataclass(frozen=True, slots=True)
class ItemSpec:
    """`count` items of one shape, and of one colour if the prompt names it."""

    shape: str
    color: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Content:
    """What a prompt asks for, independent of its wording; the first item is in `relation` to the second."""

    tag: str
    wanted: tuple[ItemSpec, ...]
    relation: str | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The (colour, shape) kinds of items with a named colour."""
        return tuple(Kind(item.color, item.shape) for item in self.wanted if item.color)

    @property
    def held_out(self) -> bool:
        """Whether this content is excluded from training."""
        return is_held_out(self.kinds)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt text and its content."""

    text: str
    content: Content

    @property
    def metadata(self) -> dict[str, Any]:
        """The prompt as a line of GenEval's metadata."""
        clauses: list[dict[str, Any]] = [
            {"class": item.shape, "count": item.count} | ({"color": item.color} if item.color else {})
            for item in self.content.wanted
        ]
        if self.content.relation:  # GenEval's order: the target first, then the item in relation to it
            clauses = [clauses[1], clauses[0] | {"position": [self.content.relation, 0]}]
        line: dict[str, Any] = {"tag": self.content.tag, "include": clauses}
        if self.content.tag == "counting":
            line["exclude"] = [{"class": item.shape, "count": item.count + 1} for item in self.content.wanted]
        return line | {"prompt": self.text}


def is_held_out(kinds: tuple[Kind, ...]) -> bool:
    """Whether these kinds are held out of training: some (colour, shape) kinds, and one in eight pairs of kinds."""
    if HELD_OUT.intersection(kinds):
        return True
    return len(kinds) == 2 and _digest(" ".join(f"{kind.color}-{kind.shape}" for kind in sorted(kinds))) % 8 == 0


def split_of(prompt: Prompt) -> Split:
    """The split of a prompt, derived from its text and content, so that no list is stored."""
    return "held-out" if prompt.content.held_out else _split_of_text(prompt.text)


def _split_of_text(text: str) -> Split:
    bucket = _digest(text) % 10
    return "tune" if bucket == 0 else "test" if bucket < 3 else "train"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


@cache
def contents(tag: str) -> tuple[Content, ...]:
    """All contents of a task."""
    return tuple(_CONTENTS[tag]())


def _single() -> Iterator[Content]:
    for shape in SHAPES:
        yield Content("single_object", (ItemSpec(shape),))


def _two() -> Iterator[Content]:
    for first, second in itertools.permutations(SHAPES, 2):
        yield Content("two_object", (ItemSpec(first), ItemSpec(second)))


def _counting() -> Iterator[Content]:
    for count, color, shape in itertools.product(NUMBERS, (None, *COLORS), SHAPES):
        yield Content("counting", (ItemSpec(shape, color, count),))


def _colors() -> Iterator[Content]:
    for color, shape in itertools.product(COLORS, SHAPES):
        yield Content("colors", (ItemSpec(shape, color),))


def _position() -> Iterator[Content]:
    for relation, (first, second) in itertools.product(RELATIONS, itertools.permutations(SHAPES, 2)):
        yield Content("position", (ItemSpec(first), ItemSpec(second)), relation)


def _color_attr() -> Iterator[Content]:
    pairs = itertools.product(itertools.permutations(COLORS, 2), itertools.permutations(SHAPES, 2))
    for (first_color, second_color), (first, second) in pairs:
        yield Content("color_attr", (ItemSpec(first, first_color), ItemSpec(second, second_color)))


_CONTENTS = dict(zip(TAGS, (_single, _two, _counting, _colors, _position, _color_attr), strict=True))


@cache
def phrasings(content: Content) -> tuple[Prompt, ...]:
    """All prompts with this content."""
    return tuple(
        Prompt(f"{opening}{core}{closing}", content)
        for opening, core, closing in itertools.product(OPENINGS, _cores(content), CLOSINGS)
    )


def _cores(content: Content) -> list[str]:
    first = content.wanted[0]
    if first.count > 1:
        items = f"{NUMBERS[first.count]} {first.color + ' ' if first.color else ''}{plural(first.shape)}"
        return [items, f"exactly {items}"]
    if len(content.wanted) == 1:
        return [*_ways(first), f"one {first.color + ' ' if first.color else ''}{first.shape}"]
    second = content.wanted[1]
    joints = SAYING[content.relation] if content.relation else ("and", "with")
    return [
        f"{one} {joint} {other}" for joint in joints for one, other in zip(_ways(first), _ways(second), strict=True)
    ]


def _ways(item: ItemSpec) -> list[str]:
    return (
        [f"a {item.color} {item.shape}", f"a {item.shape} that is {item.color}"] if item.color else [f"a {item.shape}"]
    )


@cache
def prompts_of(tag: str, split: Split) -> tuple[Prompt, ...]:
    """All prompts of a task in a split."""
    held_out = split == "held-out"
    asked = [content for content in contents(tag) if content.held_out == held_out]
    prompts = (prompt for content in asked for prompt in phrasings(content))
    return tuple(prompt for prompt in prompts if held_out or _split_of_text(prompt.text) == split)


def suite(split: Split, images: int) -> list[Prompt]:
    """An evaluation suite: `images` prompts of a split, cycling through tasks and, within each, through contents."""
    queues = [_spread(prompts_of(tag, split)) for tag in TAGS if prompts_of(tag, split)]
    return [next(queues[index % len(queues)]) for index in range(images)]


def unseen_prompts(tag: str, part: Literal["tune", "test"]) -> tuple[Prompt, ...]:
    """Held-out prompts of a task, of one half of the held-out contents: to choose by, or to report on."""
    odd = part == "test"
    return tuple(prompt for prompt in prompts_of(tag, "held-out") if _content_number(prompt.content) % 2 == odd)


def _content_number(content: Content) -> int:
    return _digest(repr(content))


def unseen_suite(images: int, part: Literal["tune", "test"] = "test") -> list[Prompt]:
    """`images` prompts of half of the held-out contents, cycling through tasks."""
    queues = [_spread(prompts) for tag in TAGS if (prompts := unseen_prompts(tag, part))]
    return [next(queues[index % len(queues)]) for index in range(images)]


def choosing_suite(images: int) -> list[tuple[str, Prompt]]:
    """(task, prompt) of `images` images to choose settings by, cycling through tasks.

    Besides the tasks on tuning prompts, those on contents that training never saw are tasks of their own: what is
    chosen on familiar contents alone may be good at nothing else.
    """
    queues = [(tag, _spread(prompts_of(tag, "tune"))) for tag in TAGS]
    queues += [(f"{tag}, unseen", _spread(prompts)) for tag in TAGS if (prompts := unseen_prompts(tag, "tune"))]
    turns = (queues[index % len(queues)] for index in range(images))
    return [(task, next(prompts)) for task, prompts in turns]


def _spread(prompts: tuple[Prompt, ...]) -> Iterator[Prompt]:
    """Cycles through `prompts` endlessly, with different contents in neighbouring prompts."""
    rng = np.random.default_rng(_digest(prompts[0].content.tag))
    by_content: dict[Content, list[Prompt]] = {}
    for prompt in prompts:
        by_content.setdefault(prompt.content, []).append(prompt)
    asked = [[by_content[content][i] for i in rng.permutation(len(by_content[content]))] for content in by_content]
    order = [asked[i] for i in rng.permutation(len(asked))]
    rounds = max(map(len, order))
    return itertools.cycle([texts[turn] for turn in range(rounds) for texts in order if turn < len(texts)])
