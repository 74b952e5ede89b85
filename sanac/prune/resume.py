"""Resume state of a scoring run: a stopped run continues at the block it had reached within a sampler step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sanac.core.confined import ConfinedPath
from sanac.nn.calibration.sampling import SweepProgress
from sanac.nn.save_tensors import save_tensors

_PAUSE = 2.0  # least seconds between two saves
_SHARE = 50.0  # least pause as a multiple of the last save's duration: saving takes at most 1/50 of the time


@dataclass(frozen=True, slots=True)
class ResumeState:
    """Recorded metric values, velocities of the finished steps, and the position inside the unfinished step."""

    values: Tensor
    velocities: tuple[Tensor, ...]
    progress: SweepProgress | None = None
    finished: bool = False


@dataclass
class ResumeFile:
    """The resume file of one chunk of prompts; `key` identifies its job."""

    path: ConfinedPath
    key: str
    _due: float = field(default_factory=lambda: time.monotonic() + _PAUSE)

    @property
    def due(self) -> bool:
        """Whether the next save is due."""
        return time.monotonic() >= self._due

    def save(self, so_far: ResumeState) -> None:
        """Write the state atomically: flush, then rename over the previous file."""
        since = time.monotonic()
        metadata = {"key": self.key, "finished": str(so_far.finished), "step": "", "block": ""}
        tensors = {"values": so_far.values}
        if so_far.velocities:
            tensors["velocities"] = torch.stack(so_far.velocities)
        if so_far.progress:
            metadata |= {"step": str(so_far.progress.step), "block": str(so_far.progress.block)}
            tensors |= {f"state.{n}": state for n, state in enumerate(so_far.progress.states)}
        self.path.parent.mkdir(exist_ok=True)
        save_tensors(tensors, self.path, metadata)
        now = time.monotonic()
        self._due = now + max(_PAUSE, _SHARE * (now - since))

    def load(self, shape: Sequence[int]) -> ResumeState | None:
        """The saved state, or None if it is missing, unreadable, or of another job or shape."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                values = file.get_tensor("values")
                if metadata.get("key") != self.key or values.shape != tuple(shape):
                    return None
                velocities = tuple(file.get_tensor("velocities")) if "velocities" in names else ()
                progress = None
                if metadata["step"]:
                    count = sum(name.startswith("state.") for name in names)
                    states = [file.get_tensor(f"state.{number}") for number in range(count)]
                    progress = SweepProgress(int(metadata["step"]), int(metadata["block"]), states)
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        return ResumeState(values, velocities, progress, metadata["finished"] == "True")
