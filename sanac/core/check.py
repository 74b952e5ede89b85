"""Checks: a value compared with a limit, the verdict, the margin, and the limit that would have passed."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One number compared with one limit, unrounded. A value that is missing, infinite or NaN never passes."""

    name: str  # 'evaluate-shapes/overall, low bound'
    value: float | None  # None: it was not measured
    limit: float
    most: bool = True  # True: the limit is an upper bound; False: a lower bound
    note: str = ""  # what the value is if it isn't the metric itself, or why it is missing

    @property
    def finite(self) -> float | None:
        """The value if it is a finite number, else None, as JSON requires."""
        return self.value if self.value is not None and math.isfinite(self.value) else None

    @property
    def margin(self) -> float | None:
        """How far the value is on the passing side of the limit; negative if it fails, None without a finite value."""
        if self.finite is None:
            return None
        return self.limit - self.finite if self.most else self.finite - self.limit

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        if self.finite is None:
            return False
        return self.finite <= self.limit if self.most else self.finite >= self.limit

    @property
    def would_pass(self) -> float | None:
        """The tightest limit that this value passes; None without a finite value."""
        return self.finite

    @property
    def text(self) -> str:
        """The check as text: value, limit and margin, with enough digits to distinguish them."""
        limit = f"{'at most' if self.most else 'at least'} {self.limit:.12g}"
        if self.value is None:
            return f"{self.name}: {self.note or 'it was not measured'}; the limit is {limit}"
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
    """The value with at least 4 digits, and enough that it still reads as below, at or above the limit.

    For a limit of 0.95: 0.9457, and 0.94999 rather than 0.95.
    """
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if (float(text) < limit, float(text) > limit) == (value < limit, value > limit):
            return text
    return repr(value)
