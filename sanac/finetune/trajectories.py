"""The teacher's trajectories as training examples: the transformer's input and output at every step of the sampler.

All branches of guidance are recorded. A picture sampled in 20 steps costs 40 forward passes of the teacher and gives
20 examples with the caption and 20 without, so the teacher never runs again for the sake of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture
from sanac.core.safetensors_header import read_header
from sanac.nn.calibration.latents import LatentFolder
from sanac.nn.calibration.tensor_files import Shape, TensorFile, open_tensor_file
from sanac.nn.streaming import map_tensor

STORED = torch.float16


@dataclass
class StepRecord:
    """Collects the inputs and outputs of the steps of some pictures, to be stored with their latents."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    timesteps: list[float]

    @classmethod
    def empty(cls) -> "StepRecord":
        """A record of no steps."""
        return cls([], [], [])

    def __call__(self, timestep: Tensor, latents: Tensor, outputs: Sequence[Tensor]) -> None:
        """Add a step: the transformer's inputs, and its output on each branch of guidance."""
        self.timesteps.append(float(timestep))
        self.inputs.append(latents.to(STORED).cpu())
        self.outputs.append(torch.stack([output.to(STORED) for output in outputs], dim=1).cpu())

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: inputs (n, steps, ...), outputs (n, steps, branches, ...), timesteps (1, steps)."""
        found = {"inputs": torch.stack(self.inputs, dim=1), "outputs": torch.stack(self.outputs, dim=1)}
        for name, values in found.items():
            if not torch.isfinite(values).all():
                raise InvalidInput(f"the teacher's {name} exceed fp16", hint="--targets noised")
        return found | {"timesteps": torch.tensor([self.timesteps])}


@dataclass(frozen=True)
class Trajectories:
    """The recorded steps in the files of some latents, memory-mapped."""

    files: tuple[TensorFile, ...]

    @cached_property
    def timesteps(self) -> Tensor:
        """The timestep of each step, fp32."""
        return self.files[0].read("timesteps")[0].float()

    @property
    def branches(self) -> int:
        """Branches of guidance: 2, the first without the caption, or only the one with it."""
        return self.files[0].tensors["outputs"].shape[2]

    @cached_property
    def _parts(self) -> list[Mapping[str, Tensor]]:
        return [{name: map_tensor(file.tensors[name]) for name in ("inputs", "outputs")} for file in self.files]

    def pick(self, pictures: Sequence[int], moments: Sequence[int], dropped: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """Inputs and outputs (B, channels, height, width) at these steps; without the caption where `dropped`."""
        inputs, outputs = [], []
        for picture, moment, drop in zip(pictures, moments, dropped, strict=True):
            part, place = self._place(picture)
            inputs.append(part["inputs"][place, moment].float())
            outputs.append(part["outputs"][place, moment, 0 if drop else -1].float())
        return torch.stack(inputs), torch.stack(outputs)

    def _place(self, picture: int) -> tuple[Mapping[str, Tensor], int]:
        for part in self._parts:
            if picture < len(part["inputs"]):
                return part, picture
            picture -= len(part["inputs"])
        raise AssertionError("picture number out of range")


def open_trajectories(latents: LatentFolder, architecture: Architecture) -> Trajectories | None:
    """The trajectories beside the latents of a folder; None if it has none."""
    if "inputs" not in read_header(Path(latents.files[0].path)).tensors:
        return None
    channels, size = architecture.in_channels, latents.size
    files = []
    for file in latents.files:
        timesteps = read_header(file.path).tensors.get("timesteps")
        steps = timesteps.shape[-1] if timesteps and timesteps.shape else None
        shapes: dict[str, Shape] = {
            "inputs": (len(file), steps, channels, *size),
            "outputs": (len(file), steps, None, channels, *size),
            "timesteps": (1, steps),
        }
        files.append(open_tensor_file(file.path, shapes, "trajectories"))
    return Trajectories(tuple(files))
