"""Detections: a detector's output for an image, independent of the detector."""

import math
import unicodedata
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput

Box = tuple[float, float, float, float]

_LONGEST = 10_000  # maximum characters of a prompt


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected object: class, score in 0..1, box (left, top, right, bottom; y points down), colour, mask.

    Equality ignores masks: they are only used to classify the colour.
    """

    label: str
    score: float
    box: Box
    color: str | None = None
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Convert numpy numbers to Python's and reject detections that the rules can't judge."""
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "box", tuple(map(float, self.box)))
        problems = _problems(self)
        if problems:
            raise InvalidInput(
                f"a detector returned an invalid detection: {problems[0]}",
                hint="a detector that returns NaN often runs in fp16: try bf16 or fp32",
                problems=problems,
            )


def is_plain_text(value: object) -> TypeGuard[str]:
    """Whether `value` is one line of text: not empty, no control characters, no lone surrogates."""
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
        return False
    return not {"Cc", "Cs"} & set(map(unicodedata.category, value))


def _problems(found: Detection) -> list[str]:
    problems = []
    if not is_plain_text(found.label):
        problems.append("its class is not a line of text")
    if found.color is not None and not is_plain_text(found.color):
        problems.append("its colour is not a line of text")
    if not 0 <= found.score <= 1:
        problems.append(f"its score {found.score} is not within 0 and 1")
    if len(found.box) != 4 or not all(map(math.isfinite, found.box)):
        problems.append(f"its box {found.box} is not four numbers")
    elif found.box[0] > found.box[2] or found.box[1] > found.box[3]:
        problems.append(f"its box {found.box} is not left, top, right, bottom")
    if found.mask is not None and (found.mask.ndim != 2 or found.mask.dtype != np.bool_):
        problems.append("its mask is not a 2-d boolean array")
    return problems
