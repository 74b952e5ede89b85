"""Tasks, detections and scenes that the tests share."""

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sanac.judge.detections import Detection
from sanac.judge.features import Pictures
from sanac.judge.metadata import RELATIONS, TAGS, Clause, GenEvalTask

law = settings(max_examples=40, deadline=None)
LABELS = ("dog", "cat", "teddy bear")
COLORS = ("red", "blue", "green")


@st.composite
def tasks(draw: st.DrawFn) -> GenEvalTask:
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=3))
    include = []
    for index, label in enumerate(labels):
        targets = st.tuples(st.sampled_from(RELATIONS), st.integers(0, index - 1)) if index else st.none()
        color = draw(st.none() | st.sampled_from(COLORS))
        include.append(Clause(label, draw(st.integers(1, 4)), color, draw(st.none() | targets)))
    most = max(clause.count for clause in include)
    exclude = draw(st.lists(st.builds(Clause, st.sampled_from(LABELS), st.integers(most + 1, 16)), max_size=2))
    prompt = draw(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(str.strip))
    return GenEvalTask(draw(st.sampled_from(TAGS)), prompt, tuple(include), tuple(exclude))


@st.composite
def detections(draw: st.DrawFn, most: int = 8) -> list[Detection]:
    """No two of one score: which of them is best would be a matter of taste."""
    scores = draw(st.lists(st.integers(0, 100), max_size=most, unique=True))
    edges = st.integers(0, 400)
    found = []
    for score in scores:
        left, top, width, height = (draw(edges) for _ in range(4))
        label, color = draw(st.sampled_from(LABELS)), draw(st.none() | st.sampled_from(COLORS))
        found.append(Detection(label, score / 100, (left, top, left + width, top + height), color))
    return found


def at(label: str, x: float, y: float, size: float = 100, score: float = 0.95, color: str | None = None) -> Detection:
    """One whose centre is here."""
    return Detection(label, score, (x - size / 2, y - size / 2, x + size / 2, y + size / 2), color)


def line(**changes: Any) -> dict[str, Any]:
    """A line of metadata, with changes."""
    return {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"} | changes


_PAINT = np.array([[220, 40, 40], [40, 170, 60], [50, 80, 220], [230, 200, 40], [150, 50, 190]])


def scenes(
    number: int,
    seed: int,
    colors: int = 5,
    kinds: list[tuple[int, int]] | None = None,
    height: int = 32,
    width: int = 32,
) -> Pictures:
    """Two discs or squares at random places on a light ground: of `colors` colours, or only of these pairs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    pictures = np.empty((number, height, width, 3), dtype=np.uint8)
    for picture in pictures:
        picture[:] = rng.integers(225, 245)
        for kind in rng.integers(colors, size=2) if kinds is None else kinds[rng.integers(len(kinds))]:
            radius = height * rng.uniform(0.12, 0.2)
            y, x = abs(rows - rng.uniform(radius, height - radius)), abs(columns - rng.uniform(radius, width - radius))
            picture[(np.hypot(y, x) if kind % 2 else np.maximum(y, x)) < radius] = _PAINT[kind]
    return pictures


def blurred(pictures: NDArray[np.uint8]) -> Pictures:
    """Each pixel the mean of its 3 x 3 neighbours."""
    steps = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    total = sum(np.roll(pictures.astype(float), step, axis=(1, 2)) for step in steps)
    return np.asarray(total / 9).round().astype(np.uint8)
