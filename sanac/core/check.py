"""A number and the limit it is held to: whether it passes, by what margin, and which limit would have passed."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One number compared with one limit, unrounded. A value that is missing, infinite or NaN never passes."""

    name: str  # 'evaluate-shapes/overall, low bound'
    value: float | None  # None: it was not measured
    limit: float
    most: bool = True  # whether the limit is the largest value that passes, or the smallest
    note: str = ""  # what the value is where it isn't the metric itself, or why there is none

    @property
    def finite(self) -> float | None:
        """The value where it is a finite number, else None: what JSON can hold."""
        return self.value if self.value is not None and math.isfinite(self.value) else None

    @property
    def margin(self) -> float | None:
        """How far the value is on the passing side of the limit; negative if it fails, None without a finite value."""
        if self.finite is None:
            return None
        return self.limit - self.finite if self.most else self.finite - self.limit

    @property
    def passed(self) -> bool:
        """Whether the value keeps to the limit."""
        if self.finite is None:
            return False
        return self.finite <= self.limit if self.most else self.finite >= self.limit

    @property
    def would_pass(self) -> float | None:
        """The tightest limit that this value passes; None without a finite value."""
        return self.finite

    @property
    def text(self) -> str:
        """The value, the limit and the margin, in as many digits as it takes to tell them apart."""
        limit = f"{'at most' if self.most else 'at least'} {self.limit:.12g}"
        if self.value is None:
            return f"{self.name}: {self.note or 'it was not measured'}; {limit} is wanted"
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {distinct_digits(self.value, self.limit)}{note}, {limit}: {self._margin_text}"

    @property
    def _margin_text(self) -> str:
        if self.margin is None:
            return "not a finite number"
        how = "to spare" if self.passed else "too much" if self.most else "too little"
        return f"{abs(self.margin):.3g} {how}"

    def to_json(self) -> dict[str, Any]:
        """All fields, the verdict, the limit that would have passed and the text; a value that isn't finite is null."""
        found = {"value": self.finite, "passed": self.passed, "would pass": self.would_pass, "text": self.text}
        return asdict(self) | found


def distinct_digits(value: float, limit: float) -> str:
    """The value in at least 4 digits, and in so many that it still reads as below, at or above the limit.

    0.9457 beside a limit of 0.95; 0.94999 beside it, rather than 0.95.
    """
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if (float(text) < limit, float(text) > limit) == (value < limit, value > limit):
            return text
    return repr(value)
