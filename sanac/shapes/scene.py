"""Scenes: items on a plain background, drawn at random so that they satisfy a prompt's content."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sanac.shapes.prompts import Content, is_held_out
from sanac.shapes.words import COLORS, RELATIONS, Kind

GAP = 0.05  # between items, and to the edge, as a share of the image side
Color = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One shape: centre and half side as shares of the image side, and its RGB colour."""

    shape: str
    color: str
    x: float
    y: float
    half: float
    paint: Color

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The bounding box: left, top, right, bottom."""
        return (self.x - self.half, self.y - self.half, self.x + self.half, self.y + self.half)


@dataclass(frozen=True, slots=True)
class Scene:
    """Items, the background colour, and the content that the items satisfy."""

    items: tuple[Item, ...]
    ground: Color
    content: Content


def draw_scene(content: Content, rng: np.random.Generator, *, tidy: bool = False) -> Scene:
    """A random scene that shows exactly `content`; what it leaves open is drawn, excluding held-out kinds.

    In a tidy scene every item is near the middle of its own quarter of the image, or of its own half if the content has
    a relation.
    """
    kinds = _kinds(content, rng)
    while True:
        halves = rng.uniform(*_HALF[len(kinds)], len(kinds)).tolist()
        centres = _tidy(content, halves, rng) if tidy else _place(halves, rng)
        if centres is not None and _stands(content, centres):
            break
    items = tuple(
        Item(kind.shape, kind.color, float(x), float(y), float(half), _jitter(COLORS[kind.color], rng))
        for kind, (x, y), half in zip(kinds, centres, halves, strict=True)
    )
    level = rng.uniform(0.90, 0.96)
    return Scene(items, _jitter((level, level, level), rng, 0.01), content)


_HALF = {1: (0.13, 0.21), 2: (0.12, 0.18), 3: (0.12, 0.155), 4: (0.12, 0.14)}  # range of half sides, by number of items


def _kinds(content: Content, rng: np.random.Generator) -> list[Kind]:
    """One kind per item. A group has one colour; unnamed colours are drawn so that no held-out kind results."""
    while True:
        kinds = []
        for wanted in content.wanted:
            color = wanted.color or str(rng.choice(list(COLORS)))
            kinds += [Kind(color, wanted.shape)] * wanted.count
        if content.held_out or not is_held_out(tuple(dict.fromkeys(kinds))):
            return kinds


def _place(halves: Sequence[float], rng: np.random.Generator) -> list[tuple[float, float]] | None:
    centres: list[tuple[float, float]] = []
    for index, half in enumerate(halves):
        for _ in range(20):
            x, y = rng.uniform(half + GAP, 1 - half - GAP, 2)
            apart = (
                max(abs(x - a), abs(y - b)) > half + other + GAP
                for (a, b), other in zip(centres, halves[:index], strict=True)
            )
            if all(apart):
                centres.append((float(x), float(y)))
                break
        else:
            return None
    return centres


def _tidy(content: Content, halves: Sequence[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    if content.relation:
        across, down = RELATIONS[content.relation]
        middles = [(0.5 + 0.24 * sign * across, 0.5 + 0.24 * sign * down) for sign in (1, -1)]
    else:
        quarters = rng.permutation(4).tolist()
        middles = [(0.26 + 0.48 * (quarter % 2), 0.26 + 0.48 * (quarter // 2)) for quarter in quarters]
    centres = []
    for middle, half in zip(middles, halves, strict=False):
        x, y = (_near(place, half, rng) for place in middle)
        centres.append((x, y))
    return centres


def _near(middle: float, half: float, rng: np.random.Generator) -> float:
    """A random coordinate near `middle`, away from the image's edges and centre line."""
    place = middle + rng.normal(0, 0.03)
    if middle < 0.4:
        place = np.clip(place, half + GAP, 0.5 - half - GAP / 2)
    elif middle > 0.6:
        place = np.clip(place, 0.5 + half + GAP / 2, 1 - half - GAP)
    return float(place)


def _stands(content: Content, centres: Sequence[tuple[float, float]]) -> bool:
    """Whether the first item is clearly in relation to the second: within 35 degrees of the axis."""
    if content.relation is None:
        return True
    across, down = RELATIONS[content.relation]
    offset = np.subtract(centres[0], centres[1])
    return float(offset @ (across, down)) > 0.82 * float(np.hypot(*offset))


def _jitter(color: Color, rng: np.random.Generator, by: float = 0.03) -> Color:
    red, green, blue = np.clip(np.add(color, rng.uniform(-by, by, 3)), 0, 1)
    return (float(red), float(green), float(blue))
