"""The learning rate schedule: linear warm-up, then constant or cosine decay to a floor."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate over a run of `steps`."""

    peak: float
    steps: int
    warmup: int = 0
    shape: Literal["cosine", "constant"] = "cosine"
    floor: float = 0.02  # final rate as a share of the peak

    def at(self, step: int) -> float:
        """Learning rate at step number `step`, counted from zero."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.shape == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup) / max(1, self.steps - 1 - self.warmup))
        return self.peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)
