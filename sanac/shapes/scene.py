"""Scenes: items on a plain ground, drawn from a seed so that they show what a prompt asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sanac.shapes.prompts import Content, is_held_out
from sanac.shapes.words import COLORS, RELATIONS, Kind

GAP = 0.05  # between two items, and to the edge, as a share of the picture's side
Color = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One shape: centre and half its side, as shares of the picture's side, and the colour it is painted in."""

    shape: str
    color: str
    x: float
    y: float
    half: float
    paint: Color

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return (self.x - self.half, self.y - self.half, self.x + self.half, self.y + self.half)


@dataclass(frozen=True, slots=True)
class Scene:
    """Items, the ground they lie on, and a prompt's content that they satisfy."""

    items: tuple[Item, ...]
    ground: Color
    content: Content


def draw_scene(content: Content, rng: np.random.Generator, *, tidy: bool = False) -> Scene:
    """A scene that shows exactly what is asked for; what is left open is drawn, never from what is held out.

    In a tidy one, every item lies near the middle of a quarter of the picture that it has for itself; or of a half,
    where one stands in a relation to the other.
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


_HALF = {1: (0.13, 0.21), 2: (0.12, 0.18), 3: (0.12, 0.155), 4: (0.12, 0.14)}  # more items are smaller


def _kinds(content: Content, rng: np.random.Generator) -> list[Kind]:
    """One kind per item. A group has one colour; an unnamed colour never makes what is held out."""
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
    """Somewhere near the middle of its part, off the edges and the picture's own middle line."""
    place = middle + rng.normal(0, 0.03)
    if middle < 0.4:
        place = np.clip(place, half + GAP, 0.5 - half - GAP / 2)
    elif middle > 0.6:
        place = np.clip(place, 0.5 + half + GAP / 2, 1 - half - GAP)
    return float(place)


def _stands(content: Content, centres: Sequence[tuple[float, float]]) -> bool:
    """Whether the first item stands in the relation to the second, and clearly so: within 35 degrees of the axis."""
    if content.relation is None:
        return True
    across, down = RELATIONS[content.relation]
    offset = np.subtract(centres[0], centres[1])
    return float(offset @ (across, down)) > 0.82 * float(np.hypot(*offset))


def _jitter(color: Color, rng: np.random.Generator, by: float = 0.03) -> Color:
    red, green, blue = np.clip(np.add(color, rng.uniform(-by, by, 3)), 0, 1)
    return (float(red), float(green), float(blue))
