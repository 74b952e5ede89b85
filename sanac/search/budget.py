"""What a search may spend, and what it spent: forward passes, decoded images, verifier calls, seconds."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sanac.core.artifact.schedule import Schedule
from sanac.core.errors import UsageError


@dataclass
class Budget:
    """Limits and what was spent; None: no limit."""

    max_forwards: int | None = None
    max_seconds: float | None = None
    forwards: int = 0
    decodes: int = 0
    verifier_calls: int = 0
    _start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._start

    @property
    def in_time(self) -> bool:
        """Whether there is time left."""
        return self.max_seconds is None or self.seconds < self.max_seconds

    def affordable(self, each: int, wanted: int) -> int:
        """How many images of `each` forward passes the limit of them pays for, at most `wanted`."""
        return wanted if self.max_forwards is None else min(wanted, (self.max_forwards - self.forwards) // each)

    def check(self, each: int, prompts: int) -> None:
        """UsageError if the limit doesn't pay for one image of every prompt."""
        if self.max_forwards is not None and self.max_forwards < each * prompts:
            raise UsageError(
                f"--max-forwards {self.max_forwards} is too small",
                why=f"an image takes {each} forward passes, and there are {prompts} prompts",
                hint=f"--max-forwards {each * prompts}, or fewer --steps",
            )

    def to_json(self) -> Mapping[str, Any]:
        """What was spent."""
        counts = {"forwards": self.forwards, "decodes": self.decodes, "verifier_calls": self.verifier_calls}
        return {**counts, "seconds": round(self.seconds, 2)}


def forwards_of(schedule: Schedule | None, steps: int, branches: int, guidance: float) -> int:
    """Forward passes of the denoiser for one image: both branches of a guided step count."""
    guided = branches > 1 and guidance > 1
    if schedule is None or schedule.steps != steps:
        return steps * (2 if guided else 1)
    return sum(2 if one and guided else 1 for one in schedule.guided)
