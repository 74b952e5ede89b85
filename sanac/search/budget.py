"""What a search may spend, and what it spent: forward passes, blocks of these, decodes, verifier calls, seconds."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sanac.core.errors import UsageError

COUNTED = ("forwards", "block_forwards", "decodes", "verifier_calls")


@dataclass
class Budget:
    """Limits and what was spent; None: no limit."""

    max_forwards: int | None = None
    max_seconds: float | None = None
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    _start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._start

    @property
    def in_time(self) -> bool:
        """Whether there is time left."""
        return self.max_seconds is None or self.seconds < self.max_seconds

    def restart_clock(self) -> None:
        """Count seconds from now on."""
        self._start = time.monotonic()

    def allowed(self, prompts: int) -> int | None:
        """Forward passes for the next one of so many prompts that are left: an equal share of what is left."""
        return None if self.max_forwards is None else (self.max_forwards - self.spent["forwards"]) // prompts

    def add(self, spent: Mapping[str, int]) -> None:
        """Count what the search of a prompt spent."""
        for name in COUNTED:
            self.spent[name] += spent[name]

    def check(self, each: int, images: int) -> None:
        """UsageError if the limit doesn't pay for so many images of `each` forward passes."""
        if self.max_forwards is not None and self.max_forwards < each * images:
            raise UsageError(
                f"--max-forwards {self.max_forwards} is too small",
                why=f"an image takes {each} forward passes, and {images} have to be found",
                hint=f"--max-forwards {each * images}, or fewer --steps",
            )

    def to_json(self) -> dict[str, Any]:
        """What was spent."""
        return {**self.spent, "seconds": round(self.seconds, 2)}
